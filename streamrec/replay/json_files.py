"""Reads the rows of jsonl files, one JSON object a line; values keep their types.

Knows nothing of events or of catalogues.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from streamrec.errors import TableError
from streamrec.replay.batches import MAX_COLUMNS, MAX_LINE
from streamrec.replay.text_files import Row, opened


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
