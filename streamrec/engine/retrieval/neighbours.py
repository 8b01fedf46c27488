"""Neighbours of what the user touched: by co-visitation, by transitions, by whatever spreads from item to item."""

from __future__ import annotations

from typing import Protocol

from streamrec.engine.arrays.batch import Excluded, Int32, MicroBatch, Queries
from streamrec.engine.retrieval import RetrieverParts


class Spreading(Protocol):
    """Something that knows which items follow from a query's past."""

    def strongest(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        """The items that score best for each query and are not excluded, best first, (rows, k)."""


class Neighbours:
    """The strongest neighbours in a model's own table."""

    def __init__(self, name: str, model: Spreading) -> None:
        self.name = name
        self._model = model

    @classmethod
    def build(cls, parts: RetrieverParts) -> Neighbours:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.model)

    def candidates(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        return self._model.strongest(queries, rows, k, excluded)

    def learn(self, batch: MicroBatch) -> None:
        """The table is the model's, which learns it."""
