"""Dead letters on paper: put aside, read, chosen, shown and sent back, without a broker."""

from __future__ import annotations

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.cli.commands.dlq_list import MOST_KINDS, Overview
from streamrec.cli.commands.dlq_redrive import BATCH_LETTERS, Redrive, Tally, in_words
from streamrec.cli.shared.dead_letters import DeadLetterSelection, refused_now
from streamrec.codec import CONTENT_TYPE, MSGPACK
from streamrec.config.settings import Settings
from streamrec.errors import BadEvent, PublishFailed
from streamrec.transport import Record
from streamrec.worker.dead_letter_text import MOST_CHARS, excerpt
from streamrec.worker.dead_letters import (
    WHOLE_BYTES,
    DeadLetter,
    MessagePlace,
    dead_letter_message,
    opened,
    origin_of,
    returned,
)

NOW_MS = 1_700_000_000_000
VIEW = {"type": "view", "user_id": "u", "item_id": "i", "ts": NOW_MS}
GOOD = json.dumps(VIEW).encode()
REFUSED = BadEvent("invalid", "field 'ts' is 'yesterday'", "ts")
PACKED = ((CONTENT_TYPE, MSGPACK.encode()),)


def letter_of(record: Record, error: BadEvent = REFUSED, offset: int = 7, sent_ms: int = NOW_MS) -> DeadLetter:
    """The letter a worker makes of a record, read back from the dead-letter topic."""
    key, value, headers = dead_letter_message(record, error)
    dead_letter = opened(Record("events.dlq", 2, offset, key, value, tuple(headers), sent_ms))
    assert dead_letter is not None
    return dead_letter


def message(offset: int = 41, value: bytes | None = GOOD, headers: tuple[tuple[str, bytes], ...] = ()) -> Record:
    return Record("user-events", 3, offset, b"u", value, headers, NOW_MS)


def test_a_letter_is_the_message_and_why_it_was_put_aside() -> None:
    dead_letter = letter_of(message(headers=(("trace", b"t1"), ("reason", b"its own"))))
    assert (dead_letter.key, dead_letter.value, dead_letter.headers) == (b"u", GOOD, (("trace", b"t1"),))
    assert (dead_letter.reason, dead_letter.field, dead_letter.detail) == ("invalid", "ts", "field 'ts' is 'yesterday'")
    assert (dead_letter.origin, dead_letter.address) == (MessagePlace("user-events", 3, 41), "2-7")


def test_what_goes_back_is_the_message_with_the_name_of_its_letter() -> None:
    dead_letter = letter_of(message(headers=(("trace", b"t1"), *PACKED)))
    back = Record("user-events", 3, 90, dead_letter.key, dead_letter.value, returned(dead_letter))
    added = (("redriven-from", b"events.dlq-2-7"), ("redriven-origin", b"user-events-3-41"))
    assert back.headers == (("trace", b"t1"), *PACKED, *added)
    assert origin_of(back) == MessagePlace("user-events", 3, 41)
    assert origin_of(message()) is None


def test_a_message_that_fails_again_becomes_a_letter_of_its_own_that_names_the_first() -> None:
    first = letter_of(message())
    second = letter_of(Record("user-events", 3, 90, first.key, first.value, returned(first)), offset=8)
    assert (second.origin.offset, second.redriven_from) == (90, "events.dlq-2-7")
    again = dict(returned(second))
    assert len(returned(second)) == 2
    assert again == {"redriven-from": b"events.dlq-2-8", "redriven-origin": b"user-events-3-90"}


@pytest.mark.parametrize(
    "record",
    [
        message(value=b"x" * 2_000_000),
        message(headers=(("h", b"x" * 999_999),)),
        message(headers=tuple((f"h{n}", b"x" * 4_000) for n in range(300))),
        Record("user-events", 3, 41, b"k" * 999_999, GOOD, ()),
    ],
    ids=["value", "header", "headers", "key"],
)
def test_a_message_that_no_broker_would_take_whole_is_put_aside_in_part(record: Record) -> None:
    key, value, headers = dead_letter_message(record, BadEvent("too_large", "much"))
    size = len(key or b"") + len(value or b"") + sum(len(name) + len(content) for name, content in headers)
    assert size < WHOLE_BYTES
    assert letter_of(record).cut_bytes == len(record.value or b"")


@given(
    st.lists(st.tuples(st.sampled_from(["reason", "partition", "offset", "topic", "cut", "x"]), st.binary(max_size=9)))
)
def test_any_headers_are_a_letter_or_none(headers: list[tuple[str, bytes]]) -> None:
    dead_letter = opened(Record("events.dlq", 0, 0, None, b"", tuple(headers)))
    assert dead_letter is None or dead_letter.reason == dict(headers)["reason"].decode("utf-8", "replace")


def test_places_are_read_from_the_right() -> None:
    assert MessagePlace.of("user-events-3-1041") == MessagePlace("user-events", 3, 1041)
    assert [MessagePlace.of(text) for text in ("", "3-1041", "a-b-1", "a-1-x", "\x1b-1-1", "a-1-" + "9" * 30)] == [
        None
    ] * 6


def test_letters_are_chosen_by_reason_and_time() -> None:
    dead_letter = letter_of(message())
    assert DeadLetterSelection().holds(dead_letter)
    assert DeadLetterSelection(frozenset({"invalid", "future"}), NOW_MS, NOW_MS + 1).holds(dead_letter)
    assert not DeadLetterSelection(frozenset({"future"})).holds(dead_letter)
    assert not DeadLetterSelection(since=NOW_MS + 1).holds(dead_letter)
    assert not DeadLetterSelection(until=NOW_MS).holds(dead_letter)


def test_an_overview_counts_all_and_keeps_the_newest_without_their_values() -> None:
    overview = Overview(keep=3)
    for number in (5, 1, 9, 3, 7):
        overview.add(letter_of(message(), offset=number, sent_ms=NOW_MS + number))
    assert [dead_letter.place.offset for dead_letter in overview.newest()] == [9, 7, 5]
    assert all(dead_letter.value is None for dead_letter in overview.newest())
    assert (overview.dead_letters, overview.kinds) == (5, {("invalid", "ts"): 5})


def test_an_overview_does_not_grow_with_what_senders_make_up() -> None:
    overview = Overview(keep=0)
    for number in range(MOST_KINDS + 500):
        overview.add(letter_of(message(), BadEvent("invalid", "unknown", f"field-{number}")))
    assert len(overview.kinds) == MOST_KINDS + 1
    assert overview.kinds.total() == MOST_KINDS + 500
    assert overview.newest() == []


@pytest.mark.parametrize(
    ("changes", "limits", "reason"),
    [
        ({}, {}, None),
        ({"context": {"a": 1}}, {"max_depth": 1}, "too_deep"),
        ({"query": "x" * 900}, {"max_message_bytes": 500}, "too_large"),
        ({"ts": NOW_MS + 1_000_000}, {"max_ahead_s": 10}, "future"),
        ({"ts": NOW_MS + 1_000_000}, {"max_ahead_s": 2_000}, None),
    ],
)
def test_a_letter_is_judged_by_the_settings_of_now(
    changes: dict[str, object], limits: dict[str, object], reason: str | None
) -> None:
    dead_letter = letter_of(message(value=json.dumps({**VIEW, **changes}).encode()))
    refusal = refused_now(dead_letter, Settings.model_validate({"limits": limits}), NOW_MS)
    assert (refusal and refusal.reason) == reason


# What is shown


def test_a_value_is_shown_as_json_where_it_is_json_or_msgpack() -> None:
    assert json.loads(excerpt(GOOD)) == VIEW
    assert json.loads(excerpt(msgpack.packb(VIEW), PACKED)) == VIEW
    assert excerpt(None) == "(none)"


@pytest.mark.parametrize(
    "value",
    [
        b"\x1b]0;owned\x07 and much ordinary text around it",
        b'{"a": "\\u001b[2J\\u009b2J\x7f"}',
        b"\x1b[2J" * 3_000,
        bytes(range(256)) * 300,
        "\u009b31m and much ordinary text, \u202eright to left".encode(),
        b"[" * 60_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b"1" * 5_000,
    ],
)
def test_no_value_commands_a_terminal_or_fills_it(value: bytes) -> None:
    for headers in ((), PACKED):
        shown = excerpt(value, headers)
        assert all(character == "\n" or " " <= character <= "~" for character in shown)
        assert len(shown) < MOST_CHARS + 100
        assert len(value) <= MOST_CHARS or "bytes" in shown


@given(st.binary(max_size=300))
def test_any_bytes_can_be_shown(value: bytes) -> None:
    for headers in ((), PACKED):
        assert all(character == "\n" or " " <= character <= "~" for character in excerpt(value, headers))


# What is sent back


class Remembered:
    """A memory of letters sent back, in this process."""

    def __init__(self) -> None:
        self.origins: list[str] = []

    def known(self, origins: list[str]) -> list[bool]:
        return [origin in self.origins for origin in origins]

    def mark(self, origins: list[str]) -> None:
        self.origins += origins


def redriven(
    dead_letters: list[DeadLetter], memory: Remembered, refused=lambda dead_letter: None
) -> tuple[list[DeadLetter], Tally]:  # type: ignore[no-untyped-def]
    sent: list[DeadLetter] = []
    redrive = Redrive("user-events", memory, refused, sent.append, lambda: None)
    for dead_letter in dead_letters:
        redrive.take(dead_letter)
    redrive.send()
    return sent, redrive.tally


def test_a_message_goes_back_once_however_many_letters_and_runs_there_are() -> None:
    memory = Remembered()
    dead_letters = [letter_of(message(offset), offset=place) for place, offset in enumerate([1, 2, 1, 3])]
    sent, tally = redriven(dead_letters, memory)
    assert [dead_letter.origin.offset for dead_letter in sent] == [1, 2, 3]
    assert (tally.sent, tally.sent_before) == (3, 1)
    again, tally = redriven(dead_letters, memory)
    assert again == []
    assert (tally.sent, tally.sent_before) == (0, 4)


def test_letters_in_part_of_other_topics_or_still_refused_stay() -> None:
    dead_letters = [
        letter_of(message(1)),
        letter_of(message(2, value=b"x" * 2_000_000)),
        letter_of(Record("elsewhere", 0, 3, None, GOOD)),
        letter_of(message(4, value=b"{")),
    ]
    sent, tally = redriven(
        dead_letters, Remembered(), lambda dead_letter: REFUSED if dead_letter.value == b"{" else None
    )
    assert [dead_letter.origin.offset for dead_letter in sent] == [1]
    assert (tally.sent, tally.cut, tally.elsewhere, dict(tally.refused)) == (1, 1, 1, {"invalid": 1})
    words = in_words(tally, "user-events", dry_run=False)
    assert words.splitlines()[0] == "sent to user-events: 1 letters"
    assert "1 that would be refused again (1 invalid); --force sends them" in words


def test_letters_are_sent_in_batches_and_none_is_marked_before_it_is_stored() -> None:
    memory, sent = Remembered(), []

    def stored() -> None:
        assert len(sent) <= BATCH_LETTERS
        raise PublishFailed("not acknowledged")

    redrive = Redrive("user-events", memory, lambda dead_letter: None, sent.append, stored)
    with pytest.raises(PublishFailed):
        for offset in range(BATCH_LETTERS + 1):
            redrive.take(letter_of(message(offset)))
    assert len(sent) == BATCH_LETTERS
    assert memory.origins == []
    assert redrive.tally.sent == 0
