"""Which records are events: the one place where input is judged.

A record is read first, which changes nothing and may be done again. Then it is taken: one that cannot be used goes to
the dead-letter topic as it came, with the reason. While a partition's newest records are all unusable, its position
stays before the first of them; after so many in a row over all partitions, whoever sends them must be broken, and the
worker stops there.

A record is judged by itself and by its own time of sending, never by the wall clock: whenever it is read, the verdict
is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from streamrec.codec import decode_event, event_time
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.scenarios.scenario import Needs, hold_to
from streamrec.errors import BadEvent, TooManyBadEvents
from streamrec.events import Event
from streamrec.transport import Record

EARLIEST_TS = 315_532_800_000
"""1980, ms: before any log of this field. Seconds taken for milliseconds fall into January 1970."""

DeadLetterHandler = Callable[[Record, BadEvent], None]
"""Puts a record aside in the dead-letter topic, and says why."""


@dataclass(frozen=True, slots=True)
class ValidationLimits:
    """What is still an event."""

    max_message_bytes: int
    max_depth: int
    max_bad_in_a_row: int
    max_ahead_s: float
    max_behind_s: float | None = None
    """None takes any date since EARLIEST_TS: a log of the past may be sent today."""
    require_key: bool = True
    scenarios: Mapping[str, Needs] = field(default_factory=dict)
    """What requests of each scenario must bring; none named: any name is taken."""


Reading = LoggedEvent | BadEvent


class Taken(NamedTuple):
    """What came of some records."""

    logged_events: list[LoggedEvent]
    refused: list[tuple[Record, BadEvent]]
    """Dead letters now."""
    halt: TooManyBadEvents | None
    """As many of those in a row as may be: to be raised when what was taken is handled; nothing after was taken."""


class EventValidator:
    """Reads records and takes them."""

    def __init__(
        self, validation_limits: ValidationLimits, dead_letter: DeadLetterHandler, dead_letter_topic: str
    ) -> None:
        """`dead_letter_topic` names the dead-letter topic, for errors."""
        self._validation_limits = validation_limits
        self._dead_letter = dead_letter
        self._dead_letter_topic = dead_letter_topic
        self._bad_in_a_row = 0
        self._bad_since: dict[int, int] = {}  # per partition, the first of the unusable records at its end

    def read(self, records: Sequence[Record], taught: Mapping[int, int]) -> list[Reading]:
        """What each record holds. `taught`: per partition, what comes before this offset the models know already."""
        return [self._read(record, taught) for record in records]

    def take(self, records: Sequence[Record], readings: Sequence[Reading]) -> Taken:
        """Take some records read, in log order, as far as there are not too many unusable ones in a row."""
        taken = Taken([], [], None)
        for record, reading in zip(records, readings, strict=True):
            if isinstance(reading, BadEvent):
                self._dead_letter(record, reading)
                taken.refused.append((record, reading))
                self._bad_since.setdefault(record.partition, record.offset)
                self._bad_in_a_row += 1
                if self._bad_in_a_row >= self._validation_limits.max_bad_in_a_row:
                    return taken._replace(halt=self._halt(record, reading))
            else:
                self._bad_in_a_row = 0
                self._bad_since.clear()
                taken.logged_events.append(reading)
        return taken

    def safe_position(self, record: Record) -> int:
        """Where its partition may be left behind, once this record is handled and no later one."""
        return self._bad_since.get(record.partition, record.offset + 1)

    def let_go(self, partitions: Sequence[int]) -> None:
        """Whoever reads these next stands elsewhere."""
        for partition in partitions:
            self._bad_since.pop(partition, None)

    def _read(self, record: Record, taught: Mapping[int, int]) -> Reading:
        try:
            dated = _judged(record, self._validation_limits)
        except BadEvent as error:
            return error
        event, learned = not_ahead(dated, record), record.offset < taught.get(record.partition, 0)
        return LoggedEvent(event, record.partition, record.offset, learned, record.topic, early=event is not dated)

    def _halt(self, record: Record, error: BadEvent) -> TooManyBadEvents:
        return TooManyBadEvents(
            f"{self._bad_in_a_row} messages in a row could not be used, the last one topic {record.topic!r} "
            f"partition {record.partition} offset {record.offset}: {error.detail}. Mend what sends them; they are "
            f"in {self._dead_letter_topic!r}, and nothing past the first of them is committed: to leave them "
            f"behind, start with limits.max_bad_in_a_row above {self._validation_limits.max_bad_in_a_row} "
            "for a while"
        )


def log_time(record: Record, max_bytes: int) -> int:
    """The time that a record counts at, in ms: its event's, at most its own; its own where it holds no event."""
    ts = event_time(record.value, record.headers, max_bytes=max_bytes)
    if ts is None:
        return record.timestamp_ms
    return min(ts, record.timestamp_ms) if record.timestamp_ms > 0 else ts


def event_of(record: Record, validation_limits: ValidationLimits) -> Event:
    """The event that a record holds, dated no later than its message.

    Raises:
        BadEvent: it holds none that can be used.
    """
    return not_ahead(_judged(record, validation_limits), record)


def not_ahead(event: Event, record: Record) -> Event:
    """The event as of its message's own time, where it is dated ahead of that.

    The one place where this is decided: every clock of the system is moved by the times of events, and what decays by
    them would be worth nothing beside an event of tomorrow.
    """
    if 0 < record.timestamp_ms < event.ts:
        return msgspec.structs.replace(event, ts=record.timestamp_ms)
    return event


def _judged(record: Record, validation_limits: ValidationLimits) -> Event:
    if validation_limits.require_key and not record.key:
        raise BadEvent(
            "keyless", "the message has no key, expected the user_id: without it a user's events are out of order"
        )
    event = decode_event(
        record.value,
        record.headers,
        max_bytes=validation_limits.max_message_bytes,
        max_depth=validation_limits.max_depth,
    )
    refuse_unfit(event, validation_limits, record.timestamp_ms)
    return event


def refuse_unfit(event: Event, validation_limits: ValidationLimits, sent_ms: int) -> None:
    """See that no worker has to put an event aside for its date or its scenario: the rule for messages and for logs.

    Args:
        event: of any type.
        validation_limits: what is still an event.
        sent_ms: when it was sent, 0 where that is not known; then only a date before 1980 is wrong.

    Raises:
        BadEvent: a worker would put it aside.
    """
    if event.ts < EARLIEST_TS:
        raise BadEvent("past", f"field 'ts' is {event.ts}, expected milliseconds since 1970, and 1980 or later", "ts")
    hold_to(event, validation_limits.scenarios)
    if sent_ms <= 0:
        return
    ahead_s = (event.ts - sent_ms) / 1000
    if ahead_s > validation_limits.max_ahead_s:
        raise BadEvent("future", f"field 'ts' is {event.ts}, {ahead_s:.0f} s after the message was sent", "ts")
    if validation_limits.max_behind_s is not None and -ahead_s > validation_limits.max_behind_s:
        raise BadEvent("past", f"field 'ts' is {event.ts}, {-ahead_s:.0f} s before the message was sent", "ts")
