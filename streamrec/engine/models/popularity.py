"""Decayed popularity: how often an item was wanted lately, each event counting half as much after one half-life."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.engine.arrays.batch import NOBODY, NOTHING, Array, Bool, Float32, Int32, MicroBatch, Queries
from streamrec.engine.arrays.top_k import best
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.models import ModelParts
from streamrec.engine.models.neighbour_table import DecayClock


class Popularity:
    """score(item) = log sum over its events of 2 ** -(age / half-life)."""

    def __init__(self, name: str, half_life_s: float, capacity: int) -> None:
        self.name = name
        self.mass = np.zeros(capacity, np.float64)
        self.rows = 0
        self._clock = DecayClock(half_life_s)

    @classmethod
    def build(cls, parts: ModelParts, half_life_s: float) -> Popularity:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, half_life_s, parts.capacity)

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        known = np.zeros(items.shape)
        there = (items != NOTHING) & (items < len(self.mass))
        known[there] = self.mass[items[there]]
        with np.errstate(divide="ignore"):
            return np.log(known).astype(np.float32)

    def learn(self, batch: MicroBatch) -> None:
        examples = batch.examples
        wanted = np.flatnonzero(examples.label[: batch.learned] == 1)
        if len(wanted) == 0:
            return
        items, ts = examples.item[wanted], examples.ts[wanted]
        factor = self._clock.rescale(int(ts.max()))
        if factor is not None:
            self.mass *= factor
        self.rows = max(self.rows, int(items.max()) + 1)
        np.add.at(self.mass, items, self._clock.gains(ts, examples.weight[wanted]))

    def top(self, k: int, hidden: Bool = NOBODY) -> Int32:
        """The `k` most popular items that are not hidden, best first, at most; ties go to the item known for longer."""
        return best(self.mass[: self.rows], k, hidden, 0.0)

    def forget(self, items: Int32) -> None:
        self.mass[items] = 0.0

    def served(self) -> dict[str, Rows]:
        return {"mass": self.mass[: self.rows]}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self.mass = arrays["mass"]
        self.rows = len(self.mass)

    def state(self) -> dict[str, Array]:
        return {"mass": self.mass[: self.rows].copy(), "origin": self._clock.state()}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.mass[: self.rows] = 0.0
        self.rows = len(arrays["mass"])
        self.mass[: self.rows] = arrays["mass"]
        self._clock.restore(arrays["origin"])
