"""Reads the rows of a table of actions, typed: those that cannot be used are refused with their reason, and counted.

Knows nothing of targets or estimates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from streamrec.errors import TableError
from streamrec.replay.batches import Batch
from streamrec.replay.columns import ParsedColumn, as_float, number, shown, text, words
from streamrec.replay.tables import Table

NUMBERS = ("reward", "propensity", "target", "probability")
TEXTS = ("item", "slate", "user", "position")
MAX_CHARS = 1024
MAX_LISTED = 20
"""Refused rows spelt out before an error only counts them."""


@dataclass(frozen=True, slots=True)
class RowOptions:
    """Which rows of a table count, and what else is read of them."""

    where: Mapping[str, str] = field(default_factory=dict)  # column to the one value that counts
    features: Sequence[str] = ()  # columns that the reward model may see
    limit: int = 2_000_000
    max_refused: float | None = None  # share of the rows that may be left out because they cannot be used


@dataclass(frozen=True, slots=True)
class ActionRows:
    """`frame` has each field, `position_number`, and of the n-th feature `feature n` (text) and `feature n number`."""

    frame: pl.DataFrame
    notes: tuple[str, ...]


def read_rows(table: Table, columns: Mapping[str, str], options: RowOptions) -> ActionRows:
    """The rows that match `where`, up to the limit; `columns` is field to column.

    A slate of which a row is refused is left out whole, for what it shows is no longer known.

    Raises:
        TableError: more rows are refused than `max_refused` allows; names the first.
    """
    frames: list[pl.DataFrame] = []
    refused: list[tuple[int, str]] = []
    lost: set[str] = set()
    matched = broken = 0
    wanted = sorted({*columns.values(), *options.where, *options.features})
    names = {column for name, column in columns.items() if name in TEXTS}
    for batch in table.batches(wanted, names=names):
        refused += batch.broken
        broken += len(batch.broken)
        keep = pl.Series([True] * len(batch.rows), dtype=pl.Boolean)
        for column, value in options.where.items():
            keep &= _matches(batch.frame[column], value)
        keep &= keep.cum_sum() <= options.limit + 1 - matched
        matched += int(keep.sum())
        frame, problems = _typed(Batch(batch.rows[keep.to_numpy()], batch.frame.filter(keep)), columns, options)
        refused += problems.items()
        bad = frame["row"].is_in(list(problems))
        if "slate" in frame.columns:
            lost.update(frame["slate"].filter(bad).drop_nulls())
        frames.append(frame.filter(~bad))
        if matched > options.limit:
            break
    _check_refused(table, refused, matched + broken, options.max_refused)
    frame = pl.concat(frames) if frames else pl.DataFrame()
    notes = []
    if matched > options.limit:
        notes.append(f"reading stopped at the limit of {options.limit:,} rows")
        frame = frame.head(options.limit)
    if refused:
        notes.append(f"{len(refused):,} rows cannot be used and were left out, the first is row {_first(refused)}")
    if lost:
        whole = frame.filter(~frame["slate"].is_in(list(lost)))
        notes.append(f"{len(frame) - len(whole):,} more rows were left out with them, as they are of the same slates")
        frame = whole
    if refused and frame.is_empty():
        _check_refused(table, refused, matched + broken, None)
    return ActionRows(frame, tuple(notes))


def _first(refused: list[tuple[int, str]]) -> str:
    row, reason = min(refused)
    return f"{row}: {reason}"


def _check_refused(table: Table, refused: list[tuple[int, str]], total: int, allowed: float | None) -> None:
    if len(refused) <= (allowed or 0.0) * total:
        return
    lines = [f"row {row}: {reason}" for row, reason in sorted(refused)[:MAX_LISTED]]
    more = [f"... and {len(refused) - MAX_LISTED:,} more"] if len(refused) > MAX_LISTED else []
    option = "" if allowed is None else ", or leave out up to a share of all rows (--max-refused SHARE)"
    raise TableError(
        f"{table.path.name}: {len(refused):,} of {total:,} rows cannot be used; correct or remove them{option}:\n  "
        + "\n  ".join(lines + more)
    )


def _typed(batch: Batch, columns: Mapping[str, str], options: RowOptions) -> tuple[pl.DataFrame, dict[int, str]]:
    """The fields and features of a batch, and its rows that cannot be used with the first reason."""
    problems: dict[int, str] = {}

    def read(column: str, parsed: ParsedColumn, expected: str, *, needed: bool = True) -> pl.Series:
        unfit = parsed.bad | parsed.values.is_null() if needed else parsed.bad
        for row, value in zip(batch.rows[unfit.to_numpy()], shown(batch.frame[column], unfit), strict=True):
            came = "is empty" if value == "None" else f"is {value}"
            problems.setdefault(int(row), f"{column!r} {came}, expected {expected}")
        return parsed.values

    typed = {"row": pl.Series(batch.rows)}
    for name, column in columns.items():
        series = batch.frame[column]
        if name in NUMBERS:
            typed[name] = read(column, *_number_of(name, series))
        elif name == "position":
            numbers, texts = number(series), text(series, 1, MAX_CHARS)
            either = ParsedColumn(
                pl.select(pl.coalesce(texts.values, numbers.values.cast(pl.String))).to_series(),
                texts.bad & numbers.bad,
            )
            typed[name] = read(column, either, "a position, as a number or text")
            typed["position_number"] = numbers.values
        else:
            typed[name] = read(column, text(series, 1, MAX_CHARS), f"text of 1 to {MAX_CHARS} characters")
    for n, column in enumerate(options.features):
        series = batch.frame[column]
        numbers = ParsedColumn(number(series).values, as_float(series).is_infinite().fill_null(False))
        typed[f"feature {n} number"] = read(column, numbers, "a finite number", needed=False)
        said = _said(series)
        unreadable = series.is_not_null() & said.is_null() & as_float(series).is_null() & (series.dtype != pl.String)
        unread = ParsedColumn(said, unreadable)
        typed[f"feature {n}"] = read(column, unread, "a number, a text or a time", needed=False)
    return pl.DataFrame(typed), problems


def _number_of(name: str, series: pl.Series) -> tuple[ParsedColumn, str]:
    """A column of numbers, or of probabilities, and what to expect of it."""
    numbers = number(series)
    if name == "reward":
        return numbers, "a finite number"
    low = numbers.values > 0 if name == "propensity" else numbers.values >= 0
    fits = (low & (numbers.values <= 1.0 + 1e-9)).fill_null(False)
    start = "above 0" if name == "propensity" else "from 0"
    return ParsedColumn(
        numbers.values, numbers.bad | (numbers.values.is_not_null() & ~fits)
    ), f"probabilities {start} to 1"


def _said(series: pl.Series) -> pl.Series:
    """Every value as a csv file would say it; null where it is missing, or of several parts."""
    if series.dtype == pl.Boolean or series.dtype.is_float() or series.dtype.is_decimal() or series.dtype.is_temporal():
        texts = series.cast(pl.String, strict=False)
    else:
        texts = words(series)
    return pl.select(pl.when(as_float(series).is_not_nan().fill_null(True) & (texts != "")).then(texts)).to_series()


def _matches(series: pl.Series, value: str) -> pl.Series:
    """Which rows have the value: by its text, a whole number also with a zero fraction, truth in any case."""
    texts = _said(series).fill_null("").str.replace(r"^(-?\d+)\.0+$", "$1")
    logical = value.lower() in ("true", "false")
    return texts.str.to_lowercase() == value.lower() if logical else texts == value
