"""Events and items that a program has in hand: dictionaries, a polars or pandas frame, an iterator of either.

Becomes what a broker would hold, so that everything is judged where every message is judged. Knows nothing of files or
models; pandas is not needed, for a frame is known by its methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from streamrec.codec import CONTENT_TYPE, MSGPACK, encode_event
from streamrec.errors import LogError, TableError
from streamrec.events import NAMES, Event, Item
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.transport import Record

HEADERS = ((CONTENT_TYPE, MSGPACK.encode()),)
LARGEST_WHOLE = 2.0**53
"""Floats up to here may stand for whole numbers, as in a column that has gaps."""
NEEDED = ("type", "user_id", "ts")
NO_USER = b"?"
"""The key of a row without a user, which is refused for that."""


class Frame(Protocol):
    """What polars and pandas have in common."""

    @property
    def columns(self) -> Iterable[str]:
        """Their names."""


Row = Mapping[str, Any]


def records_of(events: Iterable[Event | Row] | Frame, topic: str, first: int) -> Iterator[Record]:
    """The rows as records of partition 0, numbered from `first`. Of a frame, the columns named as an event's fields.

    Times may be `datetime`s, ids may be whole numbers, and what is null or not a number counts as not given.

    Raises:
        LogError: a frame lacks a column that every event needs.
        TypeError: a row is neither an event nor a dictionary.
    """
    for offset, row in enumerate(_rows(events, Event.__struct_fields__, NEEDED), first):
        if isinstance(row, Event):
            yield Record(topic, 0, offset, row.user_id.encode(), encode_event(row, MSGPACK), HEADERS)
            continue
        said = _plain(row, offset - first)
        said |= {name: _name(said[name]) for name in NAMES if name in said}
        key = str(said.get("user_id", "")).encode("utf-8", "replace") or NO_USER
        yield Record(topic, 0, offset, key, _json(said))


def items_of(items: Iterable[Item | Row] | Frame) -> CatalogueItems:
    """A catalogue from items, dictionaries or a frame, with the fields of `Item`; `category` does for `categories`.

    Raises:
        TableError: rows that are no items; names the first.
        TypeError: a row is neither an item nor a dictionary.
    """
    if isinstance(items, CatalogueItems):
        return items
    found = []
    for number, row in enumerate(_rows(items, (*Item.__struct_fields__, "category"), ("item_id",))):
        if isinstance(row, Item):
            found.append(row)
            continue
        said = _plain(row, number)
        said["item_id"] = _name(said.get("item_id"))
        if "category" in said:
            said["categories"] = (said.pop("category"),)
        try:
            found.append(msgspec.convert(said, Item))
        except msgspec.ValidationError as error:
            raise TableError(f"row {number} of the catalogue is no item: {error}; correct or remove it") from None
    return CatalogueItems(found)


def _rows(rows: Any, fields: Iterable[str], needed: Iterable[str]) -> Iterator[Any]:
    """The rows, a frame's as dictionaries of the columns that are fields."""
    if not hasattr(rows, "columns"):
        return iter(rows)
    missing = [name for name in needed if name not in rows.columns]
    if missing:
        raise LogError(
            f"the frame has no column {', '.join(map(repr, missing))}; its columns are "
            f"{', '.join(map(str, rows.columns)) or 'none'}: rename those that hold what is missing"
        )
    known = rows[[name for name in fields if name in rows.columns]]
    if hasattr(known, "iter_rows"):
        return iter(known.iter_rows(named=True))
    return (dict(zip(known.columns, cells, strict=True)) for cells in known.itertuples(index=False, name=None))


def _json(said: Row) -> bytes:
    """A row as a message; what has no place in JSON makes it one that is refused, with its beginning to be read."""
    try:
        return msgspec.json.encode(said, enc_hook=str)
    except (TypeError, ValueError, RecursionError):
        return repr(said)[:200].encode("utf-8", "replace")


def _plain(row: object, number: int) -> dict[str, Any]:
    """A row without what is missing, and with its times in ms."""
    if not isinstance(row, Mapping):
        raise TypeError(f"row {number} is a {type(row).__name__}, expected a dictionary or a type of streamrec's own")
    return {name: _value(value) for name, value in row.items() if not _missing(value)}


def _missing(value: Any) -> bool:
    """Null, not-a-number, not-a-time: how frames write it."""
    if isinstance(value, float | datetime):
        return bool(value != value)
    return value is None or type(value).__name__ == "NAType"


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return round((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_WHOLE:
        return int(value)
    return value


def _name(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
