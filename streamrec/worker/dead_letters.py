"""Dead letters: how a message that cannot be used is put aside, read again, and sent back to where it came from.

A dead letter is the message as it came, with headers that say why it was refused and where it stood. Knows nothing of
brokers, nor of what makes a message unusable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from streamrec.errors import BadEvent
from streamrec.transport import Headers, Record

REASON, FIELD, DETAIL, TOPIC, PARTITION, OFFSET = "reason", "field", "detail", "topic", "partition", "offset"
CUT = "cut"
"""How many bytes the value had, where the dead letter holds only its beginning."""
REDRIVEN_FROM, REDRIVEN_ORIGIN = "redriven-from", "redriven-origin"
"""On a message that was sent back: the dead letter it was, and the place of the message that it was made of."""

OURS = frozenset({REASON, FIELD, DETAIL, TOPIC, PARTITION, OFFSET, CUT})
WHOLE_BYTES = 900_000
"""A larger message is put aside in part: brokers take a million bytes by default, headers included, and one that they
refuse again and again would stop the stream."""
_PART_BYTES = 65_536
_KEY_BYTES = 4_096
DETAIL_CHARS = 500
_PLACE = re.compile(r"(?P<topic>[A-Za-z0-9._-]+)-(?P<partition>\d{1,9})-(?P<offset>\d{1,18})")


class MessagePlace(NamedTuple):
    """Where a record lies. Written TOPIC-PARTITION-OFFSET, and read from the right: a topic may have dashes."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"

    @classmethod
    def of(cls, text: str) -> MessagePlace | None:
        """The place that is written so; None where none is."""
        found = _PLACE.fullmatch(text)
        return cls(found["topic"], int(found["partition"]), int(found["offset"])) if found else None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that was put aside.

    `headers` are the message's own. `redriven_from` is the dead letter that was sent back and became this one; empty
    for most. `cut_bytes` is the length that the value had, 0 where all of it is here.
    """

    place: MessagePlace
    sent_ms: int
    reason: str
    field: str
    detail: str
    origin: MessagePlace
    key: bytes | None
    value: bytes | None
    headers: Headers
    redriven_from: str = ""
    cut_bytes: int = 0

    @property
    def address(self) -> str:
        """Its place in the dead-letter topic, PARTITION-OFFSET."""
        return f"{self.place.partition}-{self.place.offset}"

    @property
    def size_bytes(self) -> int:
        """What of it weighs most."""
        return len(self.value or b"") + len(self.key or b"") + _size(self.headers)


def dead_letter_message(record: Record, error: BadEvent) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
    """Key, value and headers of the dead letter that a message becomes, as it came but for the headers that are added.

    Of a message that no broker would take with them, only the beginning is kept: the whole still stands where it stood.
    """
    why = {
        REASON: error.reason,
        FIELD: error.field or "",
        DETAIL: error.detail[:DETAIL_CHARS],
        TOPIC: record.topic,
        PARTITION: str(record.partition),
        OFFSET: str(record.offset),
    }
    key, value, kept = record.key, record.value, [pair for pair in record.headers if pair[0] not in OURS]
    if len(key or b"") + len(value or b"") + _size(kept) > WHOLE_BYTES:
        why[CUT] = str(len(value or b""))
        key, value = key and key[:_KEY_BYTES], value and value[:_PART_BYTES]
        kept = [pair for pair in kept if _size([pair]) <= _KEY_BYTES][:16]
    return key, value, [*kept, *((name, text.encode("utf-8", "replace")) for name, text in why.items())]


def opened(record: Record) -> DeadLetter | None:
    """The dead letter that a record of the dead-letter topic holds; None where it is something else."""
    said = {name: content.decode("utf-8", "replace") for name, content in record.headers}
    partition, offset, cut = said.get(PARTITION, ""), said.get(OFFSET, ""), said.get(CUT, "0")
    origin = MessagePlace.of(f"{said.get(TOPIC, '')}-{partition}-{offset}")
    if REASON not in said or origin is None or not (partition.isdecimal() and offset.isdecimal() and cut.isdecimal()):
        return None
    return DeadLetter(
        place=MessagePlace(record.topic, record.partition, record.offset),
        sent_ms=record.timestamp_ms,
        reason=said[REASON],
        field=said.get(FIELD, ""),
        detail=said.get(DETAIL, ""),
        origin=origin,
        key=record.key,
        value=record.value,
        headers=tuple(pair for pair in record.headers if pair[0] not in OURS),
        redriven_from=said.get(REDRIVEN_FROM, ""),
        cut_bytes=int(cut),
    )


def returned(dead_letter: DeadLetter) -> Headers:
    """The headers with which a message is sent back: its own, and the name of its dead letter."""
    own = tuple(pair for pair in dead_letter.headers if pair[0] not in (REDRIVEN_FROM, REDRIVEN_ORIGIN))
    return (*own, (REDRIVEN_FROM, str(dead_letter.place).encode()), (REDRIVEN_ORIGIN, str(dead_letter.origin).encode()))


def origin_of(record: Record) -> MessagePlace | None:
    """For a record that was sent back: the place of the message that it repeats. None for any other record."""
    for name, content in record.headers:
        if name == REDRIVEN_ORIGIN:
            return MessagePlace.of(content.decode("utf-8", "replace"))
    return None


def _size(headers: Iterable[tuple[str, bytes]]) -> int:
    return sum(len(name) + len(content) for name, content in headers)
