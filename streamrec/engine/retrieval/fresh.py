"""What has just come into the catalogue and had few chances yet: the latest first, the same for every query.

No model knows such an item, so no other retriever would propose it. Once it was shown often enough it has to stand for
itself: whoever liked it has taught the models by then.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from streamrec.engine.arrays.batch import NOBODY, NOTHING, Excluded, Int32, MicroBatch, Queries
from streamrec.engine.retrieval import RetrieverParts
from streamrec.engine.retrieval.popular import SPARE, first_allowed

CHANCES = 100
"""Times on a slate."""


class NewArrivals(Protocol):
    """Something that knows what is new."""

    revision: int
    """Another one when there is something newer."""

    def newest(self, k: int, shown_below: int) -> Int32:
        """Items that were shown less often than that, the latest first, at most `k`."""


class Fresh:
    """Looked up once per learning cut."""

    def __init__(self, name: str, new_arrivals: NewArrivals) -> None:
        self.name = name
        self._new_arrivals = new_arrivals
        self._newest: Int32 | None = None
        self._barred = NOBODY
        self._asked = 0, 0

    @classmethod
    def build(cls, parts: RetrieverParts) -> Fresh:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.catalogue)

    def candidates(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        if not excluded.lasting:
            return self._allowed(self._looked_up(k, excluded), queries, rows, k, excluded)
        asked = k + SPARE, self._new_arrivals.revision
        if self._newest is None or self._asked != asked or self._barred is not excluded.barred:
            self._asked, self._barred = asked, excluded.barred
            self._newest = self._looked_up(k, excluded)
        return self._allowed(self._newest, queries, rows, k, excluded)

    def _looked_up(self, k: int, excluded: Excluded) -> Int32:
        """The latest that are not barred, with some to spare."""
        newest = self._new_arrivals.newest(k + SPARE + int(np.count_nonzero(excluded.barred)), CHANCES)
        return newest[~excluded.hides(newest)]

    def _allowed(self, newest: Int32, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        out = np.full((len(queries.ts[rows]), k), NOTHING, np.int32)
        first_allowed(newest, excluded.items, excluded.starts, out)
        return out

    def learn(self, batch: MicroBatch) -> None:
        self._newest = None
