"""Reads csv and jsonl files, as they are or compressed, line by line: none of any length is ever held whole.

The cells of a csv file are text; a jsonl file's values keep their types. Knows nothing of events or of catalogues.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from streamrec.errors import TableError
from streamrec.replay.batches import BATCH_BYTES, BATCH_ROWS, MAX_CELL_CHARS, MAX_COLUMNS, MAX_LINE, Batch

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
SEPARATORS = "\t;|"
"""What files are seen to use instead of a comma."""

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


class _Lines:
    """The lines of a text file from `first` on, and the number of characters read so far."""

    def __init__(self, first: str, text: io.TextIOWrapper) -> None:
        self._lines = itertools.chain([first], iter(lambda: text.readline(MAX_LINE + 1), ""))
        self.chars = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if len(line) > MAX_LINE:
            raise csv.Error(f"a line has more than {MAX_LINE:,} characters")
        self.chars += len(line)
        return line


def csv_rows(path: Path, columns: Sequence[str], separator: str | None) -> Iterator[Row]:
    """The rows below the header, blank lines left out.

    Raises:
        TableError: where a quote opens and never closes, or a line has no end in sight, for nobody knows what follows.
    """
    csv.field_size_limit(MAX_CELL_CHARS)
    with opened(path) as file, io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        first = text.readline(MAX_LINE + 1)
        lines = _Lines(first, text)
        reader = csv.reader(lines, strict=True, delimiter=_delimiter(first, separator))
        row = -1  # the header
        places: list[int] = []
        width = 0
        while True:
            line, before = reader.line_num + 1, lines.chars
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if "expected after" not in str(error) or row < 0:
                    where = "the header" if row < 0 else f"row {row}"
                    raise TableError(
                        f"{path}: {where}, which begins in line {line}, does not end: {error}; is a quote opened there "
                        "that is never closed?"
                    ) from error
                yield lines.chars - before, f'{error} (line {line}); inside quotes, a quote is written twice: ""'
                row += 1
                continue
            if cells is None:
                return
            if row < 0:
                width, places = len(cells), [cells.index(column) for column in columns]
                row = 0
            elif cells:
                if len(cells) == width:
                    yield lines.chars - before, [cells[place] or None for place in places]
                else:
                    yield 0, f"the row has {len(cells)} cells, expected {width} as in the header (line {line})"
                row += 1


def _delimiter(header: str, separator: str | None) -> str:
    """The separator asked for, where the header has it: a command may read tables of several kinds."""
    return separator if separator is not None and separator in header else ","


def look_at_csv(path: Path, separator: str | None) -> tuple[tuple[str, ...], int]:
    """The header's columns, and the number of rows.

    Raises:
        TableError: the header is none, or another character separates its columns.
    """
    with opened(path) as file, io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        first = text.readline(MAX_LINE + 1)
        reader = csv.reader(_Lines(first, text), strict=True, delimiter=_delimiter(first, separator))
        try:
            header = tuple(next(reader, ()))
        except csv.Error as error:
            raise TableError(f"{path}: the header in line 1 cannot be read: {error}") from error
    if any("\0" in name or not _encodable(name) for name in header):
        raise TableError(f"{path}: the header in line 1 is no text in UTF-8; write the file anew in UTF-8")
    if len(header) == 1 and (other := next((char for char in SEPARATORS if char in header[0]), None)) is not None:
        raise TableError(
            f"{path}: the header is one column, {header[0][:80]!r}; if {other!r} stands between its columns, say so: "
            f"--separator {other!r}, or STREAMREC_SEPARATOR"
        )
    return header, sum(1 for _ in csv_rows(path, (), separator))


def json_rows(path: Path, columns: Sequence[str], separator: str | None = None) -> Iterator[Row]:
    """The objects, one a line, blank lines left out. Numbers and booleans keep their types; empty text is none."""
    for size, row in _objects(path):
        yield size, row if isinstance(row, str) else [_cell(row.get(column)) for column in columns]


def _cell(value: object) -> object:
    return None if value == "" else value


def _objects(path: Path) -> Iterator[tuple[int, dict[str, object] | str]]:
    decoder = msgspec.json.Decoder(dict[str, object])
    with opened(path) as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            size = len(line)
            if size > MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE)
                yield 0, f"the line has more than {MAX_LINE:,} bytes (line {number})"
                continue
            if number == 1:
                line = line.removeprefix(BOM_UTF8)
            if line.strip():
                try:
                    yield size, decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    yield size, f"the line is no JSON object: {_why(line, error)} (line {number})"


def _why(line: bytes, error: Exception) -> str:
    """What the decoder says, but by its name what other writers of JSON take for a number."""
    try:
        json.loads(line, parse_constant=_refuse_constant)
    except _NoNumber as refused:
        return str(refused)
    except (ValueError, RecursionError):
        pass
    return str(error)


class _NoNumber(Exception):
    """NaN or Infinity where JSON has a number."""


def _refuse_constant(name: str) -> None:
    raise _NoNumber(f"{name} is not JSON, write null")


def look_at_jsonl(path: Path, separator: str | None = None) -> tuple[tuple[str, ...], int]:
    """The names that any object has, and the number of rows.

    Raises:
        TableError: no line is an object, or they have more names than a table has columns.
    """
    names: dict[str, None] = {}
    row_count = 0
    reason = ""
    for _, row in _objects(path):
        if isinstance(row, str):
            reason = reason or f"row {row_count}: {row}"
        else:
            names.update(dict.fromkeys(row))
        row_count += 1
        if len(names) > MAX_COLUMNS:
            raise TableError(f"{path}: row {row_count - 1} brings the names to more than {MAX_COLUMNS:,} columns")
    if reason and not names:
        raise TableError(f"{path}: none of its {row_count:,} rows can be read, expected one object a line; {reason}")
    return tuple(names), row_count


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
    except UnicodeEncodeError:  # bytes that are no UTF-8 were kept as lone surrogates
        encodable = [all(_encodable(cell) for cell in cells) for _, cells in good]
        reason = "the row is not UTF-8 text; write the file anew in UTF-8"
        broken += [(row, reason) for (row, _), fine in zip(good, encodable, strict=True) if not fine]
        good = [pair for pair, fine in zip(good, encodable, strict=True) if fine]
        frame = _frame([cells for _, cells in good], columns)
    return Batch(np.array([row for row, _ in good], np.int64), frame, tuple(sorted(broken)))


def _encodable(cell: object) -> bool:
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
