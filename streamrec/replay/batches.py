"""A batch of rows, as every reader of tables gives them, and how large one may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

BATCH_ROWS = 16_384
"""Rows in memory at once: some ten megabytes of wide text, and large enough that column work outweighs loops."""
BATCH_BYTES = 32 << 20
"""And fewer rows where they are larger than that together."""
MAX_CELL_CHARS = 1 << 20
MAX_LINE = 4 * MAX_CELL_CHARS
"""Of a text file: a longer line is never held whole."""
MAX_COLUMNS = 10_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Some consecutive rows: `frame` holds the readable ones, `rows` their numbers, `broken` the others and why."""

    rows: NDArray[np.int64]
    frame: pl.DataFrame
    broken: tuple[tuple[int, str], ...] = ()
