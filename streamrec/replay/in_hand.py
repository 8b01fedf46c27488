"""Events and items that a program has in hand: dictionaries, a polars or pandas frame, an iterator of either.

Becomes what a broker would hold, so that everything is judged where every message is judged. Knows nothing of files or
models; pandas is not needed, for a frame is known by its methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Protocol

import msgspec
import polars as pl

from streamrec.codec import MSGPACK, MSGPACK_HEADERS, encode_event, fault
from streamrec.errors import LogError, TableError
from streamrec.events import Event, Item
from streamrec.replay.catalogue_file import CatalogueItems, labels, vector
from streamrec.replay.columns import time_ms, word, zero_fraction
from streamrec.replay.fields import TEXTS, flat_map
from streamrec.transport import Record

TIMES = ("ts", "added", "available_from", "available_until")
NUMBERS = (*TIMES, "value", "position", "k", "price", "boost", "bid", "budget")
LISTS = {"category": labels, "categories": labels, "tags": labels, "vector": vector}
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

    Values are read as those of a file: times may be `datetime`s, ids whole numbers, numbers text, and what is null or
    not a number counts as not given. Only the names of dictionaries are read one by one: of text, '8000.0' stays.

    Raises:
        LogError: a frame lacks a column that every event needs.
        TypeError: a row is neither an event nor a dictionary.
    """
    for offset, row in enumerate(_rows(events, Event.__struct_fields__, NEEDED), first):
        if isinstance(row, Event):
            yield Record(topic, 0, offset, row.user_id.encode(), encode_event(row, MSGPACK), MSGPACK_HEADERS)
            continue
        said = _plain(row, offset - first)
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
        if "category" in said:
            said["categories"] = said.get("categories") or said["category"]
            del said["category"]
        try:
            found.append(msgspec.convert(said, Item))
        except msgspec.ValidationError as error:
            raise TableError(
                f"row {number} of the catalogue is no item: {fault(error, said, Item)}; correct or remove it"
            ) from None
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
    fractions = {name: _fraction(known[name]) for name in (*TEXTS, *LISTS) if name in known.columns}
    if hasattr(known, "iter_rows"):
        given: Iterator[Any] = iter(known.iter_rows(named=True))
    else:
        given = (dict(zip(known.columns, cells, strict=True)) for cells in known.itertuples(index=False, name=None))
    if not any(fractions.values()):
        return given
    return ({name: _without(value, fractions.get(name)) for name, value in row.items()} for row in given)


def _fraction(column: Any) -> str | None:
    """The zero fraction that all texts of a frame's column have, as columns of files are read."""
    values = [value for value in column.to_list() if not _missing(value)]
    if not all(isinstance(value, str) and value.isascii() for value in values):
        return None
    return zero_fraction(pl.Series(values, dtype=pl.String))


def _without(value: Any, fraction: str | None) -> Any:
    if not fraction or not isinstance(value, str):
        return value
    return None if value.lower() == "nan" else value.removesuffix(fraction)


def _json(said: Row) -> bytes:
    """A row as a message; what has no place in JSON makes it one that is refused, with its beginning to be read."""
    try:
        return msgspec.json.encode(said, enc_hook=str)
    except (TypeError, ValueError, RecursionError):
        return repr(said)[:200].encode("utf-8", "replace")


def _plain(row: object, number: int) -> dict[str, Any]:
    """A row without what is missing, each value as the same value of a file is read."""
    if not isinstance(row, Mapping):
        raise TypeError(f"row {number} is a {type(row).__name__}, expected a dictionary or a type of streamrec's own")
    return {name: said for name, value in row.items() if (said := _value(name, value)) is not None}


def _missing(value: Any) -> bool:
    """Null, not-a-number, not-a-time: how frames write it."""
    if isinstance(value, float | date | Decimal):
        return bool(value != value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _value(name: str, value: Any) -> Any:
    """A value as the field reads it; what it cannot read stays, to be refused where every message is."""
    if type(value).__module__ == "numpy":
        value = value.tolist()
    if _missing(value):
        return None
    if isinstance(value, tuple):
        value = list(value)
    if name in TEXTS or name == "item_id":
        return value if (said := word(value)) is None else said
    if name in LISTS:
        return LISTS[name](value)
    if name == "context":
        return value if (members := flat_map(value)) == {} else members
    if name not in NUMBERS:
        return value
    if isinstance(value, str):
        value = _number(value.strip())
    if name in TIMES and isinstance(value, str | date):
        moment = time_ms(value)
        return value if moment is None else moment
    if isinstance(value, bool):
        return int(value)
    whole = word(value) if isinstance(value, float | Decimal) else None
    if whole is not None:
        return int(whole)
    return float(value) if isinstance(value, Decimal) else value if _finite(value) else str(value)


def _finite(value: Any) -> bool:
    """Whether a message can say it: JSON would make nothing of an infinite number."""
    return not isinstance(value, float) or math.isfinite(value)


def _number(text: str) -> Any:
    """The number that a text writes, nothing for none; any other text as it is."""
    low = text.lower()
    if low in ("", "nan"):
        return None
    if low in ("true", "false"):
        return low == "true"
    try:
        return float(text) if text.isascii() and "_" not in text and math.isfinite(float(text)) else text
    except ValueError:
        return text
