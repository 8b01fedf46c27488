"""Transitions: what comes next after what, within a session.

    score(item) = log sum over the session's last items j of 1 / (1 + steps back to j) * n(j, item) / n(j)

with decayed counts n(j, item) of `item` coming one, two, ... steps after j, each step counting less. Sequential rules
(Ludewig, Jannach: Evaluation of session-based recommendation algorithms, UMUAI 2018); with a reach of one step, a
Markov chain.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.engine.arrays.batch import Array, Excluded, Float32, Int32, MicroBatch, Queries
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.models import ModelParts
from streamrec.engine.models.neighbour_table import NeighbourTable

HALF_LIFE_S = 7 * 86_400.0


class Transitions:
    """Joins an item with those before it in the session, one way."""

    def __init__(
        self, name: str, half_life_s: float, capacity: int, slots: int = 96, steps: int = 10, sources: int = 3
    ) -> None:
        self.name = name
        self.table = NeighbourTable(capacity, slots, half_life_s)
        self._learn_fade = 1.0 / (1.0 + np.arange(steps, dtype=np.float64))
        self._fade = 0.25 ** np.arange(sources, dtype=np.float64)

    @classmethod
    def build(cls, parts: ModelParts) -> Transitions:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, HALF_LIFE_S, parts.capacity)

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        return self.table.score(queries.items[rows], queries.steps[rows], queries.reach(rows), self._fade, False, items)

    def strongest(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        """The items that score best for each query and are not excluded, best first, (rows, k)."""
        return self.table.strongest(
            queries.items[rows], queries.steps[rows], queries.reach(rows), self._fade, False, k, excluded
        )

    def learn(self, batch: MicroBatch) -> None:
        examples = batch.examples
        wanted = np.flatnonzero(examples.label[: batch.learned] == 1)
        self.table.learn(
            examples.item[wanted],
            examples.ts[wanted],
            examples.recent[wanted],
            examples.recent_steps[wanted],
            examples.session[wanted],
            examples.weight[wanted],
            self._learn_fade,
            mutual=False,
        )

    def forget(self, items: Int32) -> None:
        self.table.forget(items)

    def served(self) -> dict[str, Rows]:
        return self.table.served()

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self.table.serve(arrays, changed)

    def touched(self, since: int) -> tuple[int, ChangedRows]:
        return self.table.touched(since)

    def state(self) -> dict[str, Array]:
        return self.table.state()

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.table.restore(arrays)
