"""Puts each change of the catalogue among the examples, so that it is folded in one order with them.

The learner at work follows the catalogue's topic from its beginning and sends on what the fold has not been told yet.
A change that is sent on twice, by a learner that was replaced, is told once: it carries its place in the catalogue's
topic. Knows nothing of how items are judged or used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from streamrec.codec import JSON_HEADERS, encode
from streamrec.errors import BadEvent
from streamrec.events import Item
from streamrec.transport import Follower, Record, Sink
from streamrec.worker.catalogue_feed import id_of, item_of

PLACE = "catalogue-place"
"""The header that says where in the catalogue's topic a record stood, and when it was sent: partition:offset:ms."""
FILE = -1
"""In place of a partition: a catalogue file says it."""
SENT_TOGETHER = 512


class RelayedItem(msgspec.Struct, array_like=True, frozen=True):
    """What the catalogue said of an item at some place; `item` None: that it is withdrawn."""

    item_id: str
    partition: int
    offset: int
    sent_ms: int
    item: Item | None


class Told(Protocol):
    """A fold, as far as it is told of the catalogue."""

    told: dict[int, int]
    """By partition: the newest offset."""

    def said_of(self, item_id: str) -> RelayedItem | None:
        """What it was told last of an item."""


class CatalogueRelay:
    """From the catalogue's topic to the one of examples."""

    def __init__(self, follower: Follower, sink: Sink, topic: str, listed: Iterable[Item] = ()) -> None:
        """`listed` are the items of a catalogue file, of which the topic may know better."""
        self._follower = follower
        self._sink = sink
        self._topic = topic
        self._listed = list(listed)
        self._sent: dict[int, int] = {}  # by partition: the newest offset

    def look(self, fold: Told) -> None:
        """Send on what came since the last call and the fold has not been told."""
        for record in self._follower.look(SENT_TOGETHER):
            self._send(fold, record.partition, record.offset, record)
        if self._follower.whole() and self._listed:
            listed, self._listed = self._listed, []
            first = fold.told.get(FILE, -1) + 1
            for offset, item in enumerate(listed, first):
                said = fold.said_of(item.item_id)
                if said is None or (said.partition == FILE and said.item != item):
                    key, value = item.item_id.encode(), encode(item)
                    self._send(fold, FILE, offset, Record(self._follower.topic, FILE, offset, key, value, JSON_HEADERS))

    def _send(self, fold: Told, partition: int, offset: int, record: Record) -> None:
        if offset <= max(fold.told.get(partition, -1), self._sent.get(partition, -1)):
            return
        place = f"{partition}:{offset}:{record.timestamp_ms}".encode()
        self._sink.publish(self._topic, record.key, record.value, (*record.headers, (PLACE, place)))
        self._sent[partition] = offset

    def close(self) -> None:
        """Let go of the catalogue's topic."""
        self._follower.close()


def relayed_item(record: Record, max_bytes: int, max_depth: int) -> RelayedItem | None:
    """The item that a record among the examples is about; None where it is no item's.

    Raises:
        BadEvent: it cannot be used.
    """
    place = dict(record.headers).get(PLACE)
    if place is None:
        return None
    try:
        partition, offset, sent_ms = (int(number) for number in place.split(b":"))
    except ValueError:
        raise BadEvent("malformed", f"header {PLACE!r} is {place[:40]!r}, expected PARTITION:OFFSET:MS") from None
    item = item_of(record, max_bytes, max_depth) if record.value else None
    return RelayedItem(id_of(record), partition, offset, sent_ms, item)
