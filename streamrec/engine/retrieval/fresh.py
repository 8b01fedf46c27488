"""What has just come into the catalogue and had few chances yet: the latest first, the same for every query.

No model knows such an item, so no other retriever would propose it. Once it was shown often enough it has to stand for
itself: whoever liked it has taught the models by then.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Excluded, Int32, MicroBatch, Queries
from streamrec.engine.retrieval import RetrieverParts
from streamrec.engine.retrieval.popular import SPARE, first_allowed

CHANCES = 100
"""Times on a slate."""


class NewArrivals(Protocol):
    """Something that knows what is new."""

    revision: int
    """Another one when there is something newer."""

    def newest(self, shown_below: int) -> Int32:
        """Items that were shown less often than that, the latest first."""


class Fresh:
    """Looked up once per learning cut."""

    def __init__(self, name: str, new_arrivals: NewArrivals) -> None:
        self.name = name
        self._new_arrivals = new_arrivals
        self._newest: Int32 | None = None
        self._revision = 0

    @classmethod
    def build(cls, parts: RetrieverParts) -> Fresh:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.catalogue)

    def candidates(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        if self._newest is None or self._revision != self._new_arrivals.revision:
            self._revision = self._new_arrivals.revision
            self._newest = self._new_arrivals.newest(CHANCES)
        newest = self._newest[~excluded.hides(self._newest)][: k + SPARE]
        out = np.full((len(queries.ts[rows]), k), NOTHING, np.int32)
        first_allowed(newest, excluded.items, excluded.starts, out)
        return out

    def learn(self, batch: MicroBatch) -> None:
        self._newest = None
