"""How a column of a log is parsed as one field of an event.

The limits are taken from the `Event` type itself, so a log and a live message are validated alike. Knows nothing of
files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import polars as pl
from msgspec import inspect

from streamrec.events import LARGEST_NUMBER, LATEST_TS_MS, MAX_BASKET, MAX_CANDIDATES, NAMES, ContextValue, Event
from streamrec.replay.columns import (
    ParsedColumn,
    holds_times,
    named,
    number,
    text,
    timestamp,
    whole_number,
    word,
)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event: how to read a column of it, and what a reader of errors is told to expect."""

    name: str
    expected: str
    read: Callable[[pl.Series], ParsedColumn]


def context(series: pl.Series) -> ParsedColumn:
    """A flat map per row, from JSON text or from a struct column; null and not-a-number members are left out."""
    if holds_times(series.dtype):
        return ParsedColumn(pl.Series([None] * len(series), dtype=pl.Object), series.is_not_null())
    maps = [flat_map(value) for value in words_or_values(series)]
    bad = pl.Series([value == {} for value in maps], dtype=pl.Boolean)
    return ParsedColumn(pl.Series([value or None for value in maps], dtype=pl.Object), bad)


def context_member(series: pl.Series) -> ParsedColumn:
    """One member of the context. Text that reads as a number or as true or false is one, for csv has no other way."""
    if holds_times(series.dtype):
        return ParsedColumn(pl.Series([None] * len(series), dtype=pl.Object), series.is_not_null())
    given = [None if missing(value) else value for value in words_or_values(series)]
    values = [_scalar(value) for value in given]
    bad = [value is None and raw is not None for value, raw in zip(values, given, strict=True)]
    return ParsedColumn(pl.Series(values, dtype=pl.Object), pl.Series(bad, dtype=pl.Boolean))


def words_or_values(series: pl.Series) -> list[Any]:
    """The values as Python has them, bytes as the text that they are, if they are any."""
    values = series.to_list()
    return (
        [value if (said := word(value)) is None else said for value in values] if series.dtype == pl.Binary else values
    )


def missing(value: object) -> bool:
    """Whether a value says that there is none: null, not a number, also as text, or nothing between two commas."""
    return value is None or value != value or (isinstance(value, str) and value.strip().lower() in ("", "nan"))


def _scalar(value: object) -> ContextValue | None:
    if isinstance(value, Decimal):
        value = int(value) if value == value // 1 else float(value)
    try:
        return msgspec.convert(_parsed(value) if isinstance(value, str) else value, ContextValue)  # type: ignore[no-any-return]
    except msgspec.ValidationError:
        return None


_NUMBER = re.compile(r"\s*[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]+)?\s*")


def _parsed(value: str) -> ContextValue | None:
    """The number or truth value that a text writes; 007 is none, and no number too large to be held."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for read in (int, float) if _NUMBER.fullmatch(value) else ():
        try:
            parsed = read(value)
        except ValueError:
            continue
        return parsed if -LARGEST_NUMBER <= parsed <= LARGEST_NUMBER else value
    return value


def flat_map(value: object) -> dict[str, ContextValue] | None:
    """The map, None when there is none, and an empty one for what is no flat map of at most 64 members."""
    if missing(value):
        return None
    try:
        raw = msgspec.json.decode(value) if isinstance(value, str) else value
        if not isinstance(raw, dict):
            return {}
        members = {key: float(v) if isinstance(v, Decimal) else v for key, v in raw.items() if v is not None and v == v}
        return msgspec.convert(members, _CONTEXT) or None
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        return {}


def _converted(series: pl.Series, kind: object) -> ParsedColumn:
    """Values of any type, from JSON text or as they are."""
    values = [None if value in (None, "") else _value_of(value, kind) for value in series.to_list()]
    bad = [value is None and raw not in (None, "") for value, raw in zip(values, series.to_list(), strict=True)]
    return ParsedColumn(pl.Series(values, dtype=pl.Object), pl.Series(bad, dtype=pl.Boolean))


def _value_of(value: object, kind: object) -> object:
    try:
        raw = msgspec.json.decode(value) if isinstance(value, str) else value
        if isinstance(raw, dict):  # a struct has all its members in every row
            raw = {key: member for key, member in raw.items() if member is not None}
        return msgspec.convert(raw, kind)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def _type_of(name: str) -> object:
    return next(f.type for f in msgspec.structs.fields(Event) if f.name == name)


_CONTEXT = _type_of("context")
_REQUESTS = {
    "basket": f"at most {MAX_BASKET} item ids, as a list or as JSON",
    "candidates": f"1 to {MAX_CANDIDATES} item ids, as a list or as JSON",
    "filters": "filters as a message has them, as JSON or as a struct",
    "explain": "true or false",
}
"""What only requests have, and how it is written."""


def _field(name: str, kind: inspect.Type) -> Field:
    """How to read a column of the field, from the type that the field has in `Event`."""
    if isinstance(kind, inspect.UnionType):
        kind = next(member for member in kind.types if not isinstance(member, inspect.NoneType))
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    if name == "ts":
        return Field(
            name,
            "milliseconds since 1970 or an ISO 8601 time, before the year 2100",
            lambda series: timestamp(series, LATEST_TS_MS),
        )
    if isinstance(kind, inspect.StrType):
        least, most = kind.min_length or 1, kind.max_length or 1024
        if name in NAMES:
            expected = f"text of {least} to {most} characters without control characters"
            return Field(name, expected, lambda series: named(series, least, most))
        return Field(name, f"text of {least} to {most} characters", lambda series: text(series, least, most))
    if isinstance(kind, inspect.IntType):
        low, high = kind.ge or 0, kind.le or 2**53
        return Field(name, f"a whole number from {low} to {high}", lambda series: whole_number(series, low, high))
    if isinstance(kind, inspect.FloatType):
        return Field(name, "a finite number of at most 64 bits", lambda series: number(series, LARGEST_NUMBER))
    if name in _REQUESTS:
        return Field(name, _REQUESTS[name], lambda series: _converted(series, _type_of(name)))
    return Field(name, "a flat map of at most 64 texts, numbers or booleans, as JSON or as a struct", context)


_EVENT = inspect.type_info(Event)
assert isinstance(_EVENT, inspect.StructType)
TEXTS = ("type", "query", *NAMES)
"""The fields whose values are text, also where a table has them as numbers."""
FIELDS: Mapping[str, Field] = {f.name: _field(f.name, f.type) for f in _EVENT.fields if f.name != "type"}
MEMBER = Field(
    "context", "a text of at most 1024 characters, a finite number of at most 64 bits or a boolean", context_member
)
