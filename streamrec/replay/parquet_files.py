"""Reads parquet files in batches that are bounded in rows and in bytes, however well a file is compressed.

Values keep their types. Knows nothing of events or of catalogues.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamrec.errors import TableError
from streamrec.replay.batches import BATCH_BYTES, BATCH_ROWS, MAX_CELL_CHARS, Batch

MAX_UNPACKED = 8 * BATCH_BYTES
MAX_RATIO = 1_000
"""A page is unpacked whole, so one that is larger than the former may not be packed tighter than this."""


def look_at_parquet(path: Path, separator: str | None = None) -> tuple[tuple[str, ...], int]:
    """The columns and the number of rows."""
    with pq.ParquetFile(path) as file:
        return tuple(file.schema_arrow.names), file.metadata.num_rows


def read_parquet(path: Path, columns: Sequence[str], start: int, stop: int) -> Iterator[Batch]:
    """Rows `start` to before `stop`; raises TableError for what cannot be read."""
    with pq.ParquetFile(path) as looked_at:
        schema, metadata = looked_at.schema_arrow, looked_at.metadata
    texts = [name for name in columns if _is_text(schema.field(name).type)]
    # As dictionaries, equal texts are in memory once: a small file may say one long text a million times.
    with pq.ParquetFile(path, metadata=metadata, read_dictionary=texts) as file:
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        ends = list(itertools.accumulate(sizes))
        groups = [g for g, end in enumerate(ends) if end > start and end - sizes[g] < stop]
        if not groups:
            return
        first = ends[groups[0]] - sizes[groups[0]]
        # Of whole groups: asked for a column of a damaged file, pyarrow ends the process.
        unpacked = [metadata.row_group(group).total_byte_size for group in groups]
        if max(unpacked) > max(MAX_UNPACKED, MAX_RATIO * path.stat().st_size):
            raise TableError(
                f"{path}: expected a file that unpacks to at most {MAX_RATIO:,} times its size, but one of its row "
                f"groups has {max(unpacked):,} bytes; write it with dictionaries or in smaller row groups"
            )
        bytes_per_row = max(size / max(sizes[g], 1) for g, size in zip(groups, unpacked, strict=True))
        at_once = int(min(BATCH_ROWS, max(BATCH_BYTES // max(bytes_per_row, 1), 1)))
        for arrow in file.iter_batches(at_once, row_groups=groups, columns=list(columns)):
            before, after = max(start - first, 0), min(stop - first, arrow.num_rows)
            if before < after:
                yield from _portions(path, first + before, arrow.slice(before, after - before).select(list(columns)))
            first += arrow.num_rows


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _portions(path: Path, first: int, arrow: pa.RecordBatch) -> Iterator[Batch]:
    """The batch in pieces of at most BATCH_BYTES of text, without the rows that have a cell of too many bytes."""
    lengths = np.column_stack([np.zeros(arrow.num_rows, np.int64), *map(_lengths, arrow.columns)])
    fits = lengths.max(axis=1) <= MAX_CELL_CHARS
    piece = np.cumsum(np.where(fits, lengths.sum(axis=1), 0)) // BATCH_BYTES
    for start, stop in itertools.pairwise([0, *(np.flatnonzero(np.diff(piece)) + 1), arrow.num_rows]):
        rows = np.flatnonzero(fits[start:stop])
        broken = tuple(
            (first + start + int(row), f"a cell has {lengths[start + row].max():,} bytes, at most {MAX_CELL_CHARS:,}")
            for row in np.flatnonzero(~fits[start:stop])
        )
        part = arrow.slice(start, stop - start).take(pa.array(rows)) if broken else arrow.slice(start, stop - start)
        series = [_series(path, name, column) for name, column in zip(part.schema.names, part.columns, strict=True)]
        yield Batch(rows + first + start, pl.DataFrame(series), broken)


def _lengths(column: pa.Array) -> NDArray[np.int64]:
    """How many bytes of text each row has; 0 for what is of a fixed size."""
    if pa.types.is_dictionary(column.type) and _is_text(column.type.value_type):
        each = np.append(pc.fill_null(pc.binary_length(column.dictionary), 0).to_numpy(zero_copy_only=False), 0)
        at = pc.fill_null(column.indices, len(each) - 1).to_numpy(zero_copy_only=False)
        if len(at) and at.max() >= len(each):
            raise pa.ArrowInvalid("a value of a dictionary is named that it does not have")
        return np.asarray(each[at], np.int64)
    if _is_text(column.type):
        return np.asarray(pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False), np.int64)
    return np.zeros(len(column), np.int64)


def _series(path: Path, name: str, column: pa.Array) -> pl.Series:
    try:
        series = pl.from_arrow(_plain(column))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise TableError(f"{path}: column {name!r} is of the type {column.type}, which is not read: {error}") from error
    assert isinstance(series, pl.Series)  # an array becomes a series, never a frame
    return series.alias(name)


def _plain(column: pa.Array) -> pa.Array:
    """The column in a type that frames hold: what only names another type is read as that."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_decimal256(column.type):
        return column.cast(pa.string())
    if not _is_text(column.type):
        column.validate(full=True)
        return column
    column = column.cast(pa.large_binary())
    try:
        return column.cast(pa.large_string())
    except pa.ArrowInvalid:
        return column  # what is no UTF-8 is told row by row
