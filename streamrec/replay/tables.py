"""Reads files of rows in batches of bounded size: parquet, csv and jsonl.

Rows are counted from 0, a csv's header and blank lines left out. A parquet file's values keep their types; csv and
jsonl carry none that can be relied on, so theirs come as text (nested JSON as JSON text) for the caller to read.
Knows nothing of events or of catalogues.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamrec.errors import TableError

BATCH_ROWS = 16_384
"""Rows in memory at once: some ten megabytes of wide text, and large enough that column work outweighs loops."""
MAX_CELL_CHARS = 1 << 20


@dataclass(frozen=True, slots=True)
class Batch:
    """Some consecutive rows: `frame` holds the readable ones, `rows` their numbers, `broken` the others and why."""

    rows: NDArray[np.int64]
    frame: pl.DataFrame
    broken: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A file of rows: its columns, the number of rows, and how to read them."""

    path: Path
    columns: tuple[str, ...]
    row_count: int
    _read: Callable[[Path, Sequence[str], int, int], Iterator[Batch]]

    def batches(self, columns: Sequence[str], start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Rows `start` to before `stop` of the named columns, in file order.

        Raises:
            TableError: the file can no longer be read.
        """
        return self._read(self.path, columns, start, self.row_count if stop is None else min(stop, self.row_count))


def open_table(path: Path) -> Table:
    """Look at a file: its columns and its number of rows (csv and jsonl are read through once for that).

    Raises:
        TableError: the file is missing, of an unknown kind, or no such table inside.
    """
    if path.suffix.lower() not in FORMATS:
        raise TableError(f"{path}: expected a file ending in {', '.join(FORMATS)}; convert it to one of these")
    if not path.is_file():
        raise TableError(f"{path}: there is no such file; give the path of a log or catalogue")
    look, read = FORMATS[path.suffix.lower()]
    try:
        columns, row_count = look(path)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    return Table(path, columns, row_count, read)


def _unreadable(path: Path, error: Exception) -> TableError:
    """The error for a file that is not in the format of its suffix."""
    kind = path.suffix.lower().lstrip(".")
    return TableError(f"{path}: expected a {kind} file in UTF-8 that can be read to its end; {error}; write it anew")


def _look_at_parquet(path: Path) -> tuple[tuple[str, ...], int]:
    with pq.ParquetFile(path) as file:
        return tuple(file.schema_arrow.names), file.metadata.num_rows


def _read_parquet(path: Path, columns: Sequence[str], start: int, stop: int) -> Iterator[Batch]:
    try:
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = list(itertools.accumulate(sizes))
            groups = [g for g, end in enumerate(ends) if end > start and end - sizes[g] < stop]
            if not groups:
                return
            first = ends[groups[0]] - sizes[groups[0]]
            for arrow in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(columns)):
                rows = np.arange(first, first + arrow.num_rows)
                first += arrow.num_rows
                inside = (rows >= start) & (rows < stop)
                if inside.any():
                    frame = pl.from_arrow(pa.Table.from_batches([arrow]))
                    assert isinstance(frame, pl.DataFrame)  # a table becomes a frame, never a series
                    yield Batch(rows[inside], frame.filter(pl.Series(inside)))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


Line = list[str | None] | str
"""A row's cells in the order of the wanted columns, or what is wrong with the row."""


def _csv_lines(path: Path, columns: Sequence[str]) -> Iterator[Line]:
    csv.field_size_limit(MAX_CELL_CHARS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, [])
        places = [header.index(column) for column in columns]
        for cells in reader:
            if len(cells) == len(header):
                yield [cells[place] or None for place in places]
            elif cells:
                yield f"the row has {len(cells)} cells, expected {len(header)} as in the header"


def _look_at_csv(path: Path) -> tuple[tuple[str, ...], int]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = tuple(next(csv.reader(file, strict=True), []))
    return header, sum(1 for _ in _csv_lines(path, ()))


def _jsonl_objects(path: Path) -> Iterator[dict[str, object] | str]:
    decoder = msgspec.json.Decoder(dict[str, object])
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    yield decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    yield f"the line is no JSON object ({error})"


def _jsonl_lines(path: Path, columns: Sequence[str]) -> Iterator[Line]:
    for row in _jsonl_objects(path):
        yield row if isinstance(row, str) else [_as_text(row.get(column)) for column in columns]


def _look_at_jsonl(path: Path) -> tuple[tuple[str, ...], int]:
    names: dict[str, None] = {}
    row_count = 0
    for row in _jsonl_objects(path):
        row_count += 1
        if not isinstance(row, str):
            names.update(dict.fromkeys(row))
    return tuple(names), row_count


def _as_text(value: object) -> str | None:
    """A JSON value as the text it would have in a csv file."""
    if value is None or isinstance(value, str):
        return value or None
    return msgspec.json.encode(value).decode()


def _text_reader(lines: Callable[[Path, Sequence[str]], Iterator[Line]]) -> Reader:
    """A reader of batches over a reader of lines; what comes before `start` is parsed and dropped."""

    def read(path: Path, columns: Sequence[str], start: int, stop: int) -> Iterator[Batch]:
        try:
            numbered = itertools.islice(enumerate(lines(path, columns)), start, stop)
            while chunk := list(itertools.islice(numbered, BATCH_ROWS)):
                yield _text_batch(chunk, columns)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise _unreadable(path, error) from error

    return read


def _text_batch(chunk: Iterable[tuple[int, Line]], columns: Sequence[str]) -> Batch:
    rows: list[int] = []
    cells: list[list[str | None]] = []
    broken: list[tuple[int, str]] = []
    for row, line in chunk:
        if isinstance(line, str):
            broken.append((row, line))
        else:
            rows.append(row)
            cells.append(line)
    by_column = zip(*cells, strict=True) if cells else itertools.repeat(())
    frame = pl.DataFrame([pl.Series(name, values, pl.String) for name, values in zip(columns, by_column, strict=False)])
    return Batch(np.array(rows, np.int64), frame, tuple(broken))


Look = Callable[[Path], tuple[tuple[str, ...], int]]
Reader = Callable[[Path, Sequence[str], int, int], Iterator[Batch]]
FORMATS: Mapping[str, tuple[Look, Reader]] = {
    ".parquet": (_look_at_parquet, _read_parquet),
    ".csv": (_look_at_csv, _text_reader(_csv_lines)),
    ".jsonl": (_look_at_jsonl, _text_reader(_jsonl_lines)),
}
