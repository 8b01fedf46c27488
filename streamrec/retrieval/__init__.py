"""Ways to find items worth scoring, one file each, and their union.

A retriever proposes a few items per query, best first; every model then scores all of what was proposed by anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from streamrec.compiled import compiled
from streamrec.features.batch import NOTHING, Int32, Int64, MicroBatch, Queries


class Retriever(Protocol):
    """What every retriever does."""

    name: str

    def candidates(self, queries: Queries, rows: slice, k: int) -> Int32:
        """At most `k` items per query, best first, (rows, k), NOTHING where there are fewer. Changes nothing."""

    def learn(self, batch: MicroBatch) -> None:
        """Take the examples of a micro-batch; a retriever that searches a model's own state has nothing to do."""


def union(proposals: Sequence[Int32], excluded: Int32, excluded_starts: Int64, capacity: int, width: int) -> Int32:
    """Everything proposed for each query, each item once, (rows, width).

    Proposals are taken in turns, everybody's best first, so that a full row loses the worst of each. `excluded` holds
    the items that must not be shown, end to end, row q's from `excluded_starts[q]` to `excluded_starts[q + 1]`.
    """
    stacked = np.stack([_padded(proposal, max(p.shape[1] for p in proposals)) for proposal in proposals])
    out = np.full((stacked.shape[1], width), NOTHING, np.int32)
    _union(stacked, excluded, excluded_starts, np.zeros(capacity, np.int32), out)
    return out


def _padded(proposal: Int32, width: int) -> Int32:
    missing = width - proposal.shape[1]
    return np.pad(proposal, ((0, 0), (0, missing)), constant_values=NOTHING) if missing else proposal


@compiled
def _union(proposals, excluded, excluded_starts, stamp, out):  # type: ignore[no-untyped-def]
    for q in range(proposals.shape[1]):
        for at in range(excluded_starts[q], excluded_starts[q + 1]):
            if excluded[at] != NOTHING:
                stamp[excluded[at]] = q + 1
        used = 0
        for place in range(proposals.shape[2]):
            for source in range(proposals.shape[0]):
                item = proposals[source, q, place]
                if item != NOTHING and stamp[item] != q + 1 and used < out.shape[1]:
                    stamp[item] = q + 1
                    out[q, used] = item
                    used += 1
