"""Reads a historical log (parquet, csv or jsonl) as typed events, in the log's order and in bounded memory.

Rows are numbered from 0, and an event's row is its offset. Knows nothing of brokers, models or clocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from streamrec import codec
from streamrec.errors import LogError
from streamrec.events import EVENT_TYPES, Event, EventType
from streamrec.replay.decoding import CONSTANT, CONTEXT_MEMBER, Columns, Decoder, DecodingReport
from streamrec.replay.fields import FIELDS
from streamrec.replay.selection import EVERYTHING, Selection, Selector
from streamrec.replay.tables import Batch, Table, open_table
from streamrec.transport import Record

HEADERS = ((codec.CONTENT_TYPE, codec.MSGPACK.encode()),)
SECONDS_LIKE_MS = 100_000_000_000
"""A log that ends before 1973 more likely has seconds for milliseconds."""


@dataclass(frozen=True, slots=True)
class LogSummary:
    """What a checked log holds; times are in ms.

    `left_out` counts rows by the value of their type column, `deselected` rows by why the selection left them out.
    """

    rows: int
    events: Mapping[EventType, int]
    left_out: Mapping[str, int]
    deselected: Mapping[str, int]
    ignored_columns: tuple[str, ...]
    first_ts: int | None
    last_ts: int | None
    hints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """A part of a log, rows `start` to before `stop`, ready to be read as often as wanted. Made by `open_log`."""

    table: Table
    start: int
    stop: int
    columns: Mapping[str, str]
    types: Mapping[str, EventType | None]
    skip_unknown_types: bool
    selection: Selection = EVERYTHING

    def __len__(self) -> int:
        """Rows of the part that is read, those left out included."""
        return self.stop - self.start

    @property
    def ignored_columns(self) -> tuple[str, ...]:
        """The columns that become no field of an event."""
        return tuple(name for name in self.table.columns if name not in self.columns.values())

    def check(self) -> LogSummary:
        """Read the whole part once and say what it holds.

        Raises:
            LogError: rows are unsorted, unreadable or of unknown types; the first problems by row, and their number.
            TableError: the file itself cannot be read to its end.
        """
        decoder = self._decoder()
        for batch in self._batches():
            decoder.decode(batch)
        report = decoder.report
        report.raise_problems(self.table.path.name)
        return LogSummary(
            rows=len(self),
            events=dict(report.events),
            left_out=dict(report.left_out),
            deselected={why: count for why, count in report.deselected.items() if count},
            ignored_columns=self.ignored_columns,
            first_ts=report.first_ts,
            last_ts=report.last_ts,
            hints=_hints(self, report),
        )

    def events(self) -> Iterator[tuple[int, Event]]:
        """Each event with its row number, in the log's order.

        Raises:
            LogError: a problem that `check` would have named; the events of earlier batches have been given by then.
            TableError: the file itself cannot be read to its end.
        """
        decoder = self._decoder()
        for batch in self._batches():
            rows, columns = decoder.decode(batch)
            decoder.report.raise_problems(self.table.path.name)
            yield from zip(rows, _events(columns), strict=True)

    def records(self, topic: str) -> Iterator[Record]:
        """The same as records of one partition: offset is the row, key the user, value the event in msgpack.

        Raises:
            LogError, TableError: as `events`.
        """
        for row, event in self.events():
            value = codec.encode_event(event, codec.MSGPACK)
            yield Record(topic, 0, row, event.user_id.encode(), value, HEADERS)

    def _decoder(self) -> Decoder:
        return Decoder(self.columns, self.types, self.skip_unknown_types, Selector(self.selection))

    def _batches(self) -> Iterator[Batch]:
        used = [name for name in self.table.columns if name in self.columns.values()]
        return self.table.batches(used, self.start, self.stop)


def open_log(
    path: Path,
    *,
    mapping: Mapping[str, str] | None = None,
    types: Mapping[str, str] | None = None,
    skip_unknown_types: bool = False,
    rows: tuple[int | None, int | None] | None = None,
    selection: Selection = EVERYTHING,
) -> Log:
    """Open a log without reading its rows; `check` does that.

    Args:
        path: a .parquet, .csv or .jsonl file.
        mapping: event field to column. A column named as a field needs none; `@text` is a constant in a column's place,
            an empty name leaves the field out, and a field `context.NAME` puts a column into the event's context.
        types: value of the type column to event type; an empty type leaves the rows of that value out.
        skip_unknown_types: leave out, and count, the rows whose type is neither an event type nor in `types`.
        rows: the part to read, from the first row to before the second; None is the log's own beginning or end.
        selection: which of these rows are read, and which users they belong to.

    Raises:
        TableError: the file is missing or is no table.
        LogError: a field, a column or an event type is unknown, a column that every log or this selection needs is
            missing, or the selection's pattern is none.
    """
    table = open_table(path)
    start, stop = _part(table, rows or (None, None))
    columns = _columns(table, mapping or {})
    _check(table, columns, selection)
    return Log(table, start, stop, columns, _types(table, types or {}), skip_unknown_types, selection)


def _part(table: Table, rows: tuple[int | None, int | None]) -> tuple[int, int]:
    start = 0 if rows[0] is None else rows[0]
    stop = table.row_count if rows[1] is None else min(rows[1], table.row_count)
    if not 0 <= start <= stop:
        raise LogError(
            f"{table.path.name}: rows {start}:{stop} cannot be taken of {table.row_count}; expected "
            "first:last with 0 <= first <= last, counted from 0 (--rows A:B)"
        )
    return start, stop


def _columns(table: Table, mapping: Mapping[str, str]) -> dict[str, str]:
    """Field to column: what the mapping says, and every field that has a column of its own name."""
    fields = ("type", *FIELDS)
    problems = []
    for name, column in mapping.items():
        if name not in fields and not (name.startswith(CONTEXT_MEMBER) and name != CONTEXT_MEMBER):
            problems.append(f"{name!r} is no event field; fields are {', '.join(fields)} and context.NAME")
        if column and not column.startswith(CONSTANT) and column not in table.columns:
            problems.append(f"there is no column {column!r} for {name!r}")
    columns = {name: name for name in fields if name in table.columns} | dict(mapping)
    columns = {name: column for name, column in columns.items() if column}
    for name in ("type", "user_id", "ts", "item_id"):
        if name not in columns and (name != "item_id" or name not in mapping):  # a log of requests may leave items out
            constant = ", or --map type=@purchase if all rows are of one type" if name == "type" else ""
            problems.append(f"no column holds {name!r}; name it (--map {name}=COLUMN{constant})")
    if problems:
        raise LogError(
            f"{table.path.name}: cannot be replayed:\n  "
            + "\n  ".join(problems)
            + f"\n  its columns are {', '.join(table.columns) or 'none'}"
        )
    return columns


def _check(table: Table, columns: Mapping[str, str], selection: Selection) -> None:
    """Raise LogError for a selection that this log does not allow."""
    if (problem := selection.problem()) is not None:
        raise LogError(
            f"{table.path.name}: --only-items {selection.only_items!r} cannot be used: {problem}; expected a regular "
            "expression without look-around, such as '^[0-9]{5}'"
        )
    if "session_id" not in columns and (option := selection.needs_sessions()) is not None:
        raise LogError(
            f"{table.path.name}: {option} needs sessions, and no column holds 'session_id'; name it "
            f"(--map session_id=COLUMN); its columns are {', '.join(table.columns)}"
        )


def _types(table: Table, types: Mapping[str, str]) -> dict[str, EventType | None]:
    """Value of the type column to event type, None for the values whose rows are left out."""
    meanings: dict[str, EventType | None] = {kind.value: kind for kind in EVENT_TYPES}
    for value, name in types.items():
        if name and name not in EVENT_TYPES:
            raise LogError(
                f"{table.path.name}: type {value!r} is translated to {name!r}, expected one of "
                f"{', '.join(EVENT_TYPES)}, or nothing to leave its rows out (--map-type 'VALUE=TYPE')"
            )
        meanings[value] = EventType(name) if name else None
    return meanings


def _events(columns: Columns) -> Iterator[Event]:
    """The columns as events; every limit of the type has been checked by the columns' readers."""

    def column(name: str) -> Any:
        return columns.get(name) or repeat(None)

    optional = ("item_id", "event_id", "session_id", "value", "rec_id", "position", "context", "query", "k", "scenario")
    for kind, user, ts, item, event_id, session, value, rec_id, position, context, query, k, scenario in zip(
        columns["type"], columns["user_id"], columns["ts"], *map(column, optional), strict=False
    ):
        yield Event(
            type=kind,
            user_id=user,
            ts=ts,
            item_id=item,
            event_id=event_id,
            session_id=session,
            value=value,
            rec_id=rec_id,
            position=position,
            context=context,
            query=query,
            k=k,
            scenario=scenario,
        )


def _hints(log: Log, report: DecodingReport) -> tuple[str, ...]:
    """Warnings about what is allowed but seldom meant."""
    hints = []
    if report.last_ts is not None and report.last_ts < SECONDS_LIKE_MS:
        hints.append(f"the last 'ts' is {report.last_ts}: before 1973 in milliseconds, are these seconds?")
    if log.ignored_columns:
        hints.append(f"columns that become no event field: {', '.join(log.ignored_columns)}")
    return tuple(hints)
