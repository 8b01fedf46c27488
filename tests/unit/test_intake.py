"""Which records are events, and what becomes of those that are not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.errors import BadEvent
from streamrec.testing import STARTED_MS, records, shop
from streamrec.transport import Record
from streamrec.worker.validation import EARLIEST_TS, EventValidator, ValidationLimits, event_of

DAY_MS = 86_400_000
TOLERANCE = ValidationLimits(max_message_bytes=65_536, max_depth=8, max_bad_in_a_row=5, max_ahead_s=86_400.0)
GOOD = records("user-events", shop(40, seed=1))[0]


class Graveyard:
    """Keeps what is buried."""

    def __init__(self) -> None:
        self.dead_letters: list[tuple[Record, str]] = []

    def __call__(self, record: Record, error: BadEvent) -> None:
        self.dead_letters.append((record, error.reason))


def dated(ts: int, sent_ms: int) -> Record:
    value = b'{"type": "click", "user_id": "u", "item_id": "i", "ts": %d}' % ts
    return Record("user-events", 0, 0, b"u", value, (), sent_ms)


def reason_of(record: Record, validation_limits: ValidationLimits = TOLERANCE) -> str | None:
    try:
        event_of(record, validation_limits)
    except BadEvent as error:
        return error.reason
    return None


def test_a_message_without_a_key_is_refused_unless_that_is_allowed() -> None:
    keyless = replace(GOOD, key=None)
    assert reason_of(GOOD) is None
    assert reason_of(keyless) == "keyless"
    assert reason_of(keyless, replace(TOLERANCE, require_key=False)) is None
    assert reason_of(replace(GOOD, key=b"")) == "keyless"


@pytest.mark.parametrize(
    ("ts", "sent_ms", "reason"),
    [
        (STARTED_MS, STARTED_MS, None),
        (STARTED_MS + DAY_MS, STARTED_MS, None),
        (STARTED_MS + DAY_MS + 1, STARTED_MS, "future"),
        (STARTED_MS + 99 * DAY_MS, 0, None),  # the log does not say when it was sent
        (STARTED_MS // 1000, STARTED_MS, "past"),  # seconds
        (EARLIEST_TS - 1, 0, "past"),
        (EARLIEST_TS, STARTED_MS, None),
        (0, STARTED_MS, "past"),
    ],
)
def test_dates_are_measured_by_the_time_of_sending(ts: int, sent_ms: int, reason: str | None) -> None:
    assert reason_of(dated(ts, sent_ms)) == reason


def test_an_event_dated_ahead_of_its_message_is_as_of_the_message() -> None:
    validator = EventValidator(TOLERANCE, Graveyard(), "dlq")
    tomorrow, today, unknown = (
        validator.read([dated(STARTED_MS + ahead, sent_ms)], {})[0]
        for ahead, sent_ms in ((DAY_MS, STARTED_MS), (0, STARTED_MS), (DAY_MS, 0))
    )
    found = [(each.event.ts - STARTED_MS, each.early) for each in (tomorrow, today, unknown)]
    assert found == [(0, True), (0, False), (DAY_MS, False)]
    assert event_of(dated(STARTED_MS + 1, STARTED_MS), TOLERANCE).ts == STARTED_MS


def test_how_far_behind_its_sending_an_event_may_be_dated_can_be_limited() -> None:
    strict = replace(TOLERANCE, max_behind_s=3_600.0)
    assert reason_of(dated(STARTED_MS - 3_600_000, STARTED_MS), strict) is None
    assert reason_of(dated(STARTED_MS - 3_600_001, STARTED_MS), strict) == "past"


def test_reading_buries_nothing_and_may_be_done_again() -> None:
    graveyard = Graveyard()
    validator = EventValidator(TOLERANCE, graveyard, "dlq")
    bad = replace(GOOD, value=b"{", headers=(), offset=1)
    for _ in range(9):
        readings = validator.read([GOOD, bad], {0: 1})
    assert isinstance(readings[0], LoggedEvent)
    assert readings[0].learned
    assert isinstance(readings[1], BadEvent)
    assert graveyard.dead_letters == []
    taken = validator.take([GOOD, bad], readings)
    assert (taken.logged_events, taken.refused, taken.halt) == ([readings[0]], [(bad, readings[1])], None)
    assert graveyard.dead_letters == [(bad, "malformed")]


def test_a_position_stays_before_the_bad_messages_at_its_end() -> None:
    validator = EventValidator(TOLERANCE, Graveyard(), "dlq")
    good, bad = replace(GOOD, offset=7), [replace(GOOD, value=b"{", offset=offset) for offset in (8, 9)]
    validator.take([good, *bad], validator.read([good, *bad], {}))
    assert [validator.safe_position(record) for record in (good, *bad)] == [8, 8, 8]
    after = replace(GOOD, offset=10)
    validator.take([after], validator.read([after], {}))
    assert validator.safe_position(after) == 11


def test_only_bad_messages_are_too_many_at_the_limit_and_not_before() -> None:
    graveyard = Graveyard()
    validator = EventValidator(TOLERANCE, graveyard, "dlq")
    bad = [replace(GOOD, value=b"{", offset=offset) for offset in range(5)]
    assert validator.take(bad[:4], validator.read(bad[:4], {})).halt is None
    rest = [bad[4], replace(GOOD, offset=5), replace(bad[4], offset=6)]
    taken = validator.take(rest, validator.read(rest, {}))
    assert "5 messages in a row" in str(taken.halt)
    assert "partition 0 offset 4" in str(taken.halt)
    assert ([record for record, _ in taken.refused], taken.logged_events) == (bad[4:], [])
    assert len(graveyard.dead_letters) == 5
