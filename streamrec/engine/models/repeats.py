"""Own history: people come back to what they had, the sooner the likelier, and some things more than others.

    score(item) = log r(item) + log sum over the user's visits to it of (age + 1 min) ** -POWER

with r(item) the learned share of this item's events that were returns. Recency power laws of repeat consumption:
Anderson et al.: The dynamics of repeat consumption, WWW 2014.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Array, Excluded, Float32, Int32, MicroBatch, Queries
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.models import ModelParts

POWER = 0.4
PRIOR_EVENTS = 20.0
"""An item's own share of returns counts as much as that of all items after so many events."""


class Repeats:
    """Scores only what the user touched before."""

    def __init__(self, name: str, capacity: int) -> None:
        self.name = name
        self.events = np.zeros(capacity, np.float32)
        self.returns = np.zeros(capacity, np.float32)
        self.rows = 0

    @classmethod
    def build(cls, parts: ModelParts) -> Repeats:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.capacity)

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        out = np.full(items.shape, -np.inf, np.float32)
        _score(queries.items[rows], queries.ages_s[rows], items, self.events, self.returns, self._share(), out)
        return out

    def strongest(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        """The items of the user's past that score best and are not excluded, best first, (rows, k)."""
        past = queries.items[rows]
        own = np.full(past.shape, NOTHING, np.int32)
        _distinct(
            past, excluded.items, excluded.starts, excluded.barred, own
        )  # newest first: so stay those that score alike
        order = np.argsort(-self.score(queries, rows, own), axis=1, kind="stable")[:, :k]
        best = np.full((len(own), k), NOTHING, np.int32)
        best[:, : order.shape[1]] = np.take_along_axis(own, order, axis=1)
        return best

    def learn(self, batch: MicroBatch) -> None:
        examples = batch.examples
        for e in np.flatnonzero(examples.label[: batch.learned] == 1).tolist():
            item = examples.item[e]
            self.events[item] += 1
            self.returns[item] += bool((examples.recent[e] == item).any())
            self.rows = max(self.rows, int(item) + 1)

    def _share(self) -> float:
        return float((self.returns[: self.rows].sum() + 1.0) / (self.events[: self.rows].sum() + 2.0))

    def forget(self, items: Int32) -> None:
        self.events[items] = 0
        self.returns[items] = 0

    def served(self) -> dict[str, Rows]:
        return {"events": self.events[: self.rows], "returns": self.returns[: self.rows]}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self.events, self.returns = arrays["events"], arrays["returns"]
        self.rows = len(self.events)

    def state(self) -> dict[str, Array]:
        return {"events": self.events[: self.rows].copy(), "returns": self.returns[: self.rows].copy()}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.events[: self.rows] = self.returns[: self.rows] = 0
        self.rows = len(arrays["events"])
        self.events[: self.rows] = arrays["events"]
        self.returns[: self.rows] = arrays["returns"]


@compiled
def _score(past, ages_s, items, events, returns, share, out):  # type: ignore[no-untyped-def]
    for q in range(len(past)):
        for c in range(items.shape[1]):
            item = items[q, c]
            if item == NOTHING:
                continue
            mass = 0.0
            for place in range(past.shape[1]):
                if past[q, place] == NOTHING:
                    continue
                if past[q, place] == item:
                    mass += (ages_s[q, place] + 60.0) ** -POWER
            if mass > 0.0:
                there = item < len(events)
                returned, visited = (returns[item], events[item]) if there else (np.float32(0.0), np.float32(0.0))
                out[q, c] = np.log(mass * ((returned + PRIOR_EVENTS * share) / (visited + PRIOR_EVENTS)))


@compiled
def _distinct(past, excluded, starts, barred, out):  # type: ignore[no-untyped-def]
    for q in range(len(past)):
        unwanted = excluded[starts[q] : starts[q + 1]]
        used = 0
        for place in range(past.shape[1]):
            item = past[q, place]
            if item == NOTHING or used == out.shape[1]:
                continue
            known = item < len(barred) and barred[item]
            for gone in unwanted:
                known = known or gone == item
            for earlier in range(used):
                known = known or out[q, earlier] == item
            if not known:
                out[q, used] = item
                used += 1
