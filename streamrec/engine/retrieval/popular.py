"""The most popular items of late: the same few for every query."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from streamrec.engine.arrays.batch import NOBODY, NOTHING, Bool, Excluded, Int32, MicroBatch, Queries
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.retrieval import RetrieverParts


class Ranked(Protocol):
    """Something that knows its top items."""

    def top(self, k: int, hidden: Bool = NOBODY) -> Int32:
        """The `k` best items that are not hidden, best first, at most; items past the end of `hidden` are not."""


SPARE = 512
"""Items looked up beyond those asked for, so that a user who has seen the most popular finds others."""


class Popular:
    """The top of a popularity, looked up once per learning cut."""

    def __init__(self, name: str, popularity: Ranked) -> None:
        self.name = name
        self._popularity = popularity
        self._top: Int32 | None = None
        self._barred = NOBODY

    @classmethod
    def build(cls, parts: RetrieverParts) -> Popular:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.model)

    def candidates(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        spare = SPARE if len(excluded.items) else 0
        top = self._looked_up(k + spare, excluded)
        if not spare:
            return np.broadcast_to(top[:k], (len(queries.ts[rows]), k))
        out = np.full((len(queries.ts[rows]), k), NOTHING, np.int32)
        first_allowed(top, excluded.items, excluded.starts, out)
        return out

    def _looked_up(self, wanted: int, excluded: Excluded) -> Int32:
        """The top items that are not barred, at least as many as wanted, NOTHING behind them."""
        if not excluded.lasting:
            return _filled(self._popularity.top(wanted, excluded.barred), wanted)
        if self._top is None or len(self._top) < wanted or self._barred is not excluded.barred:
            self._barred = excluded.barred
            self._top = _filled(self._popularity.top(wanted, self._barred), wanted)
        return self._top

    def learn(self, batch: MicroBatch) -> None:
        self._top = None


def _filled(top: Int32, wanted: int) -> Int32:
    return np.pad(top, (0, wanted - len(top)), constant_values=NOTHING)


@compiled
def first_allowed(top, excluded, starts, out):  # type: ignore[no-untyped-def]
    """The first of `top` that are not excluded for each query, into `out` (rows, k)."""
    for q in range(len(out)):
        unwanted = set(excluded[starts[q] : starts[q + 1]])
        used = 0
        for item in top:
            if used == out.shape[1] or item == NOTHING:
                break
            if item not in unwanted:
                out[q, used] = item
                used += 1
