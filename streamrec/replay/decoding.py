"""Turns batches of rows into columns of event fields, and keeps account of everything that does not fit.

One `Decoder` reads one log from top to bottom: sortedness is a matter of all its batches. Knows nothing of files.
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
from streamrec.replay.columns import Converted
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
class Tally:
    """What has been found so far.

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
        """Count a problem and, while there is room, keep its words."""
        self.problem_count += 1
        if len(self.problems) < MAX_LISTED:
            self.problems.append(f"row {row}: {problem}")

    def refuse(self, name: str) -> None:
        """Raise if anything was found so far.

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
    tally: Tally = field(default_factory=Tally)

    def decode(self, batch: Batch) -> tuple[list[int], Columns]:
        """Row numbers and field values of the batch's events; what is wrong with the others goes to the tally."""
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
            self.tally.add(row, problem)
        self.tally.events.update(types)
        return rows.tolist(), columns

    def _typed(self, batch: Batch) -> Rows:
        """The rows of event types that are wanted."""
        kinds = self._kinds(batch)
        keep = np.array([kind is not None for kind in kinds], bool)
        return batch.rows[keep], batch.frame.filter(pl.Series(keep)), [kind for kind in kinds if kind is not None]

    def _selected(self, rows: NDArray[np.int64], frame: pl.DataFrame, types: list[EventType]) -> Rows:
        """The rows that the selection lets count; the others are counted by what they were left out for."""
        selector = self.selector
        if selector.selection == EVERYTHING:
            return rows, frame, types
        users, sessions, items = (self._text(frame, name) for name in ("user_id", "session_id", "item_id"))
        fits = selector.fits(items)
        at = np.flatnonzero(fits)
        owners = selector.owners(users, sessions)
        new = np.ones(len(rows), bool)
        new[at] = selector.first_time([types[n] for n in at], owners[at], sessions[at], items[at])
        self.tally.deselected["of other items than asked for"] += int((~fits).sum())
        self.tally.deselected["that repeat an item of their session"] += int((~new).sum())
        keep = fits & new
        return rows[keep], frame.filter(pl.Series(keep)), [types[n] for n in np.flatnonzero(keep)]

    def _owned(
        self, users: Converted, frame: pl.DataFrame, rows: NDArray[np.int64]
    ) -> tuple[Converted, list[tuple[int, str]]]:
        """Users as they are told apart, and the anonymous rows that have no session to tell them by."""
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
                if value in self.tally.unknown_at or len(self.tally.unknown_at) < MAX_LISTED:
                    self.tally.unknown_at.setdefault(value, int(batch.rows[values.index(value)]))
                    self.tally.unknown[value] += count
                else:
                    self.tally.problem_count += count  # a wrong column would name every value it has: only count them
            elif self.types.get(value) is None:
                self.tally.left_out[value] += count
        return [self.types.get(value) for value in values]

    def _unsorted(self, ts: pl.Series, rows: NDArray[np.int64]) -> list[tuple[int, str]]:
        """Rows that are earlier than the row before them, over all batches."""
        given = ts.is_not_null().to_numpy()
        times, at, tally = ts.drop_nulls().to_numpy(), rows[given], self.tally
        if not len(times):
            return []
        if tally.last_ts is not None and tally.last_row is not None:
            times, at = np.append(tally.last_ts, times), np.append(tally.last_row, at)
        tally.first_ts = int(times[0]) if tally.first_ts is None else tally.first_ts
        tally.last_ts, tally.last_row = int(times[-1]), int(at[-1])
        return [
            (int(at[n + 1]), f"'ts' is {times[n + 1]}, before the {times[n]} of row {at[n]}; sort the log by time")
            for n in np.flatnonzero(np.diff(times) < 0)
        ]


def _column(frame: pl.DataFrame, column: str, height: int) -> pl.Series:
    if column.startswith(CONSTANT):
        return pl.repeat(column.removeprefix(CONSTANT), height, dtype=pl.String, eager=True)
    return frame[column]


def _mismatches(
    name: str, raw: pl.Series, read: Converted, expected: str, rows: NDArray[np.int64]
) -> list[tuple[int, str]]:
    bad = read.bad.to_numpy()
    if not bad.any():
        return []
    shown = [repr(value)[:80] for value in raw.filter(read.bad).to_list()]
    return [
        (int(row), f"{name!r} is {value}, expected {expected}") for row, value in zip(rows[bad], shown, strict=True)
    ]


def _missing(name: str, read: Converted, types: list[EventType], rows: NDArray[np.int64]) -> list[tuple[int, str]]:
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
