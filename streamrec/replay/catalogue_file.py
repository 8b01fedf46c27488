"""Reads a catalogue of items (titles, categories, prices) from a parquet, csv or jsonl file.

Columns: `item_id`, and any field of an `Item`; `category` does for `categories` and `ts` for `added`; others are
ignored. Several categories or tags are a list, or text with `|` between them.
Knows nothing of events, models or topics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from streamrec.codec import fault
from streamrec.errors import TableError
from streamrec.events import LATEST_TS_MS, Item
from streamrec.replay.batches import MAX_CELL_CHARS, Batch
from streamrec.replay.columns import ParsedColumn, holds_times, named, number, shown, text, timestamp, word
from streamrec.replay.tables import open_table
from streamrec.replay.time_units import looks_like

MAX_LISTED = 20
MAX_ID_CHARS = 256
COLUMNS = (*Item.__struct_fields__, "category", "ts")
NAMES = ("item_id", "category", "categories", "tags")


class CatalogueItems(Mapping[str, Item]):
    """Items by id; read-only. Of a file, `refused` has the first rows that were left out, by number, and why."""

    def __init__(
        self, items: Iterable[Item] = (), refused: Sequence[tuple[int, str]] = (), refused_rows: int = 0
    ) -> None:
        self._items = {item.item_id: item for item in items}
        self.refused, self.refused_rows = refused, refused_rows

    def __getitem__(self, item_id: str) -> Item:
        return self._items[item_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def title(self, item_id: str) -> str:
        """The item's title, or its id where none is known."""
        item = self._items.get(item_id)
        return item_id if item is None or item.title is None else item.title

    def category(self, item_id: str) -> str | None:
        """The item's first category, None where none is known."""
        item = self._items.get(item_id)
        return item.categories[0] if item is not None and item.categories else None


def read_catalogue(path: Path, separator: str | None = None, max_refused: float = 0.0) -> CatalogueItems:
    """Read a whole catalogue file. Bad rows are left out if they are no more than a share of all, `max_refused`.

    `separator` as `open_table`.

    Raises:
        TableError: the file cannot be read, has no `item_id`, or too many bad rows; names the first, and how many.
    """
    table = open_table(path, separator)
    if "item_id" not in table.columns:
        raise TableError(
            f"{path}: expected a column 'item_id', and any of {', '.join(COLUMNS[1:])}; "
            f"its columns are {', '.join(table.columns) or 'none'}"
        )
    items: dict[str, Item] = {}
    problems: list[tuple[int, str]] = []
    listed: list[tuple[int, str]] = []
    count = refused_rows = 0
    for batch in table.batches([name for name in COLUMNS if name in table.columns], names=NAMES):
        found = _items(batch, problems)
        bad = {row for row, _ in problems}
        for row, item in found:
            if item.item_id in items and row not in bad:
                problems.append((row, f"item {item.item_id!r} has been named before, expected each item once"))
                bad.add(row)
            elif row not in bad:
                items[item.item_id] = item
        count, refused_rows = count + len(problems), refused_rows + len(bad)
        listed = (listed + sorted(problems))[:MAX_LISTED]
        problems.clear()
    if refused_rows and not refused_rows <= max_refused * table.row_count:
        lines = [f"row {row}: {problem}" for row, problem in listed]
        more = [f"... and {count - MAX_LISTED} more"] if count > MAX_LISTED else []
        raise TableError(f"{path}: rows that cannot be used; correct or remove them:\n  " + "\n  ".join(lines + more))
    return CatalogueItems(items.values(), listed, refused_rows)


def _items(batch: Batch, problems: list[tuple[int, str]]) -> list[tuple[int, Item]]:
    """The batch's items with their row numbers; bad values, and rows that make no item, are added to the problems."""
    problems.extend(batch.broken)
    frame, rows = batch.frame, len(batch.rows)

    def column(name: str, read: ParsedColumn, expected: str) -> list[Any]:
        values = zip(batch.rows[read.bad.to_numpy()], shown(frame[name], read.bad), strict=True)
        problems.extend((int(row), f"{name!r} is {value}, expected {expected}") for row, value in values)
        return read.values.to_list()

    def words(name: str) -> list[Any]:
        if name not in frame.columns:
            return [None] * rows
        return column(name, text(frame[name], 1, MAX_CELL_CHARS), f"text of at most {MAX_CELL_CHARS} characters")

    def numbers(name: str) -> list[Any]:
        return column(name, number(frame[name]), "a finite number") if name in frame.columns else [None] * rows

    def times(name: str) -> list[Any]:
        if name not in frame.columns:
            return [None] * rows
        expected = "a time: ms since 1970, or ISO 8601"
        found = column(name, timestamp(frame[name], LATEST_TS_MS), expected)
        problems.extend(
            (row, f"{name!r} is {ms}, expected {expected}; it looks like seconds, or a date written as one number")
            for row, ms in zip(batch.rows.tolist(), found, strict=True)
            if ms is not None and looks_like(ms) is not None
        )
        return found

    def lists(name: str, read: Callable[[object], Any]) -> list[Any]:
        if name not in frame.columns:
            return [None] * rows
        if holds_times(frame[name].dtype):
            return [str(frame[name].dtype) if given else None for given in frame[name].is_not_null()]
        return [read(value) for value in frame[name].to_list()]

    named_ids = named(frame["item_id"], 1, MAX_ID_CHARS)
    ids = column("item_id", named_ids, f"text of 1 to {MAX_ID_CHARS} characters")
    empty = (named_ids.values.is_null() & ~named_ids.bad).to_numpy()
    problems.extend((int(row), "'item_id' is empty, expected the item's id") for row in batch.rows[empty])
    either = [a or b for a, b in zip(lists("categories", labels), lists("category", labels), strict=True)]
    read: dict[str, list[Any]] = {
        "item_id": ids,
        "title": words("title"),
        "text": words("text"),
        "categories": either,
        "price": numbers("price"),
        "tags": lists("tags", labels),
        "vector": lists("vector", vector),
        "added": times("added") if "added" in frame.columns else times("ts"),
        "available_from": times("available_from"),
        "available_until": times("available_until"),
        "boost": numbers("boost"),
        "bid": numbers("bid"),
        "budget": numbers("budget"),
    }
    found = []
    for row, values in zip(batch.rows.tolist(), zip(*read.values(), strict=True), strict=True):
        said = {name: value for name, value in zip(read, values, strict=True) if value is not None}
        if "item_id" not in said:
            continue
        try:
            found.append((row, msgspec.convert(said, Item)))
        except msgspec.ValidationError as error:
            problems.append((row, fault(error, said, Item)))
    return found


def vector(value: object) -> object:
    """Numbers from a list, or from a JSON list; anything else is returned unchanged, for validation to refuse."""
    if isinstance(value, str):
        with suppress(msgspec.DecodeError, RecursionError):
            return msgspec.json.decode(value)
    return value


def labels(value: object) -> object:
    """Several short texts from a list, from a JSON list, or from text with `|` between them; numbers as their text.

    What is neither is returned unchanged, for validation to refuse.
    """
    if isinstance(value, str) and value.startswith("["):
        with suppress(msgspec.DecodeError, RecursionError):  # a category may begin with a bracket
            value = msgspec.json.decode(value)
    if value is None or value != value:
        return ()
    if not isinstance(value, list):
        said = word(value)
        parts: list[Any] = [value] if said is None else said.split("|")
    else:
        parts = [part for part in value if part is not None and part == part]
    labels = [part if (said := word(part)) is None else said.strip() for part in parts]
    return tuple(label for label in labels if label != "")
