"""Reads files of rows in batches of bounded size: parquet, csv and jsonl, or a folder of them.

Rows are counted from 0, a csv's header and blank lines left out. Parquet and jsonl values keep their types; a csv file
has none, so its cells come as text. Knows nothing of events or of catalogues.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa

from streamrec.errors import TableError
from streamrec.replay.batches import Batch
from streamrec.replay.columns import zero_fraction
from streamrec.replay.csv_files import csv_rows, look_at_csv
from streamrec.replay.json_files import json_rows, look_at_jsonl
from streamrec.replay.parquet_files import look_at_parquet, read_parquet
from streamrec.replay.text_files import COMPRESSIONS, text_reader

READ_ERRORS = (OSError, UnicodeError, pa.ArrowException)

Look = Callable[[Path, str | None], tuple[tuple[str, ...], int]]
Reader = Callable[[Path, Sequence[str], int, int], Iterator[Batch]]
FORMATS: Mapping[str, tuple[Look, Callable[[str | None], Reader]]] = {
    ".parquet": (look_at_parquet, lambda separator: read_parquet),
    ".csv": (look_at_csv, partial(text_reader, csv_rows)),
    ".jsonl": (look_at_jsonl, partial(text_reader, json_rows)),
}


@dataclass(frozen=True, slots=True)
class Table:
    """A file of rows or a folder of such files: its columns, the number of rows, and how to read them."""

    path: Path
    columns: tuple[str, ...]
    row_count: int
    _parts: tuple[tuple[Path, int], ...]  # files and their rows, in order
    _read: Reader
    _decided: dict[str, str] = field(default_factory=dict, compare=False)  # what `_fractions` found of a column

    def batches(
        self, columns: Sequence[str], start: int = 0, stop: int | None = None, *, names: Collection[str] = ()
    ) -> Iterator[Batch]:
        """Rows `start` to before `stop` of the named columns, in order.

        A table that has gaps in a column of whole numbers writes each with a fraction. So text of the columns `names`
        is read as whole numbers where every row of the table has the same zero fraction: 8000.0 is 8000, unless the
        column also holds 8000, 8000.5 or POST. So no two names become one.

        Raises:
            TableError: a file can no longer be read.
        """
        fractions = self._fractions([name for name in columns if name in names])
        whole = [_without(name, fraction) for name, fraction in fractions.items()]
        for batch in self._batches(columns, start, self.row_count if stop is None else min(stop, self.row_count)):
            yield replace(batch, frame=batch.frame.with_columns(whole)) if whole else batch

    def _batches(self, columns: Sequence[str], start: int, stop: int) -> Iterator[Batch]:
        first = 0
        for path, row_count in self._parts:
            if start < first + row_count and first < stop:
                try:
                    for batch in self._read(path, columns, max(start - first, 0), min(stop - first, row_count)):
                        broken = tuple((row + first, why) for row, why in batch.broken)
                        yield Batch(batch.rows + first, batch.frame, broken)
                except READ_ERRORS as error:
                    raise _unreadable(path, error) from error
            first += row_count

    def _fractions(self, columns: Sequence[str]) -> dict[str, str]:
        """Of the columns that are text with one zero fraction in every row: that fraction. Most are not at once."""
        left = [name for name in columns if name not in self._decided]
        found: dict[str, str] = {}
        for batch in self._batches(tuple(left), 0, self.row_count) if left else ():
            for name in tuple(left):
                fraction = zero_fraction(batch.frame[name])
                if fraction is None or (fraction and found.setdefault(name, fraction) != fraction):
                    left.remove(name)
                    self._decided[name] = ""
            if not left:
                break
        self._decided.update({name: found.get(name, "") for name in left})
        return {name: self._decided[name] for name in columns if self._decided[name]}


def _without(name: str, fraction: str) -> pl.Expr:
    column = pl.col(name)
    return pl.when(column.str.to_lowercase() != "nan").then(column.str.strip_suffix(fraction)).alias(name)


def open_table(path: Path, separator: str | None = None) -> Table:
    """Look at a file: its columns and its number of rows (csv and jsonl are read through once for that).

    A folder is read as Spark and Polars write them: its files in the order of their names, all with the same columns.
    `separator` stands between the columns of a csv file whose header has it, instead of a comma.

    Raises:
        TableError: the file is missing, of an unknown kind, without rows, or no such table inside.
    """
    try:
        parts = _parts(path)
        looks = [_looked_at(part, separator) for part in parts]
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error
    columns = tuple(dict.fromkeys(name for names, _ in looks for name in names))
    row_count = sum(rows for _, rows in looks)
    if not row_count:
        raise TableError(
            f"{path}: expected a table, but it has no rows; its columns are {', '.join(columns) or 'none'}"
        )
    filled = [(part, rows) for part, (_, rows) in zip(parts, looks, strict=True) if rows]
    for part, (names, rows) in zip(parts, looks, strict=True):
        if rows and set(names) != set(columns) and _format(part) != ".jsonl":  # an object may leave out what it has not
            raise TableError(f"{part}: its columns are {', '.join(names)}, but those of all files {', '.join(columns)}")
    return Table(path, columns, row_count, tuple(filled), FORMATS[_format(parts[0])][1](separator))


def _parts(path: Path) -> list[Path]:
    """The file itself, or the files of a folder; hidden ones and marks such as _SUCCESS are none of them."""
    if not path.is_dir():
        if _format(path) not in FORMATS:
            raise TableError(f"{path}: expected a file ending in {_ENDINGS}; convert it to one of these")
        if not path.is_file():
            raise TableError(f"{path}: there is no such file; give the path of a log or catalogue")
        return [path]
    inside = sorted(part for part in path.iterdir() if not part.name.startswith(("_", ".")))
    if folder := next((part for part in inside if part.is_dir()), None):
        raise TableError(
            f"{path}: expected a folder of files, but {folder.name!r} in it is a folder (what names of folders say is "
            "not read); write the table without partitions, or give one of the folders"
        )
    formats = {_format(part) for part in inside}
    if len(formats) != 1 or not formats <= FORMATS.keys():
        raise TableError(
            f"{path}: is a folder, expected one with files of one kind, ending in {_ENDINGS}; "
            f"it holds {', '.join(part.name for part in inside[:5]) or 'nothing'}"
        )
    return inside


def _format(path: Path) -> str:
    """The ending that tells the format, as .csv of log.csv.gz."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSIONS else suffix


_ENDINGS = f"{', '.join(FORMATS)} (csv and jsonl also with {' or '.join(COMPRESSIONS)})"


def _looked_at(path: Path, separator: str | None) -> tuple[tuple[str, ...], int]:
    try:
        columns, row_count = FORMATS[_format(path)][0](path, separator)
    except READ_ERRORS as error:
        raise _unreadable(path, error) from error
    twice = [name for name, times in Counter(columns).items() if times > 1 and name]
    if twice:
        raise TableError(f"{path}: the column {twice[0]!r} is there twice; rename or remove one of them")
    return columns, row_count


def _unreadable(path: Path, error: Exception) -> TableError:
    """The error for a file that is not in the format of its suffix."""
    kind = _format(path).lstrip(".")
    return TableError(f"{path}: expected a {kind} file in UTF-8 that can be read to its end; {error}; write it anew")
