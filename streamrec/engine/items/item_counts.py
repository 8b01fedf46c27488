"""Exact counts per item and input partition: what people ask `streamrec item` for.

An item's events come from every partition, so each partition keeps its own part, written with that partition's
watermark; the whole is the sum over partitions. Knows nothing of stores.
"""

from __future__ import annotations

from typing import Any

import msgpack

from streamrec.engine.partition_tables import WriteBackTable
from streamrec.events import EVENT_TYPES, Event

LAYOUT = 1
RECENT_USERS = 10


class ItemEntry:
    """One partition's part of what is known of an item."""

    __slots__ = ("category", "counts", "first_ts", "last_ts", "recent_users")

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first_ts = 0
        self.last_ts = 0
        self.recent_users: list[tuple[str, str, int]] = []
        self.category: str | None = None


class ItemCounts(WriteBackTable[ItemEntry]):
    """Entries by item id."""

    kind = "item"

    def key(self, event: Event) -> str | None:
        return event.item_id

    def count(self, partition: int, event: Event, category: str | None) -> None:
        """One event about an item."""
        assert event.item_id is not None
        entry = self.touch((partition, event.item_id))
        kind = event.type.value
        entry.first_ts = min(entry.first_ts, event.ts) if entry.counts else event.ts
        entry.counts[kind] = entry.counts.get(kind, 0) + 1
        entry.last_ts = max(entry.last_ts, event.ts)
        entry.recent_users.insert(0, (event.user_id, kind, event.ts))
        del entry.recent_users[RECENT_USERS:]
        if category is not None:
            entry.category = category

    def _packed(self, name: str, entry: ItemEntry) -> bytes:
        counts = {kind.value: entry.counts[kind.value] for kind in EVENT_TYPES if kind.value in entry.counts}
        value: dict[str, Any] = {
            "v": LAYOUT,
            "item_id": name,
            "counts": counts,
            "first_ts": entry.first_ts,
            "last_ts": entry.last_ts,
            "recent_users": entry.recent_users,
            "category": entry.category,
        }
        return bytes(msgpack.packb(value))

    def _unpacked(self, value: bytes | None, ts: int) -> ItemEntry:
        entry = ItemEntry()
        if value is not None:
            stored = msgpack.unpackb(value)
            entry.counts = dict(stored["counts"])
            entry.first_ts = stored["first_ts"]
            entry.last_ts = stored["last_ts"]
            entry.recent_users = [tuple(visit) for visit in stored["recent_users"]]
            entry.category = stored["category"]
        return entry
