"""What everybody wants lately: the same few items for every query."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from streamrec.features.batch import NOTHING, Int32, MicroBatch, Queries


class Ranked(Protocol):
    """Something that knows its top items."""

    def top(self, k: int) -> Int32:
        """The `k` best items, best first, at most."""


class Popular:
    """The top of a popularity, looked up once per learning cut."""

    def __init__(self, name: str, popularity: Ranked) -> None:
        self.name = name
        self._popularity = popularity
        self._top: Int32 | None = None

    def candidates(self, queries: Queries, rows: slice, k: int) -> Int32:
        if self._top is None or len(self._top) < k:
            top = self._popularity.top(k)
            self._top = np.pad(top, (0, k - len(top)), constant_values=NOTHING)
        return np.broadcast_to(self._top[:k], (len(queries.ts[rows]), k))

    def learn(self, batch: MicroBatch) -> None:
        self._top = None
