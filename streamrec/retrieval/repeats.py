"""The user's own items, newest first: people come back."""

from __future__ import annotations

import numpy as np

from streamrec.compiled import compiled
from streamrec.features.batch import NOTHING, Int32, MicroBatch, Queries


class OwnHistory:
    """The distinct items of a query's past."""

    def __init__(self, name: str) -> None:
        self.name = name

    def candidates(self, queries: Queries, rows: slice, k: int) -> Int32:
        out = np.full((len(queries.ts[rows]), k), NOTHING, np.int32)
        _distinct(queries.items[rows], out)
        return out

    def learn(self, batch: MicroBatch) -> None:
        """The past is in the query."""


@compiled
def _distinct(past, out):  # type: ignore[no-untyped-def]
    for q in range(len(past)):
        used = 0
        for place in range(past.shape[1]):
            item = past[q, place]
            if item == NOTHING or used == out.shape[1]:
                continue
            known = False
            for earlier in range(used):
                known = known or out[q, earlier] == item
            if not known:
                out[q, used] = item
                used += 1
