"""Exact counts per item and input partition: what people ask `streamrec item` for.

An item's events come from every partition, so each partition keeps its own part, written with that partition's
watermark; the whole is the sum over partitions. Knows nothing of Redis; works like the user table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import msgpack

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


class ItemCounts:
    """At most `capacity` entries in memory, by (partition, item id); unchanged ones leave in order of arrival."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: dict[tuple[int, str], ItemEntry] = {}
        self._changed: dict[int, dict[str, None]] = {}
        self._wanted: dict[tuple[int, str], None] = {}  # asked for last: these must not make room for one another

    @property
    def changed(self) -> int:
        """Entries that changed since they were last handed over."""
        return sum(map(len, self._changed.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def missing(self, items: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
        """Those without an entry, each once, in order. All that were asked for stay until the next time."""
        self._wanted = dict.fromkeys(items)
        return [item for item in self._wanted if item not in self._entries]

    def crowded(self, wanted: int) -> bool:
        """True when room for so many could only be made by losing changes: hand them over first."""
        return self.changed + wanted > self.capacity

    def admit(self, items: Sequence[tuple[int, str]], values: Sequence[bytes | None]) -> None:
        """Give entries to those that `missing` named, with what the store kept of them."""
        self._make_room(len(items))
        for item, value in zip(items, values, strict=True):
            self._entries[item] = ItemEntry() if value is None else _unpacked(value)

    def count(self, partition: int, event: Event, category: str | None) -> None:
        """One event about an item."""
        assert event.item_id is not None
        entry = self._entries[partition, event.item_id]
        kind = event.type.value
        entry.first_ts = min(entry.first_ts, event.ts) if entry.counts else event.ts
        entry.counts[kind] = entry.counts.get(kind, 0) + 1
        entry.last_ts = max(entry.last_ts, event.ts)
        entry.recent_users.insert(0, (event.user_id, kind, event.ts))
        del entry.recent_users[RECENT_USERS:]
        if category is not None:
            entry.category = category
        self._changed.setdefault(partition, {})[event.item_id] = None

    def take_changes(self, partition: int) -> dict[str, bytes]:
        """The stored form of every entry of a partition that changed since the last time, by item id."""
        changed = self._changed.pop(partition, {})
        return {item_id: _packed(item_id, self._entries[partition, item_id]) for item_id in changed}

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget partitions that belong to somebody else now, changed or not."""
        leaving = set(partitions)
        self._entries = {item: entry for item, entry in self._entries.items() if item[0] not in leaving}
        for partition in leaving:
            self._changed.pop(partition, None)

    def _make_room(self, newcomers: int) -> None:
        short = len(self._entries) + newcomers - self.capacity
        if short <= 0:
            return
        idle = (
            item for item in self._entries if item not in self._wanted and item[1] not in self._changed.get(item[0], {})
        )
        for item in list(islice(idle, max(short, self.capacity // 64))):
            del self._entries[item]


def _packed(item_id: str, entry: ItemEntry) -> bytes:
    value: dict[str, Any] = {
        "v": LAYOUT,
        "item_id": item_id,
        "counts": {kind.value: entry.counts[kind.value] for kind in EVENT_TYPES if kind.value in entry.counts},
        "first_ts": entry.first_ts,
        "last_ts": entry.last_ts,
        "recent_users": entry.recent_users,
        "category": entry.category,
    }
    return bytes(msgpack.packb(value))


def _unpacked(value: bytes) -> ItemEntry:
    stored = msgpack.unpackb(value)
    entry = ItemEntry()
    entry.counts = dict(stored["counts"])
    entry.first_ts = stored["first_ts"]
    entry.last_ts = stored["last_ts"]
    entry.recent_users = [tuple(visit) for visit in stored["recent_users"]]
    entry.category = stored["category"]
    return entry
