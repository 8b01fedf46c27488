"""Decodes batches of rows into events, and counts and lists everything that does not fit.

One `Decoder` reads one log from its beginning to its end, since sortedness spans batches. Knows nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamrec import codec
from streamrec.errors import BadEvent, did_you_mean
from streamrec.events import ITEMLESS_TYPES, NAMES, Event, EventType
from streamrec.replay.batches import Batch
from streamrec.replay.columns import ParsedColumn, holds_times, shown, words
from streamrec.replay.fields import FIELDS, MEMBER
from streamrec.replay.refusals import UNKNOWN_TYPE, Problem, Refusals
from streamrec.replay.selection import EVERYTHING, RecentKeys, Selection, Selector
from streamrec.replay.time_units import IN_MS, UNITS_IN_WORDS, TimeUnit, in_ms, looks_like

CONSTANT = "@"
"""`type=@purchase` gives every row the same value where a log has no such column."""
CONTEXT_MEMBER = "context."
MAX_SHOWN = 80
"""Characters of a bad value that are shown."""
Columns = dict[str, list[Any]]
Rows = tuple[NDArray[np.int64], pl.DataFrame, list[EventType]]
"""Row numbers, cells and event types of some rows."""
Judge = Callable[[Event], None]
"""Raises BadEvent for an event that a worker would not take."""


@dataclass(frozen=True, slots=True)
class RowFormat:
    """What the rows of a log say.

    `columns` is field to column, `types` is value of the type column to event type, None where its rows are left out;
    `unit` is what numbers in the column of `ts` count.
    """

    columns: Mapping[str, str]
    types: Mapping[str, EventType | None]
    skip_unknown_types: bool = False
    unit: TimeUnit = TimeUnit.MS
    selection: Selection = EVERYTHING


@dataclass(slots=True)
class DecodingReport:
    """Counts of events and of rows left out, and what was refused so far.

    `left_out` counts rows by the value of their type column, `deselected` by what they were left out for.
    `fractions` counts, by field, the names that are whole numbers with a zero fraction, as 8000.0, and stay so.
    """

    refusals: Refusals = field(default_factory=Refusals)
    left_out: Counter[str] = field(default_factory=Counter)
    deselected: Counter[str] = field(default_factory=Counter)
    events: Counter[EventType] = field(default_factory=Counter)
    fractions: Counter[str] = field(default_factory=Counter)
    first_ts: int | None = None
    last_ts: int | None = None
    last_row: int | None = None
    repeated: int = 0
    """Events with an `event_id` that their user had before; of long logs, not long before."""
    unrated: int = 0
    """Ratings without a value."""


class Decoder:
    """Reads batches in the log's order."""

    def __init__(self, row_format: RowFormat, judge: Judge | None = None) -> None:
        """Without a `judge`, whatever is an event is taken."""
        self.report = DecodingReport()
        self._format = row_format
        self._judge = judge
        self._selector = Selector(row_format.selection)
        self._ids = RecentKeys()

    def decode(self, batch: Batch) -> list[tuple[int, Event]]:
        """The batch's events with their row numbers; what is wrong with the other rows goes to the report."""
        problems = [Problem(row, "unreadable", why) for row, why in batch.broken]
        rows, frame, types = self._selected(*self._typed(batch, problems))
        columns = self._columns(rows, frame, types, problems)
        taken = []
        unread, names = {problem.row for problem in problems}, tuple(columns)
        for row, values in zip(rows.tolist(), zip(*columns.values(), strict=True), strict=True):
            if row in unread:
                continue
            try:
                event = Event(**dict(zip(names, values, strict=True)))  # the columns' readers hold it to its limits
            except ValueError as error:  # control characters in a basket
                problems.append(Problem(row, "invalid", str(error)))
                continue
            problem = self._problem(row, event)
            if problem is not None:
                problems.append(problem)
                continue
            taken.append((row, event))
            self.report.unrated += event.type is EventType.RATING and event.value is None
            if event.event_id is not None and not self._ids.add((event.user_id, event.event_id)):
                self.report.repeated += 1
        self.report.refusals.add(problems)
        self.report.events.update(event.type for _, event in taken)
        return taken

    def _columns(
        self, rows: NDArray[np.int64], frame: pl.DataFrame, types: list[EventType], problems: list[Problem]
    ) -> Columns:
        """The fields of every row, None where there is nothing; what cannot be read goes to the problems."""
        columns: Columns = {"type": types}
        for name, column in self._format.columns.items():
            if name == "type":
                continue
            field_ = MEMBER if name.startswith(CONTEXT_MEMBER) else FIELDS[name]
            raw = _column(frame, column, len(rows))
            unit = self._format.unit if name == "ts" else None
            read = field_.read(raw if unit is None else in_ms(raw, unit))
            problems += _mismatches(name, raw, read, field_.expected, rows, unit) + _missing(name, read, types, rows)
            if name in NAMES:
                self.report.fractions[name] += int(read.values.str.contains(r"^-?\d+\.0+$").sum())
            if name == "user_id" and self._selector.selection.anonymous is not None:
                read, astray = self._owned(read, frame, rows)
                problems += astray
            columns[name] = read.values.to_list()
        members = [name for name in columns if name.startswith(CONTEXT_MEMBER)]
        if members:
            added = {name.removeprefix(CONTEXT_MEMBER): columns.pop(name) for name in members}
            columns["context"] = _with_members(columns.get("context"), added, len(rows))
        return columns

    def _problem(self, row: int, event: Event) -> Problem | None:
        """Why no worker would take an event, or why it cannot stand here; None when nothing is wrong with it."""
        report, ts = self.report, event.ts
        try:
            if self._judge is not None:
                self._judge(event)
        except BadEvent as error:
            reason = error.reason if error.field is None else f"{error.reason} {error.field}"
            unit = self._format.unit
            hint = _time_hint(ts / IN_MS[unit], unit) if error.field == "ts" else ""
            if error.reason == "future":
                hint = ", which for a log is now"
            return Problem(row, reason, error.detail + hint)
        if report.last_ts is not None and ts < report.last_ts:
            detail = f"'ts' is {ts}, before the {report.last_ts} of row {report.last_row}; sort the log by time"
            return Problem(row, "unsorted ts", detail)
        report.first_ts = ts if report.first_ts is None else report.first_ts
        report.last_ts, report.last_row = ts, row
        return None

    def _typed(self, batch: Batch, problems: list[Problem]) -> Rows:
        """The rows whose event type is not left out."""
        kinds = self._kinds(batch, problems)
        keep = np.array([kind is not None for kind in kinds], bool)
        return batch.rows[keep], batch.frame.filter(pl.Series(keep)), [kind for kind in kinds if kind is not None]

    def _selected(self, rows: NDArray[np.int64], frame: pl.DataFrame, types: list[EventType]) -> Rows:
        """The rows that the selection keeps; the others are counted by the reason why they were left out."""
        selector = self._selector
        if selector.selection == EVERYTHING:
            return rows, frame, types
        users, sessions, items = (self._text(frame, name) for name in ("user_id", "session_id", "item_id"))
        fits = selector.fits(items)
        at = np.flatnonzero(fits)
        owners = selector.owners(users, sessions)
        new = np.ones(len(rows), bool)
        new[at] = selector.first_time([types[n] for n in at], owners[at], sessions[at], items[at])
        self.report.deselected["of other items than asked for"] += int((~fits).sum())
        self.report.deselected["that repeat an item of their session"] += int((~new).sum())
        keep = fits & new
        return rows[keep], frame.filter(pl.Series(keep)), [types[n] for n in np.flatnonzero(keep)]

    def _owned(
        self, users: ParsedColumn, frame: pl.DataFrame, rows: NDArray[np.int64]
    ) -> tuple[ParsedColumn, list[Problem]]:
        """User ids, those of anonymous rows with their session appended, and the problems of rows without one."""
        anonymous, field_ = self._selector.selection.anonymous, FIELDS["user_id"]
        sessions = self._text(frame, "session_id")
        lost = ((users.values == anonymous) & sessions.is_null()).fill_null(False).to_numpy()
        detail = f"'session_id' is empty, and a row of the anonymous user {anonymous!r} needs one"
        owned = field_.read(self._selector.owners(users.values, sessions))
        too_long = _mismatches("user_id", users.values, owned, f"{field_.expected}, its session's included", rows)
        return owned, [Problem(row, "missing session_id", detail) for row in rows[lost].tolist()] + too_long

    def _text(self, frame: pl.DataFrame, name: str) -> pl.Series:
        """A column of ids as text, all null when the log has none."""
        column = self._format.columns.get(name)
        if column is None:
            return pl.Series([None] * len(frame), dtype=pl.String)
        return FIELDS[name].read(_column(frame, column, len(frame))).values

    def _kinds(self, batch: Batch, problems: list[Problem]) -> list[EventType | None]:
        """Each row's event type, None for the rows left out; types that nobody named go to the problems."""
        raw = _column(batch.frame, self._format.columns["type"], len(batch.rows))
        values: list[str] = words(raw).fill_null("").to_list()
        types, strange = self._format.types, set[str]()
        for value, count in Counter(values).items():
            if value not in types and not self._format.skip_unknown_types:
                strange.add(value)
            elif types.get(value) is None:
                self.report.left_out[value] += count
        for row, value in zip(batch.rows.tolist(), values, strict=True):
            if value in strange:
                said, near = codec.brief(repr(value), MAX_SHOWN), did_you_mean(value, EventType)
                problems.append(
                    Problem(row, f"{UNKNOWN_TYPE} {said}", f"'type' is {said}, which is no event type{near}")
                )
        return [types.get(value) for value in values]


def _column(frame: pl.DataFrame, column: str, height: int) -> pl.Series:
    if column.startswith(CONSTANT):
        return pl.repeat(column.removeprefix(CONSTANT), height, dtype=pl.String, eager=True)
    return frame[column]


def _mismatches(
    name: str, raw: pl.Series, read: ParsedColumn, expected: str, rows: NDArray[np.int64], unit: TimeUnit | None = None
) -> list[Problem]:
    """Rows whose value is none of the field; `unit` is that of times."""
    said = [f"{name!r} is {value}, expected {expected}" for value in shown(raw, read.bad)]
    if unit is not None and not holds_times(raw.dtype):
        said = [problem + _time_hint(value, unit) for problem, value in zip(said, raw.filter(read.bad), strict=True)]
    at = rows[read.bad.to_numpy()].tolist()
    return [Problem(row, f"invalid {name}", problem) for row, problem in zip(at, said, strict=True)]


def _time_hint(value: object, unit: TimeUnit) -> str:
    found = looks_like(value, unit)
    if isinstance(found, TimeUnit):
        return f": {UNITS_IN_WORDS[found]}? If all rows have them, use --ts-unit {found}"
    return "" if found is None else f": a date? Write it as {found.isoformat()}"


def _missing(name: str, read: ParsedColumn, types: list[EventType], rows: NDArray[np.int64]) -> list[Problem]:
    """Rows without a value that every event needs; a value that is there but bad has been named already."""
    if name not in ("user_id", "ts", "item_id") or not read.values.null_count():
        return []
    empty = (read.values.is_null() & ~read.bad).to_list()
    excused = ITEMLESS_TYPES if name == "item_id" else frozenset()
    return [
        Problem(row, f"missing {name}", f"{name!r} is empty, and a {kind.value!r} event needs one")
        for row, kind, nothing in zip(rows.tolist(), types, empty, strict=True)
        if nothing and kind not in excused
    ]


def _with_members(maps: list[Any] | None, members: Columns, height: int) -> list[Any]:
    """Each row's context with its dotted members added; None where there is nothing."""
    merged = [dict(given or {}) for given in maps or [None] * height]
    for key, values in members.items():
        for context, value in zip(merged, values, strict=True):
            if value is not None:
                context[key] = value
    return [context or None for context in merged]
