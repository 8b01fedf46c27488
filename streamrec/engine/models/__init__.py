"""Anything that learns and scores (user, item) pairs; one file each, and none knows another.

Scores are log masses: a larger score means more wanted, -inf means that the model knows nothing of this pair. The
fusion turns each model's scores into shares over the candidates of a query, so only differences within a query count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from streamrec.engine.arrays.batch import Array, Float32, Int32, MicroBatch, Queries
from streamrec.engine.arrays.feedback import SlateFeedback


class Model(Protocol):
    """What every model does."""

    name: str

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        """Log mass of each candidate, (rows, candidates) float32, -inf where nothing is known.

        `rows` selects the queries, `items` are their candidates, (rows, candidates), NOTHING where there is none.
        Changes nothing: unknown users and items get no state by being scored.
        """

    def learn(self, batch: MicroBatch) -> None:
        """Take the examples of a micro-batch, in log order. The batch is only read."""

    def forget(self, items: Int32) -> None:
        """These indices will name other items soon."""

    def state(self) -> dict[str, Array]:
        """What a snapshot holds: named arrays, owned by the caller."""

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`; of what was learned before it, nothing stays."""


@runtime_checkable
class Tracing(Protocol):
    """A model that learns from slates too: it leaves a trace with each slate, and gets it back with the feedback."""

    name: str

    def trace(self, queries: Queries, query: int, items: Int32) -> Int32:
        """What to keep of these items of one query, (items, any)."""

    def learn_outcomes(self, feedback: Sequence[SlateFeedback]) -> None:
        """Take the feedback on slates, in log order; each carries the traces of its seen places, by model."""
