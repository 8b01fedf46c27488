"""The ads that may be shown, those that are expected to bring most first.

What is spent or ahead of its plan differs by partition, so that it comes as excluded with each query.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Excluded, Int32, MicroBatch, Queries
from streamrec.engine.retrieval import RetrieverParts
from streamrec.engine.retrieval.popular import first_allowed


class Offered(Protocol):
    """Something that knows the ads there are."""

    @property
    def revision(self) -> tuple[int, int]:
        """Another one when their order may be another."""

    def best(self, k: int) -> Int32:
        """The ads that bring most when a user likes them as much as is usual, best first, at most `k`."""


class AdRetriever:
    """Looked up whenever bids or chances changed; at most `most` ads are looked at."""

    def __init__(self, name: str, ads: Offered, most: int = 4_096) -> None:
        self.name = name
        self._ads = ads
        self._most = most
        self._best: tuple[tuple[int, int], Int32] | None = None

    @classmethod
    def build(cls, parts: RetrieverParts) -> AdRetriever:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.ads)

    def candidates(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        if self._best is None or self._best[0] != self._ads.revision:
            self._best = self._ads.revision, self._ads.best(self._most)
        best = self._best[1]
        out = np.full((len(queries.ts[rows]), k), NOTHING, np.int32)
        first_allowed(best[~excluded.hides(best)], excluded.items, excluded.starts, out)
        return out

    def learn(self, batch: MicroBatch) -> None:
        """The ads learn by themselves."""
