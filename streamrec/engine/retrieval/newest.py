"""What is new: the items that came last, by the log or by the catalogue, the same for every query."""

from __future__ import annotations

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Excluded, Int32, MicroBatch, Queries
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.retrieval import RetrieverParts
from streamrec.engine.retrieval.popular import SPARE, first_allowed


class Newest:
    """The latest first; of equals the one with the lower index."""

    def __init__(self, name: str, items: ItemTable) -> None:
        self.name = name
        self._items = items

    @classmethod
    def build(cls, parts: RetrieverParts) -> Newest:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.items)

    def candidates(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        there = np.arange(len(self._items), dtype=np.int32)
        there = there[~excluded.hides(there)]
        first_ts = self._items.first_ts[there]
        wanted = k + SPARE
        if len(there) > wanted:
            near = np.argpartition(-first_ts, wanted - 1)[:wanted]
            there, first_ts = there[near], first_ts[near]
        newest = there[np.lexsort((there, -first_ts))]
        out = np.full((len(queries.ts[rows]), k), NOTHING, np.int32)
        first_allowed(newest, excluded.items, excluded.starts, out)
        return out

    def learn(self, batch: MicroBatch) -> None:
        """There is nothing to learn: when an item came is known."""
