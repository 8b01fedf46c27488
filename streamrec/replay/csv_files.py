"""Reads the rows of csv files, as text; a row that is none is told with its line.

Knows nothing of events or of catalogues.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from streamrec.errors import TableError
from streamrec.replay.batches import MAX_CELL_CHARS, MAX_LINE
from streamrec.replay.text_files import Row, encodable, opened

SEPARATORS = "\t;|"
"""What files are seen to use instead of a comma."""


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
    if any("\0" in name or not encodable(name) for name in header):
        raise TableError(f"{path}: the header in line 1 is no text in UTF-8; write the file anew in UTF-8")
    if len(header) == 1 and (other := next((char for char in SEPARATORS if char in header[0]), None)) is not None:
        raise TableError(
            f"{path}: the header is one column, {header[0][:80]!r}; if {other!r} stands between its columns, say so: "
            f"--separator {other!r}, or STREAMREC_SEPARATOR"
        )
    return header, sum(1 for _ in csv_rows(path, (), separator))
