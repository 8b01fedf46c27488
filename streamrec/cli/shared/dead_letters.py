"""Dead letters: which are meant, how they are read from their topic, and what a worker would say of one now."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from streamrec.codec import brief
from streamrec.config.settings import Settings
from streamrec.errors import BadEvent, ConfigError, StateError
from streamrec.transport import Record
from streamrec.transport.positions import TopicReader
from streamrec.wiring import build_validation_limits
from streamrec.worker.dead_letters import DeadLetter, opened
from streamrec.worker.validation import event_of

_ADDRESS = re.compile(r"(\d{1,9})-(\d{1,18})")
NAME_CHARS = 80
DETAIL_CHARS = 160
"""Of an address or a header's name, and of what is said of a letter; whoever sends bad messages chooses them."""


@dataclass(frozen=True, slots=True)
class DeadLetterSelection:
    """Which letters: with one of `reasons` (none: any), put aside from `since` to before `until` (ms)."""

    reasons: frozenset[str] = frozenset()
    since: int | None = None
    until: int | None = None

    def holds(self, dead_letter: DeadLetter) -> bool:
        """Whether the letter is one of them."""
        return (
            (not self.reasons or dead_letter.reason in self.reasons)
            and (self.since is None or dead_letter.sent_ms >= self.since)
            and (self.until is None or dead_letter.sent_ms < self.until)
        )


def read(
    topic: TopicReader,
    selection: DeadLetterSelection,
    take: Callable[[DeadLetter], None],
    meanwhile: Callable[[], None] = lambda: None,
) -> int:
    """Hand every letter selected to `take`, up to where the topic ends now; how many records were no letters.

    `meanwhile` is called for every record, selected or not.

    Raises:
        TransportError: the topic cannot be read.
    """
    strangers = 0

    def each(record: Record) -> None:
        nonlocal strangers
        meanwhile()
        dead_letter = opened(record)
        if dead_letter is None:
            strangers += 1
        elif selection.holds(dead_letter):
            take(dead_letter)

    ends = topic.end()
    starts = topic.beginning() if selection.since is None else topic.since(selection.since, lambda r: r.timestamp_ms)
    topic.read({place: start for place, start in starts.items() if start < ends[place]}, each, ends)
    return strangers


def at(topic: TopicReader, address: str) -> DeadLetter:
    """The letter at an address.

    Raises:
        ConfigError: the address is none.
        StateError: there is no such letter.
    """
    named = _ADDRESS.fullmatch(address)
    if named is None:
        raise ConfigError(f"{brief(address, NAME_CHARS)!r} is no letter, expected PARTITION-OFFSET as 3-1041")
    record = topic.record(int(named[1]), int(named[2]))
    dead_letter = None if record is None else opened(record)
    if dead_letter is None:
        what = "nothing there: it has expired, or was never written" if record is None else "no letter of a worker"
        raise StateError(f"topic {topic.topic!r}, {address}: {what}; see `streamrec dlq list`")
    return dead_letter


def refused_now(dead_letter: DeadLetter, settings: Settings, now_ms: int) -> BadEvent | None:
    """Why a worker with these settings would refuse the message, were it sent now; None when it would not."""
    topic, partition, offset = dead_letter.origin
    record = Record(topic, partition, offset, dead_letter.key, dead_letter.value, dead_letter.headers, now_ms)
    try:
        event_of(record, build_validation_limits(settings))
    except BadEvent as error:
        return error
    return None


def summary(dead_letter: DeadLetter) -> dict[str, Any]:
    """What stands on a letter, in a shape that stays; its message is not in it."""
    return {
        "address": dead_letter.address,
        "ts": dead_letter.sent_ms,
        "reason": dead_letter.reason,
        "field": dead_letter.field,
        "detail": dead_letter.detail,
        "topic": dead_letter.origin.topic,
        "partition": dead_letter.origin.partition,
        "offset": dead_letter.origin.offset,
        "redriven_from": dead_letter.redriven_from,
    }


def as_json_text(plain: dict[str, Any]) -> str:
    """JSON in ASCII alone, so that nothing in it commands a terminal."""
    return json.dumps(plain).replace("\x7f", "\\u007f")


def time_text(ts: int) -> str:
    """A time in ms, to the second."""
    return f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
