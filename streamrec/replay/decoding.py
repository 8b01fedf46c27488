"""Decodes batches of rows into columns of event fields, and counts and lists everything that does not fit.

One `Decoder` reads one log from its beginning to its end, since sortedness spans batches. Knows nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamrec.errors import LogError
from streamrec.events import ITEMLESS_TYPES, EventType
from streamrec.replay.columns import ParsedColumn
from streamrec.replay.fields import FIELDS, MEMBER
from streamrec.replay.selection import EVERYTHING, Selector
from streamrec.replay.tables import Batch

MAX_LISTED = 20
"""Problems spelt out before an error only counts them."""
CONSTANT = "@"
"""`type=@purchase` gives every row the same value where a log has no such column."""
CONTEXT_MEMBER = "context."
Columns = dict[str, list[Any]]
Rows = tuple[NDArray[np.int64], pl.DataFrame, list[EventType]]
"""Row numbers, cells and event types of some rows."""


@dataclass(slots=True)
class DecodingReport:
    """Counts of events and of rows left out, and the problems found so far.

    `left_out` and `unknown` count rows by the value of their type column, `deselected` by what they were left out for.
    """

    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    unknown_at: dict[str, int] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    deselected: Counter[str] = field(default_factory=Counter)
    events: Counter[EventType] = field(default_factory=Counter)
    first_ts: int | None = None
    last_ts: int | None = None
    last_row: int | None = None

    def add(self, row: int, problem: str) -> None:
        """Count a problem; the first MAX_LISTED are kept in words."""
        self.problem_count += 1
        if len(self.problems) < MAX_LISTED:
            self.problems.append(f"row {row}: {problem}")

    def raise_problems(self, name: str) -> None:
        """Raise an error if any problem was found so far.

        Raises:
            LogError: what was found, with row numbers.
        """
        lines = [
            f"{count} rows from row {self.unknown_at[value]} on are of type {value!r}, which is no event type"
            for value, count in self.unknown.most_common(MAX_LISTED)
        ]
        if lines:
            known = ", ".join(EventType)
            lines.append(
                f"translate a type (--map-type 'VALUE=TYPE'), leave its rows out (--map-type 'VALUE=') or leave out "
                f"all such rows (--skip-unknown-types); event types are {known}"
            )
        lines += self.problems
        if self.problem_count > len(self.problems):
            lines.append(f"... and {self.problem_count - len(self.problems)} more")
        if lines:
            found = self.problem_count + self.unknown.total()
            raise LogError(f"{name}: cannot be replayed, {found} problem{'s'[: found > 1]}:\n  " + "\n  ".join(lines))


@dataclass(frozen=True, slots=True)
class Decoder:
    """Reads batches in the log's order.

    `columns` is field to column, `types` is value of the type column to event type, None where its rows are left out.
    """

    columns: Mapping[str, str]
    types: Mapping[str, EventType | None]
    skip_unknown_types: bool
    selector: Selector = field(default_factory=lambda: Selector(EVERYTHING))
    report: DecodingReport = field(default_factory=DecodingReport)

    def decode(self, batch: Batch) -> tuple[list[int], Columns]:
        """Row numbers and field values of the batch's events; problems of the other rows go to the report."""
        rows, frame, types = self._selected(*self._typed(batch))
        found = list(batch.broken)
        columns: Columns = {"type": types}
        for name, column in self.columns.items():
            if name == "type":
                continue
            field_ = MEMBER if name.startswith(CONTEXT_MEMBER) else FIELDS[name]
            raw = _column(frame, column, len(rows))
            read = field_.read(raw)
            found += _mismatches(name, raw, read, field_.expected, rows) + _missing(name, read, types, rows)
            if name == "ts":
                found += self._unsorted(read.values, rows)
            if name == "user_id" and self.selector.selection.anonymous is not None:
                read, astray = self._owned(read, frame, rows)
                found += astray
            columns[name] = read.values.to_list()
        members = [name for name in columns if name.startswith(CONTEXT_MEMBER)]
        if members:
            added = {name.removeprefix(CONTEXT_MEMBER): columns.pop(name) for name in members}
            columns["context"] = _with_members(columns.get("context"), added, len(rows))
        for row, problem in sorted(found):
            self.report.add(row, problem)
        self.report.events.update(types)
        return rows.tolist(), columns

    def _typed(self, batch: Batch) -> Rows:
        """The rows whose event type is not left out."""
        kinds = self._kinds(batch)
        keep = np.array([kind is not None for kind in kinds], bool)
        return batch.rows[keep], batch.frame.filter(pl.Series(keep)), [kind for kind in kinds if kind is not None]

    def _selected(self, rows: NDArray[np.int64], frame: pl.DataFrame, types: list[EventType]) -> Rows:
        """The rows that the selection keeps; the others are counted by the reason why they were left out."""
        selector = self.selector
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
    ) -> tuple[ParsedColumn, list[tuple[int, str]]]:
        """User ids, those of anonymous rows with their session appended, and the problems of rows without one."""
        anonymous, field_ = self.selector.selection.anonymous, FIELDS["user_id"]
        sessions = self._text(frame, "session_id")
        lost = ((users.values == anonymous) & sessions.is_null()).fill_null(False).to_numpy()
        problem = f"'session_id' is empty, and a row of the anonymous user {anonymous!r} needs one"
        owned = field_.read(self.selector.owners(users.values, sessions))
        too_long = _mismatches("user_id", users.values, owned, f"{field_.expected}, its session's included", rows)
        return owned, [(int(row), problem) for row in rows[lost]] + too_long

    def _text(self, frame: pl.DataFrame, name: str) -> pl.Series:
        """A column of ids as text, all null when the log has none."""
        column = self.columns.get(name)
        if column is None:
            return pl.Series([None] * len(frame), dtype=pl.String)
        return FIELDS[name].read(_column(frame, column, len(frame))).values

    def _kinds(self, batch: Batch) -> list[EventType | None]:
        """Each row's event type, None for the rows left out."""
        raw = _column(batch.frame, self.columns["type"], len(batch.rows)).cast(pl.String, strict=False)
        values: list[str] = raw.fill_null("").to_list()
        for value, count in Counter(values).items():
            if value not in self.types and not self.skip_unknown_types:
                if value in self.report.unknown_at or len(self.report.unknown_at) < MAX_LISTED:
                    self.report.unknown_at.setdefault(value, int(batch.rows[values.index(value)]))
                    self.report.unknown[value] += count
                else:
                    self.report.problem_count += count  # a wrong column would name every value it has: only count them
            elif self.types.get(value) is None:
                self.report.left_out[value] += count
        return [self.types.get(value) for value in values]

    def _unsorted(self, ts: pl.Series, rows: NDArray[np.int64]) -> list[tuple[int, str]]:
        """Rows that are earlier than the row before them, over all batches."""
        given = ts.is_not_null().to_numpy()
        times, at, report = ts.drop_nulls().to_numpy(), rows[given], self.report
        if not len(times):
            return []
        if report.last_ts is not None and report.last_row is not None:
            times, at = np.append(report.last_ts, times), np.append(report.last_row, at)
        report.first_ts = int(times[0]) if report.first_ts is None else report.first_ts
        report.last_ts, report.last_row = int(times[-1]), int(at[-1])
        return [
            (int(at[n + 1]), f"'ts' is {times[n + 1]}, before the {times[n]} of row {at[n]}; sort the log by time")
            for n in np.flatnonzero(np.diff(times) < 0)
        ]


def _column(frame: pl.DataFrame, column: str, height: int) -> pl.Series:
    if column.startswith(CONSTANT):
        return pl.repeat(column.removeprefix(CONSTANT), height, dtype=pl.String, eager=True)
    return frame[column]


def _mismatches(
    name: str, raw: pl.Series, read: ParsedColumn, expected: str, rows: NDArray[np.int64]
) -> list[tuple[int, str]]:
    bad = read.bad.to_numpy()
    if not bad.any():
        return []
    shown = [repr(value)[:80] for value in raw.filter(read.bad).to_list()]
    return [
        (int(row), f"{name!r} is {value}, expected {expected}") for row, value in zip(rows[bad], shown, strict=True)
    ]


def _missing(name: str, read: ParsedColumn, types: list[EventType], rows: NDArray[np.int64]) -> list[tuple[int, str]]:
    """Rows without a value that every event needs; a value that is there but bad has been named already."""
    if name not in ("user_id", "ts", "item_id") or not read.values.null_count():
        return []
    empty = (read.values.is_null() & ~read.bad).to_list()
    excused = ITEMLESS_TYPES if name == "item_id" else frozenset()
    return [
        (int(row), f"{name!r} is empty, and a {kind.value!r} event needs one")
        for row, kind, nothing in zip(rows, types, empty, strict=True)
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
