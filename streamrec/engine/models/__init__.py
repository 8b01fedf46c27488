"""Anything that learns and scores (user, item) pairs; one file each, and none knows another.

Scores are log masses: a larger score means more wanted, -inf means that the model knows nothing of this pair. The
fusion turns each model's scores into shares over the candidates of a query, so only differences within a query count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from streamrec.engine.arrays.batch import Array, Float32, Int32, MicroBatch, Queries
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.following.served import Served

if TYPE_CHECKING:
    from streamrec.engine.items.item_table import ItemTable
    from streamrec.engine.trending.table import TrendSource


class Model(Served, Protocol):
    """What every model does; `served` and `serve` are for processes that answer by what another one learns."""

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


@runtime_checkable
class Twin(Protocol):
    """A model whose arrays others would learn just so: where a list of models lacks them, it takes theirs over."""

    twins: ClassVar[Sequence[str]]
    """Their names, its own among them or not."""


@dataclass(frozen=True, slots=True)
class ModelParts:
    """What a model may be built of."""

    name: str
    items: ItemTable
    """The items in circulation by index, with their categories and content vectors."""
    trends: Callable[[], TrendSource]
    """What tells the trends; asked only by a model that needs them."""
    device: Callable[[], str] = lambda: "cpu"
    """Where torch learns, "cpu" or "cuda"; asked only by a model that has loaded torch."""
    seed: int = 0
    """Every random draw is a function of this and of the examples."""
    weighted: bool = False
    """Whether what is learned of a slate counts by how unlikely the slate was."""
    models: Mapping[str, Model] = field(default_factory=dict)
    """Those built before this one, by name: what they learn may be read."""
    serving: bool = False
    """It will only serve what another one learns, and needs nothing to learn with."""

    @property
    def capacity(self) -> int:
        """Item indices are below this."""
        return self.items.capacity
