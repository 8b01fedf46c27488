"""Reads a historical log (parquet, csv or jsonl) as typed events, in the log's order and in bounded memory.

Rows are numbered from 0, and an event's row is its offset. Knows nothing of brokers, models or clocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from streamrec import codec
from streamrec.errors import LogError
from streamrec.events import EVENT_TYPES, Event, EventType
from streamrec.replay.batches import Batch
from streamrec.replay.decoding import CONSTANT, CONTEXT_MEMBER, Decoder, DecodingReport, RowFormat
from streamrec.replay.fields import FIELDS, TEXTS
from streamrec.replay.refusals import Refusals
from streamrec.replay.selection import EVERYTHING, Selection
from streamrec.replay.tables import Table, open_table
from streamrec.replay.time_units import TimeUnit
from streamrec.transport import Record
from streamrec.worker.validation import ValidationLimits, refuse_unfit


@dataclass(frozen=True, slots=True)
class RowLimits:
    """Which rows are taken: those that a worker would take, sent at `sent_ms` (0: it is not known when).

    A row that is none is refused, and so is the whole log when more than the share `max_refused` of its rows are; fewer
    are left out, and `Log.check` says which.
    Without `limits` whatever can be read as an event is taken.
    """

    limits: ValidationLimits | None = None
    sent_ms: int = 0
    max_refused: float = 0.0

    def judge(self, event: Event) -> None:
        """See that a worker would take an event.

        Raises:
            BadEvent: it would not.
        """
        if self.limits is not None:
            codec.refuse_size(codec.encode_event(event, codec.MSGPACK), self.limits.max_message_bytes)
            refuse_unfit(event, self.limits, self.sent_ms)


NO_LIMITS = RowLimits()


@dataclass(frozen=True, slots=True)
class LogSummary:
    """What a checked log holds; times are in ms.

    `left_out` counts rows by the value of their type column, `deselected` rows by why the selection left them out;
    `refusals` has the rows that no worker would take, `repeated` counts events with an id that their user had before.
    """

    rows: int
    events: Mapping[EventType, int]
    left_out: Mapping[str, int]
    deselected: Mapping[str, int]
    refusals: Refusals
    repeated: int
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
    row_format: RowFormat
    row_limits: RowLimits
    beyond: int = 0
    """Rows that were asked for and are not there."""

    def __len__(self) -> int:
        """Rows of the part that is read, those left out included."""
        return self.stop - self.start

    @property
    def ignored_columns(self) -> tuple[str, ...]:
        """The columns that become no field of an event."""
        return tuple(name for name in self.table.columns if name not in self.row_format.columns.values())

    def check(self) -> LogSummary:
        """Read the whole part once and say what it holds.

        Raises:
            LogError: too many rows are unsorted, unreadable, or nothing that a worker would take; the first by row.
            TableError: the file itself cannot be read to its end.
        """
        decoder = self._decoder()
        for batch in self._batches():
            decoder.decode(batch)
        report = decoder.report
        self._hold_to_share(report.refusals)
        return LogSummary(
            rows=len(self),
            events=dict(report.events),
            left_out=dict(report.left_out),
            deselected={why: count for why, count in report.deselected.items() if count},
            refusals=report.refusals,
            repeated=report.repeated,
            ignored_columns=self.ignored_columns,
            first_ts=report.first_ts,
            last_ts=report.last_ts,
            hints=_hints(self, report),
        )

    def events(self) -> Iterator[tuple[int, Event]]:
        """Each event with its row number, in the log's order.

        Raises:
            LogError: as `check`, as soon as too many are refused; earlier batches have been given by then.
            TableError: the file itself cannot be read to its end.
        """
        decoder = self._decoder()
        for batch in self._batches():
            taken = decoder.decode(batch)
            self._hold_to_share(decoder.report.refusals)
            yield from taken

    def records(self, topic: str) -> Iterator[Record]:
        """The same as records of one partition: offset is the row, key the user, value the event in msgpack.

        Raises:
            LogError, TableError: as `events`.
        """
        for row, event in self.events():
            value = codec.encode_event(event, codec.MSGPACK)
            yield Record(topic, 0, row, event.user_id.encode(), value, codec.MSGPACK_HEADERS)

    def _decoder(self) -> Decoder:
        return Decoder(self.row_format, self.row_limits.judge)

    def _hold_to_share(self, refusals: Refusals) -> None:
        refusals.hold_to(self.table.path.name, len(self), self.row_limits.max_refused)

    def _batches(self) -> Iterator[Batch]:
        columns = self.row_format.columns
        used = [name for name in self.table.columns if name in columns.values()]
        names = {columns[name] for name in TEXTS if name in columns}
        return self.table.batches(used, self.start, self.stop, names=names)


def open_log(
    path: Path,
    *,
    mapping: Mapping[str, str] | None = None,
    types: Mapping[str, str] | None = None,
    skip_unknown_types: bool = False,
    rows: tuple[int | None, int | None] | None = None,
    selection: Selection = EVERYTHING,
    unit: TimeUnit = TimeUnit.MS,
    row_limits: RowLimits = NO_LIMITS,
    separator: str | None = None,
) -> Log:
    """Open a log without reading its rows; `check` does that.

    Args:
        path: a .parquet, .csv or .jsonl file, or a folder of such files.
        mapping: event field to column. A column named as a field needs none; `@text` is a constant in a column's place,
            an empty name leaves the field out, and a field `context.NAME` puts a column into the event's context.
        types: value of the type column to event type; an empty type leaves the rows of that value out.
        skip_unknown_types: leave out, and count, the rows whose type is neither an event type nor in `types`.
        rows: the part to read, from the first row to before the second; None is the log's own beginning or end.
        selection: which of these rows are read, and which users they belong to.
        unit: what numbers in the column of `ts` count.
        row_limits: which rows are taken, and how many may be refused.
        separator: what stands between the columns of a csv file, if no comma does.

    Raises:
        TableError: the file is missing or is no table.
        LogError: a field, a column or an event type is unknown, a column that every log or this selection needs is
            missing, or the selection's pattern is none.
    """
    table = open_table(path, separator)
    start, stop = _part(table, rows or (None, None))
    columns = _columns(table, mapping or {})
    _check(table, columns, selection)
    row_format = RowFormat(columns, _types(table, types or {}), skip_unknown_types, unit, selection)
    beyond = max((rows or (None, None))[1] or 0, stop) - stop
    return Log(table, start, stop, row_format, row_limits, beyond)


def _part(table: Table, rows: tuple[int | None, int | None]) -> tuple[int, int]:
    start = 0 if rows[0] is None else rows[0]
    stop = table.row_count if rows[1] is None else min(rows[1], table.row_count)
    if not 0 <= start <= stop:
        raise LogError(
            f"{table.path.name}: rows {start}:{rows[1] if rows[1] is not None else ''} cannot be taken of "
            f"{table.row_count}; expected "
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


def _hints(log: Log, report: DecodingReport) -> tuple[str, ...]:
    """Warnings about what is allowed but seldom meant."""
    hints = []
    hints += [
        f"{count:,} rows have a {name!r} such as 8000.0, and others are written otherwise: it stays so, and is no 8000"
        for name, count in report.fractions.items()
        if count
    ]
    if log.ignored_columns:
        hints.append(f"columns that become no event field: {', '.join(log.ignored_columns)}")
    if log.beyond:
        hints.append(f"the log ends at row {log.stop:,}: {log.beyond:,} of the rows asked for are not there")
    if report.repeated:
        hints.append(
            f"{report.repeated:,} rows repeat an event_id of their user: an event that comes again soon counts once"
        )
    if report.unrated:
        hints.append(f"{report.unrated:,} ratings have no 'value': a rule as rating>=4 counts them neither way")
    return tuple(hints)
