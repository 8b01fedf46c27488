"""What gains: the demand that an item would see in the next windows if its growth went on.

    score(item) = log momentum(item)

with the momentum of `engine/trending/table.py`. Nothing is learned here: the source of trends fills the table. What is
stale by the time of the query is not used.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.engine.arrays.batch import NOBODY, NOTHING, Array, Bool, Float32, Int32, MicroBatch, Queries
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.models import ModelParts
from streamrec.engine.trending.table import TrendSource


class TrendModel:
    """Scores by the table that `source` fills; the source learns, is saved and restored through this model."""

    def __init__(self, name: str, source: TrendSource) -> None:
        self.name = name
        self._teller = source
        self._table = source.table

    @classmethod
    def build(cls, parts: ModelParts) -> TrendModel:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.trends())

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        unknown = (items == NOTHING) | self._table.stale_at(queries.ts[rows])[:, None]
        scores: Float32 = np.where(unknown, np.float32(-np.inf), self._table.log_momentum[items])
        return scores

    def learn(self, batch: MicroBatch) -> None:
        self._teller.learn(batch)

    def top(self, k: int, hidden: Bool = NOBODY) -> Int32:
        """The `k` items of most momentum that are not hidden, best first, at most."""
        return self._table.top(k, hidden)

    def forget(self, items: Int32) -> None:
        self._teller.forget(items)

    def served(self) -> dict[str, Rows]:
        return self._teller.served()

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self._teller.serve(arrays, changed)

    def state(self) -> dict[str, Array]:
        return self._teller.state()

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self._teller.restore(arrays)
