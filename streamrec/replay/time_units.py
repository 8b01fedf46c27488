"""What numbers in a column of times count since 1970, and what a number looks like that cannot be right.

A unit is never guessed: a guess would date events wrongly without a word. Knows nothing of files.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import polars as pl

from streamrec.events import LATEST_TS_MS
from streamrec.worker.validation import EARLIEST_TS


class TimeUnit(StrEnum):
    """What is counted."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"


IN_MS = {TimeUnit.S: 1e3, TimeUnit.MS: 1.0, TimeUnit.US: 1e-3, TimeUnit.NS: 1e-6}
UNITS_IN_WORDS = {
    TimeUnit.S: "seconds",
    TimeUnit.MS: "milliseconds",
    TimeUnit.US: "microseconds",
    TimeUnit.NS: "nanoseconds",
}
_DATES = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


def in_ms(series: pl.Series, unit: TimeUnit) -> pl.Series:
    """A column with its numbers, also those that stand as text, in ms; whatever is none stays as it is."""
    if unit is TimeUnit.MS or not (series.dtype.is_numeric() or series.dtype == pl.String):
        return series
    numbers = (series.cast(pl.Float64, strict=False) * IN_MS[unit]).round()
    if series.dtype.is_numeric():
        return numbers
    return pl.select(pl.coalesce(numbers.cast(pl.Int64, strict=False).cast(pl.String), series)).to_series()


def looks_like(value: object, unit: TimeUnit = TimeUnit.MS) -> TimeUnit | datetime | None:
    """What a time that is none in `unit` may be: a number of another unit, or a date written as one number."""
    try:
        number = float(value)  # type: ignore[arg-type]  # anything may stand in a column
    except (TypeError, ValueError):
        return None
    for other, ms in IN_MS.items():
        if other is not unit and EARLIEST_TS <= number * ms <= LATEST_TS_MS:
            return other
    digits = f"{number:.0f}"
    try:
        return datetime.strptime(digits, _DATES.get(len(digits), ""))
    except ValueError:
        return None
