"""Parses whole columns of a table as text, numbers or times, and marks the values that cannot be parsed.

A column at once, because tables have hundreds of thousands of rows. Knows nothing of files or catalogues.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from streamrec.events import CONTROL_CHARACTERS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ParsedColumn:
    """`values` of the type asked for, null where the table has none or a bad one; `bad` marks the latter."""

    values: pl.Series
    bad: pl.Series


def text(series: pl.Series, min_length: int, max_length: int) -> ParsedColumn:
    """Text of a bounded length, in characters. Whole numbers become text (17850.0 is '17850'); empty text is null."""
    given = series.is_not_null()
    if series.dtype.is_float():
        given &= series.is_not_nan()
        whole = series.cast(pl.Int64, strict=False)
        series = pl.select(pl.when(whole.cast(pl.Float64) == series).then(whole)).to_series()
    if series.dtype.is_nested() or series.dtype.is_temporal() or series.dtype == pl.Boolean:
        values = pl.Series([None] * len(series), dtype=pl.String)
    else:
        values = series.cast(pl.String, strict=False)
    length = values.str.len_chars()
    bad = given & (values.is_null() | (length > max_length) | ((length > 0) & (length < min_length)))
    return ParsedColumn(_only(values, ~bad & (length > 0)), bad.fill_null(True))


def named(series: pl.Series, min_length: int, max_length: int) -> ParsedColumn:
    """Text as by `text`, without control characters, as identifiers need it."""
    read = text(series, min_length, max_length)
    unfit = read.values.str.contains(CONTROL_CHARACTERS).fill_null(False)
    return ParsedColumn(_only(read.values, ~unfit), read.bad | unfit)


def number(series: pl.Series, most: float = float("inf")) -> ParsedColumn:
    """Finite numbers, at most so far from 0; not-a-number is null, for that is how tables write a missing one."""
    values = _as_float(series)
    given = series.is_not_null() & values.is_not_nan().fill_null(True)
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
    if series.dtype.is_temporal():
        series = series.cast(pl.Datetime("ms"), strict=False).dt.epoch("ms")
    if series.dtype == pl.String:
        numbers = series.cast(pl.Int64, strict=False)
        if numbers.null_count() > series.null_count():
            dates = [None if n is not None else _iso_ms(s) for n, s in zip(numbers, series, strict=True)]
            numbers = pl.select(pl.coalesce(numbers, pl.Series(dates, dtype=pl.Int64))).to_series()
        fits = numbers.is_between(0, latest_ms).fill_null(False)
        return ParsedColumn(_only(numbers, fits), series.is_not_null() & ~fits)
    return whole_number(series, 0, latest_ms)


def _only(values: pl.Series, keep: pl.Series) -> pl.Series:
    return pl.select(pl.when(keep).then(values)).to_series()


def _as_float(series: pl.Series) -> pl.Series:
    if series.dtype.is_nested() or series.dtype.is_temporal():
        return pl.Series([None] * len(series), dtype=pl.Float64)
    return series.cast(pl.Float64, strict=False)


def _iso_ms(value: str | None) -> int | None:
    try:
        when = datetime.fromisoformat((value or "").strip())
    except ValueError:
        return None
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - EPOCH) // timedelta(milliseconds=1)
