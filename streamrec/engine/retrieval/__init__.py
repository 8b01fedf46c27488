"""Ways to find items worth scoring, one file each, and their union.

A retriever proposes a few items per query, best first; every model then scores all of what was proposed by anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Excluded, Int32, MicroBatch, Queries
from streamrec.engine.arrays.compiled import compiled

if TYPE_CHECKING:
    from streamrec.engine.items.catalogue import Catalogue
    from streamrec.engine.items.item_table import ItemTable
    from streamrec.engine.retrieval.ads import Offered


class Retriever(Protocol):
    """What every retriever does."""

    name: str

    def candidates(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        """At most `k` items per query, best first, (rows, k), NOTHING where there are fewer. Changes nothing.

        None of them is `excluded` for its query: a user who has seen much must not be left with the few that remain.
        """

    def learn(self, batch: MicroBatch) -> None:
        """Take the examples of a micro-batch; a retriever that searches a model's own state has nothing to do.

        What was looked up is looked up anew afterwards: so where a model follows another, an empty one is given after
        each update.
        """


@dataclass(frozen=True, slots=True)
class RetrieverParts:
    """What a retriever may be built of."""

    name: str
    models: Mapping[str, Any]
    """Every model there is, by name; each retriever asks its own for what it searches."""
    items: ItemTable
    catalogue: Catalogue
    ads: Offered
    reads: str = ""
    """The model that it is listed to search, if any."""

    @property
    def model(self) -> Any:
        """The model that it searches."""
        return self.models[self.reads]


class CandidateUnion:
    """Joins proposals of items with an index below `capacity`."""

    def __init__(self, capacity: int) -> None:
        self._stamp = np.zeros(capacity, np.int64)
        self._stamps = 0

    def __call__(self, proposals: Sequence[Int32], excluded: Excluded, width: int) -> Int32:
        """Everything proposed for each query and not excluded, each item once, (rows, width).

        Proposals are taken in turns, the best of each retriever first, so that a full row loses the worst of each.
        """
        widest = max(proposal.shape[1] for proposal in proposals)
        stacked = np.full(
            (len(proposals), len(proposals[0]), widest), NOTHING, np.int32
        )  # (retrievers, rows, proposed)
        for source, proposal in enumerate(proposals):
            stacked[source, :, : proposal.shape[1]] = proposal
        out = np.full((stacked.shape[1], width), NOTHING, np.int32)
        _union(stacked, excluded.items, excluded.starts, excluded.barred, self._stamp, self._stamps + 1, out)
        self._stamps += len(out)
        return out


@compiled
def _union(proposals, excluded, excluded_starts, barred, stamp, first, out):  # type: ignore[no-untyped-def]
    for q in range(proposals.shape[1]):
        for at in range(excluded_starts[q], excluded_starts[q + 1]):
            if excluded[at] != NOTHING:
                stamp[excluded[at]] = first + q
        used = 0
        for place in range(proposals.shape[2]):
            for source in range(proposals.shape[0]):
                item = proposals[source, q, place]
                if item == NOTHING or (item < len(barred) and barred[item]):
                    continue
                if stamp[item] != first + q and used < out.shape[1]:
                    stamp[item] = first + q
                    out[q, used] = item
                    used += 1
