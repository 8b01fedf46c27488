"""Orders made of scores: the best candidates first, and where a target stands.

Knows nothing of what the scores mean.
"""

from __future__ import annotations

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Bool, Float32, Float64, Int8, Int32, Int64
from streamrec.engine.arrays.compiled import compiled


def ranked(utility: Float32 | Float64, k: int) -> Int64:
    """Places of the `k` best candidates, best first, (rows, k), NOTHING past the last; ties stay in candidate order."""
    order = np.argsort(-utility, axis=1, kind="stable")[:, :k]
    return np.where(np.isfinite(np.take_along_axis(utility, order, axis=1)), order, NOTHING).astype(np.int64)


def ranks(scores: Float32, fill: Float32, items: Int32, targets: Int32) -> Int8:
    """Where each target stands in a list ordered by `scores` and filled up by `fill`: 1 to 20, 0 when further down.

    Args:
        scores: (lists, rows, candidates), -inf for what a list does not know; fill: (rows, candidates).
        items: (rows, candidates); targets: (rows,) item indices.
    """
    out = np.zeros((scores.shape[0], len(targets)), np.int8)
    _ranks(scores, fill, items, targets, out)
    return out


def best(values: Float32 | Float64, k: int, hidden: Bool, worthless: float) -> Int32:
    """At most `k` items of more than the `worthless` value that are not hidden, best first; ties by lower index.

    Args:
        values: (items,).
        k: items wanted.
        hidden: by item index; those past its end are not hidden.
        worthless: the value of what is never among the best.
    """
    worthy = values > worthless
    worthy[: len(hidden)] &= ~hidden[: len(values)]
    there = np.flatnonzero(worthy)
    losses = -values[there]
    if (
        len(there) > 4 * k > 0
    ):  # to choose beside many worthless ones, which are all equal, would take ten times as long
        near = np.flatnonzero(losses <= np.partition(losses, k - 1)[k - 1])
        there, losses = there[near], losses[near]
    return there[np.argsort(losses, kind="stable")][:k].astype(np.int32)


@compiled
def _ranks(scores, fill, items, targets, out):  # type: ignore[no-untyped-def]
    for row in range(len(targets)):
        place = -1
        for c in range(items.shape[1]):
            if items[row, c] == targets[row]:
                place = c
        if place < 0:
            continue
        for m in range(len(scores)):
            before = 0
            for c in range(items.shape[1]):
                if items[row, c] == NOTHING or c == place:
                    continue
                s, t = scores[m, row, c], scores[m, row, place]
                f, g = fill[row, c], fill[row, place]
                before += s > t or (s == t and (f > g or (f == g and c < place)))
            out[m, row] = before + 1 if before < 20 else 0
