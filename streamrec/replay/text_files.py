"""Opens text files, as they are or compressed, and puts the rows that are read of them into batches.

Knows nothing of events or of catalogues.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa

from streamrec.errors import TableError
from streamrec.replay.batches import BATCH_BYTES, BATCH_ROWS, Batch

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FOREIGN = {
    b"\xff\xfe": "UTF-16 text (write it anew in UTF-8)",
    b"\xfe\xff": "UTF-16 text (write it anew in UTF-8)",
    b"\x1f\x8b": "gzip (let its name end in .gz)",
    b"\x28\xb5\x2f\xfd": "zstd (let its name end in .zst)",
    b"PK\x03\x04": "a zip archive or a spreadsheet (write it anew as csv)",
    b"PAR1": "parquet (let its name end in .parquet)",
}
"""How files begin that are not what their names say."""

Row = tuple[int, list[object] | str]
"""Its size, and its cells in the order of the wanted columns, or what is wrong with it."""
Rows = Callable[[Path, Sequence[str], str | None], Iterator[Row]]


def opened(path: Path) -> BinaryIO:
    """The file's bytes, decompressed if its name says so.

    Raises:
        TableError: it begins as no text file does.
    """
    file: BinaryIO = path.open("rb")
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is not None:
        file = io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, "r"), compression))
    assert isinstance(file, io.BufferedReader)
    beginning = file.peek(4)[:4]
    for magic, kind in FOREIGN.items():
        if beginning.startswith(magic):
            file.close()
            raise TableError(f"{path}: expected text in UTF-8, but it begins as {kind}")
    return file


def text_reader(rows: Rows, separator: str | None) -> Callable[[Path, Sequence[str], int, int], Iterator[Batch]]:
    """A reader of batches over a reader of rows; what comes before `start` is parsed and dropped."""

    def read(path: Path, columns: Sequence[str], start: int, stop: int) -> Iterator[Batch]:
        numbered = itertools.islice(enumerate(rows(path, columns, separator)), start, stop)
        while chunk := list(_chunk(numbered)):
            yield _batch(chunk, columns)

    return read


def _chunk(numbered: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, list[object] | str]]:
    size = 0
    for row, (chars, cells) in itertools.islice(numbered, BATCH_ROWS):
        yield row, cells
        size += chars
        if size > BATCH_BYTES:
            return


def _batch(chunk: Iterable[tuple[int, list[object] | str]], columns: Sequence[str]) -> Batch:
    broken = [(row, cells) for row, cells in chunk if isinstance(cells, str)]
    good = [(row, cells) for row, cells in chunk if not isinstance(cells, str)]
    try:
        frame = _frame([cells for _, cells in good], columns)
    except UnicodeEncodeError:
        fit = [all(encodable(cell) for cell in cells) for _, cells in good]
        reason = "the row is not UTF-8 text; write the file anew in UTF-8"
        broken += [(row, reason) for (row, _), fine in zip(good, fit, strict=True) if not fine]
        good = [pair for pair, fine in zip(good, fit, strict=True) if fine]
        frame = _frame([cells for _, cells in good], columns)
    return Batch(np.array([row for row, _ in good], np.int64), frame, tuple(sorted(broken)))


def encodable(cell: object) -> bool:
    """Whether text is UTF-8: other bytes were kept as lone surrogates."""
    return not isinstance(cell, str) or not any("\ud800" <= char <= "\udfff" for char in cell)


def _frame(rows: list[list[object]], columns: Sequence[str]) -> pl.DataFrame:
    by_column: Iterable[Sequence[object]] = zip(*rows, strict=True) if rows else itertools.repeat(())
    return pl.DataFrame([_series(name, values) for name, values in zip(columns, by_column, strict=False)])


def _series(name: str, values: Sequence[object]) -> pl.Series:
    """A column of the values' one type, or of Python objects where they have several."""
    kinds = {type(value) for value in values} - {type(None)}
    kind = kinds.pop() if len(kinds) == 1 else str if not kinds else object
    try:
        return pl.Series(name, values, _DTYPES.get(kind, pl.Object))
    except (OverflowError, TypeError):  # whole numbers of more than 64 bits
        return pl.Series(name, values, pl.Object)


_DTYPES: dict[type, type[pl.DataType]] = {str: pl.String, int: pl.Int64, float: pl.Float64, bool: pl.Boolean}
