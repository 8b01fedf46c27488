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


POOL = 4_096
"""Items kept in order until the next learning cut; only where too few of them may be shown are others asked for."""
SPARE = 512
"""Items looked up beyond those asked for, so that a user who has seen the most popular finds others."""


class Popular:
    """The top of a popularity, looked up once per learning cut."""

    def __init__(self, name: str, popularity: Ranked) -> None:
        self.name = name
        self._popularity = popularity
        self._top: Int32 | None = None

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
        """The top items that are not barred, as many as wanted, NOTHING behind them."""
        if self._top is None:
            self._top = self._popularity.top(POOL)
        top = self._top[~excluded.hides(self._top)]
        if len(top) < wanted and len(self._top) == POOL:
            top = self._popularity.top(wanted, excluded.barred)
        out = np.full(wanted, NOTHING, np.int32)
        out[: len(top)] = top[:wanted]
        return out

    def learn(self, batch: MicroBatch) -> None:
        self._top = None


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
