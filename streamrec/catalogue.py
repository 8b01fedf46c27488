"""What is known of items beforehand: titles, categories, prices, read from a parquet, csv or jsonl file.

Columns: `item_id`, and any of `title`, `category` or `categories`, `price`, `text`, `tags`; others are ignored. Several
categories or tags are a list, or text with `|` between them. Knows nothing of events, models or topics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from streamrec.columns import Converted, named, number, text
from streamrec.errors import TableError
from streamrec.events import Item
from streamrec.tables import MAX_CELL_CHARS, Batch, open_table

MAX_LISTED = 20
MAX_ID_CHARS = 256
COLUMNS = ("item_id", "title", "category", "categories", "price", "text", "tags")


class Catalogue(Mapping[str, Item]):
    """Items by id; read-only."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._items = {item.item_id: item for item in items}

    def __getitem__(self, item_id: str) -> Item:
        return self._items[item_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def title(self, item_id: str) -> str:
        """The item's title, or its id where none is known: always something to show."""
        item = self._items.get(item_id)
        return item_id if item is None or item.title is None else item.title

    def category(self, item_id: str) -> str | None:
        """The item's first category, None where none is known."""
        item = self._items.get(item_id)
        return item.categories[0] if item is not None and item.categories else None


def read_catalogue(path: Path) -> Catalogue:
    """Read a whole catalogue file.

    Raises:
        TableError: the file cannot be read, has no `item_id`, or has bad rows; names the first, and how many.
    """
    table = open_table(path)
    if "item_id" not in table.columns:
        raise TableError(
            f"{path}: expected a column 'item_id', and any of {', '.join(COLUMNS[1:])}; "
            f"its columns are {', '.join(table.columns) or 'none'}"
        )
    items: dict[str, Item] = {}
    problems: list[tuple[int, str]] = []
    for batch in table.batches([name for name in COLUMNS if name in table.columns]):
        for row, item in _items(batch, problems):
            if item.item_id in items:
                problems.append((row, f"item {item.item_id!r} has been named before, expected each item once"))
            items[item.item_id] = item
    if problems:
        lines = [f"row {row}: {problem}" for row, problem in sorted(problems)[:MAX_LISTED]]
        more = [f"... and {len(problems) - MAX_LISTED} more"] if len(problems) > MAX_LISTED else []
        raise TableError(f"{path}: rows that cannot be used; correct or remove them:\n  " + "\n  ".join(lines + more))
    return Catalogue(items.values())


def _items(batch: Batch, problems: list[tuple[int, str]]) -> list[tuple[int, Item]]:
    """The batch's items by row; rows without a usable id are left out, and named as every other bad value."""
    problems.extend(batch.broken)

    def column(name: str, read: Converted, expected: str) -> list[Any]:
        shown = batch.frame[name].filter(read.bad).to_list()
        rows = batch.rows[read.bad.to_numpy()]
        problems.extend(
            (int(row), f"{name!r} is {str(value)[:80]!r}, expected {expected}")
            for row, value in zip(rows, shown, strict=True)
        )
        return read.values.to_list()

    def words(name: str) -> list[Any]:
        if name not in batch.frame.columns:
            return [None] * len(batch.rows)
        return column(name, text(batch.frame[name], 1, MAX_CELL_CHARS), f"text of at most {MAX_CELL_CHARS} characters")

    def labels(name: str) -> list[tuple[str, ...]]:
        if name not in batch.frame.columns:
            return [()] * len(batch.rows)
        return [_labels(value) for value in batch.frame[name].to_list()]

    ids = column("item_id", named(batch.frame["item_id"], 1, MAX_ID_CHARS), f"text of 1 to {MAX_ID_CHARS} characters")
    prices = [None] * len(ids)
    if "price" in batch.frame.columns:
        prices = column("price", number(batch.frame["price"]), "a finite number")
    categories = [a or b for a, b in zip(labels("categories"), labels("category"), strict=True)]
    empty = batch.frame["item_id"].cast(pl.String, strict=False).fill_null("") == ""
    problems.extend((int(row), "'item_id' is empty, expected the item's id") for row in batch.rows[empty.to_numpy()])
    found = zip(batch.rows, ids, words("title"), words("text"), categories, prices, labels("tags"), strict=True)
    return [
        (int(row), Item(item_id=item, title=title, text=body, categories=groups, price=price, tags=tags))
        for row, item, title, body, groups, price, tags in found
        if item is not None
    ]


def _labels(value: object) -> tuple[str, ...]:
    """Several short texts from a list, from a JSON list, or from text with `|` between them."""
    if isinstance(value, str) and value.startswith("["):
        with suppress(msgspec.DecodeError):  # a category may begin with a bracket
            value = msgspec.json.decode(value, type=list[str])
    parts = value.split("|") if isinstance(value, str) else value if isinstance(value, list) else ()
    return tuple(part for part in (str(part).strip() for part in parts if part is not None) if part)
