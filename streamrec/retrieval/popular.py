"""What everybody wants lately: the same few items for every query."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from streamrec.compiled import compiled
from streamrec.features.batch import NOBODY, NOTHING, Excluded, Int32, MicroBatch, Queries


class Ranked(Protocol):
    """Something that knows its top items."""

    def top(self, k: int) -> Int32:
        """The `k` best items, best first, at most."""


SPARE = 512
"""Items looked up beyond those asked for, so that who has seen the most popular finds others."""


class Popular:
    """The top of a popularity, looked up once per learning cut."""

    def __init__(self, name: str, popularity: Ranked) -> None:
        self.name = name
        self._popularity = popularity
        self._top: Int32 | None = None
        self._barred = NOBODY

    def candidates(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        spare = SPARE if len(excluded.items) else 0
        if self._top is None or len(self._top) < k + spare or self._barred is not excluded.barred:
            self._barred = excluded.barred
            top = self._popularity.top(k + spare + int(np.count_nonzero(self._barred)))
            top = top[~excluded.hides(top)][: k + spare]
            self._top = np.pad(top, (0, k + spare - len(top)), constant_values=NOTHING)
        if not spare:
            return np.broadcast_to(self._top[:k], (len(queries.ts[rows]), k))
        out = np.full((len(queries.ts[rows]), k), NOTHING, np.int32)
        first_allowed(self._top, excluded.items, excluded.starts, out)
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
