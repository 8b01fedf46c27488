"""Parses whole columns of a table as text, numbers or times, and marks the values that cannot be parsed.

The same value is read the same however its format writes it: as text, as a number of any type, or as a Python object
where a column holds several types. A column at once, because tables have hundreds of thousands of rows. Knows nothing
of files or catalogues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from streamrec.events import CONTROL_CHARACTERS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOGICAL = {"true": 1.0, "false": 0.0}
EXACT = {"Float16": 2.0**11, "Float32": 2.0**24, "Float64": 2.0**53}
"""Above these, floats have lost the digits by which whole numbers differ."""
LONGEST = 10**38
"""No column of whole numbers holds longer ones."""


@dataclass(frozen=True, slots=True)
class ParsedColumn:
    """`values` of the type asked for, null where the table has none or a bad one; `bad` marks the latter."""

    values: pl.Series
    bad: pl.Series


def text(series: pl.Series, min_length: int, max_length: int) -> ParsedColumn:
    """Text of a bounded length, in characters. Whole numbers become text (17850.0 is '17850'); empty text is null."""
    given = _given(series)
    values = words(series)
    length = values.str.len_chars()
    bad = given & (values.is_null() | (length > max_length) | ((length > 0) & (length < min_length)))
    return ParsedColumn(_only(values, ~bad & (length > 0)), bad.fill_null(True))


def named(series: pl.Series, min_length: int, max_length: int) -> ParsedColumn:
    """Text as by `text`, without control characters, as identifiers need it."""
    read = text(series, min_length, max_length)
    unfit = read.values.str.contains(CONTROL_CHARACTERS).fill_null(False)
    return ParsedColumn(_only(read.values, ~unfit), read.bad | unfit)


def number(series: pl.Series, most: float = float("inf")) -> ParsedColumn:
    """Finite numbers, at most so far from 0; true is 1. Not-a-number is null, as tables write a missing one."""
    if series.dtype == pl.String:
        series = series.str.strip_chars()
    values = as_float(series)
    given = _given(series) & values.is_not_nan().fill_null(True)
    bad = given & (values.is_null() | (values.is_infinite() | (values.abs() > most)).fill_null(False))
    return ParsedColumn(_only(values, given & ~bad), bad)


def whole_number(series: pl.Series, least: int, most: int) -> ParsedColumn:
    """Whole numbers within bounds, also when written 3.0."""
    numbers = number(series)
    whole = numbers.values.cast(pl.Int64, strict=False)
    fits = ((whole.cast(pl.Float64) == numbers.values) & (whole >= least) & (whole <= most)).fill_null(False)
    bad = numbers.bad | (numbers.values.is_not_null() & ~fits)
    return ParsedColumn(_only(whole, fits), bad)


def timestamp(series: pl.Series, latest_ms: int) -> ParsedColumn:
    """Milliseconds since 1970 from numbers, from timestamp columns, or from ISO 8601 text (UTC unless it says)."""
    if series.dtype in (pl.Date, pl.Datetime):
        series = series.dt.epoch("ms")
    read = whole_number(series, 0, latest_ms)
    if not read.bad.any() or series.dtype not in (pl.String, pl.Binary, pl.Object):
        return read
    moments = pl.Series([time_ms(value) if bad else None for value, bad in zip(series, read.bad, strict=True)])
    fits = moments.cast(pl.Int64).is_between(0, latest_ms).fill_null(False)
    values = pl.select(pl.when(fits).then(moments.cast(pl.Int64)).otherwise(read.values)).to_series()
    return ParsedColumn(values, read.bad & ~fits)


def words(series: pl.Series) -> pl.Series:
    """The text of every value that can be a name: text, whole numbers, and bytes in UTF-8."""
    dtype = series.dtype
    if dtype == pl.String:
        return series
    if dtype in (pl.Binary, pl.Object):
        return _mapped(series, word, pl.String)
    if dtype.is_float():
        exact = series.abs() <= EXACT[str(dtype)]
        whole = _only(series, exact & (series == series.round())).cast(pl.Int64, strict=False)
        return whole.cast(pl.String)
    if dtype.is_decimal():
        return series.cast(pl.String).str.extract(r"^(-?\d+)(?:\.0*)?$")
    return series.cast(pl.String) if dtype.is_integer() else _nothing(series, pl.String)


def zero_fraction(series: pl.Series) -> str | None:
    """The zero fraction that all texts have, as '.0' of 8000.0; empty if there is no text, None if they share none."""
    given = series.drop_nulls()
    if given.is_empty():
        return ""
    if given.dtype != pl.String:
        return None
    given = given.filter(given.str.to_lowercase() != "nan")
    fractions = given.str.extract(r"^(?:0|-?[1-9][0-9]*)(\.0+)$").unique().to_list()
    return "" if not fractions else fractions[0] if len(fractions) == 1 else None


def as_float(series: pl.Series) -> pl.Series:
    """The numbers that the values are or write, not all of them finite; null for what is none."""
    dtype = series.dtype
    if dtype.is_numeric() or dtype == pl.Boolean:
        return series.cast(pl.Float64, strict=False)
    if dtype == pl.Binary:
        return as_float(words(series).str.strip_chars())
    if dtype == pl.String:
        logical = series.str.to_lowercase().replace_strict(_LOGICAL, default=None, return_dtype=pl.Float64)
        return pl.select(pl.coalesce(series.cast(pl.Float64, strict=False), logical)).to_series()
    if dtype == pl.Object:
        texts = _mapped(series, lambda value: value.strip() if isinstance(value, str) else None, pl.String)
        return pl.select(pl.coalesce(_mapped(series, _float, pl.Float64), as_float(texts))).to_series()
    return _nothing(series, pl.Float64)


def word(value: object) -> str | None:
    """What `words` says of a value, None where it is no name."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    most = EXACT["Float64"] if isinstance(value, float) else LONGEST
    return str(int(value)) if -most <= value <= most and value == value // 1 else None


def shown(series: pl.Series, which: pl.Series) -> list[str]:
    """Some values of a column as errors show them: short, and also where Python has no such value."""
    if not which.any():
        return []
    wrong = series.filter(which)
    if wrong.dtype.is_temporal():
        return [f"{value} ({wrong.dtype})"[:80] for value in wrong.to_physical().to_list()]
    if holds_times(wrong.dtype):
        return [f"a {wrong.dtype}"[:80]] * len(wrong)
    return [repr(value)[:80] for value in wrong.to_list()]


def holds_times(dtype: pl.DataType) -> bool:
    """Whether values are, or are made of, times: those may be outside of what Python can hold."""
    if isinstance(dtype, pl.Struct):
        return any(holds_times(field.dtype) for field in dtype.fields)  # type: ignore[arg-type]
    inner = getattr(dtype, "inner", getattr(dtype, "value", None))  # of a list, an array or a map
    return dtype.is_temporal() if inner is None else holds_times(inner)


def time_ms(value: object) -> int | None:
    """A moment, or ISO 8601 text, in ms since 1970; None for anything else."""
    try:
        if isinstance(value, str | bytes):
            value = datetime.fromisoformat((word(value) or "").strip())
    except ValueError:
        return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - EPOCH) // timedelta(milliseconds=1)


def _given(series: pl.Series) -> pl.Series:
    """Which values are there: neither null, nor not-a-number, nor blank."""
    if series.dtype.is_float():
        return series.is_not_null() & series.is_not_nan().fill_null(True)
    if series.dtype == pl.Object:
        return pl.Series([value is not None and value == value and value != "" for value in series], dtype=pl.Boolean)
    return series.is_not_null() & (series != "") if series.dtype == pl.String else series.is_not_null()


def _float(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float | Decimal) else None
    except OverflowError:
        return float("inf")


def _mapped(series: pl.Series, read: Callable[[Any], object], dtype: type[pl.DataType]) -> pl.Series:
    return pl.Series([None if value is None else read(value) for value in series.to_list()], dtype=dtype)


def _only(values: pl.Series, keep: pl.Series) -> pl.Series:
    return pl.select(pl.when(keep).then(values)).to_series()


def _nothing(series: pl.Series, dtype: type[pl.DataType]) -> pl.Series:
    return pl.Series([None] * len(series), dtype=dtype)
