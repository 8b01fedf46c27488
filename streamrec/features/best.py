"""The best of a value by item index, without sorting them all."""

from __future__ import annotations

import numpy as np

from streamrec.features.batch import Bool, Float32, Float64, Int32


def best(values: Float32 | Float64, k: int, hidden: Bool, worthless: float) -> Int32:
    """At most `k` items of more than the `worthless` value that are not hidden, best first; ties by lower index.

    Args:
        values: (items,).
        k: items wanted.
        hidden: by item index; those past its end are not hidden.
        worthless: the value of what is never among the best.
    """
    rows = len(values)
    if len(hidden):
        values = values.copy()
        values[: len(hidden)][hidden[:rows]] = worthless
    if rows > 4 * k:
        near = np.sort(np.argpartition(values, rows - k)[rows - k :])
    else:
        near = np.arange(rows)
    order = near[np.argsort(-values[near], kind="stable")]
    return order[values[order] > worthless][:k].astype(np.int32)
