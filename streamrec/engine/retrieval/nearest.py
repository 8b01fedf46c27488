"""Nearest by learned vectors: the items whose vectors point where the user's does.

Exact inner-product search over the items in circulation, the most popular `pool` of them, so that the cost per query
stays the same however large the catalogue grows.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Excluded, Float32, Int32, MicroBatch, Queries


class Vectors(Protocol):
    """A model with a vector per user and per item."""

    def users(self, queries: Queries, rows: slice) -> Float32:
        """(rows, width)"""

    def item_vectors(self) -> Float32:
        """(items, width)"""

    def item_bias(self) -> Float32:
        """(items,)"""


class Circulating(Protocol):
    """Something that knows which items to search among."""

    def top(self, k: int) -> Int32:
        """At most `k` items."""


class Nearest:
    """Looks among the `pool` items that `popularity` ranks first, chosen anew at every learning cut."""

    def __init__(self, name: str, vectors: Vectors, popularity: Circulating, pool: int = 2_048) -> None:
        self.name = name
        self.pool = pool
        self._vectors = vectors
        self._popularity = popularity
        self._searched: tuple[Int32, Float32, Float32] | None = None  # items, their vectors, their bias

    def candidates(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        items, vectors, bias = self._pool()
        asked = len(queries.ts[rows])
        if len(items) == 0:
            return np.full((asked, k), NOTHING, np.int32)
        hidden = excluded.hides(items)
        users = self._vectors.users(queries, rows)  # (rows, width)
        out = np.full((asked, k), NOTHING, np.int32)
        for at in range(asked):  # one product per query: its bits do not depend on how many came with it
            if not users[at].any():  # nothing is known of what this user wants
                continue
            scores = vectors @ users[at] + bias  # (pool,)
            scores[hidden] = -np.inf
            unwanted = excluded.items[excluded.starts[at] : excluded.starts[at + 1]]
            if len(unwanted):
                scores[np.isin(items, unwanted)] = -np.inf
            near = np.argpartition(scores, max(len(items) - k, 0))[max(len(items) - k, 0) :]
            order = near[np.argsort(-scores[near], kind="stable")]
            order = order[scores[order] > -np.inf]
            out[at, : len(order)] = items[order]
        return out

    def learn(self, batch: MicroBatch) -> None:
        self._searched = None

    def _pool(self) -> tuple[Int32, Float32, Float32]:
        if self._searched is None:
            bias = self._vectors.item_bias()
            items = self._popularity.top(self.pool)
            items = np.sort(items[items < len(bias)])
            vectors = self._vectors.item_vectors()[items] if len(items) else np.empty((0, 1), np.float32)
            self._searched = items, vectors, bias[items]
        return self._searched
