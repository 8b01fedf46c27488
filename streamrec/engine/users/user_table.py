"""The user table: one row per user in memory, made of feature families; the longest idle leave when room is needed.

Knows nothing of Redis: it says which users it lacks, takes their stored bytes, and hands over the bytes of those that
changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgpack
import numpy as np

from streamrec.engine.arrays.batch import Int32
from streamrec.engine.items.item_table import ItemTable

LAYOUT = 1
"""Version of a stored user."""
LISTS = ("recent", "bought", "shown")
"""What is stored of a user by item: an entry begins with the item's id."""
_FIRST_ROWS = 1_024
_SPARE_ITEMS = 2_048
"""Item indices that stay free for what is new in the log, more than a micro-batch can bring."""


class UserFeature(Protocol):
    """A family of features: what it remembers of each user."""

    def grow(self, rows: int) -> None:
        """Make room for rows below `rows`."""

    def clear(self, rows: Int32) -> None:
        """These rows belong to somebody new."""

    def forget_items(self, items: Int32) -> None:
        """These item indices will name other items soon."""

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        """What the store keeps of a row, in plain values, by item id."""

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        """The inverse of `pack`, into a cleared row."""


class UserTable:
    """At most `capacity` users by (partition, user id)."""

    def __init__(self, capacity: int, families: Sequence[UserFeature], items: ItemTable) -> None:
        self.capacity = capacity
        self._families = families
        self._items = items
        self._rows: dict[tuple[int, str], int] = {}
        self._owner: list[tuple[int, str] | None] = []
        self._touched = np.zeros(0, np.int64)  # when each row was last asked for, in ticks of this table
        self._tick = 0
        self._changed: set[int] = set()
        self._free: list[int] = []
        self._grow(min(_FIRST_ROWS, capacity))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def changed(self) -> int:
        """Users that changed since they were last handed over."""
        return len(self._changed)

    def missing(self, users: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
        """Those without a row, each once, in order. All that were asked for stay until the next time."""
        self._tick += 1
        lacking = []
        for user in dict.fromkeys(users):
            row = self._rows.get(user)
            if row is None:
                lacking.append(user)
            else:
                self._touched[row] = self._tick
        return lacking

    def crowded(self, wanted: int) -> bool:
        """True when room for so many could only be made by losing changes: hand them over first."""
        return len(self._changed) + wanted > self.capacity

    def admit(self, users: Sequence[tuple[int, str]], values: Sequence[bytes | None], ts: int) -> None:
        """Give rows to those that `missing` named, with what the store kept of them."""
        self._make_room(len(users))
        stored = [None if value is None else msgpack.unpackb(value, strict_map_key=False) for value in values]
        for user, value in zip(users, stored, strict=True):
            row = self._free.pop()
            self._rows[user] = row
            self._owner[row] = user
            self._touched[row] = self._tick
            if value is not None:
                self._unpack(row, value, ts)

    def touch(self, user: tuple[int, str]) -> int:
        """The user's row, which is about to change."""
        row = self._rows[user]
        self._changed.add(row)
        return row

    def take_changes(self, partition: int) -> dict[str, bytes]:
        """The stored form of every user of a partition that changed since the last time, by user id."""
        changes = {}
        for row in sorted(self._changed):
            owner = self._owner[row]
            if owner is not None and owner[0] == partition:
                changes[owner[1]] = self._packed(row, owner[1])
                self._changed.discard(row)
        return changes

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget the users of partitions that belong to somebody else now, changed or not."""
        leaving = set(partitions)
        rows = [row for (partition, _), row in self._rows.items() if partition in leaving]
        self._release(np.array(rows, np.int32))

    def forget_items(self, items: Int32) -> None:
        for family in self._families:
            family.forget_items(items)

    def _packed(self, row: int, user_id: str) -> bytes:
        value: dict[str, Any] = {"v": LAYOUT, "user_id": user_id}
        for family in self._families:
            value.update(family.pack(row, self._items.ids))
        return bytes(msgpack.packb(value))

    def _unpack(self, row: int, value: Mapping[str, Any], ts: int) -> None:
        lists = (value.get(name, ()) for name in LISTS)
        named = {entry[0] for entries in lists for entry in entries} | set(value.get("seen", ()))
        named.discard(None)
        # What the models have never heard of gets an index, unless the table is so full that new items will want it.
        roomy = self._items.known + len(named) + _SPARE_ITEMS <= self._items.capacity
        indices = {
            item_id: self._items.intern(item_id, ts) if roomy else self._items.lookup(item_id)
            for item_id in sorted(named)
        }
        for family in self._families:
            family.unpack(row, value, indices)

    def _make_room(self, newcomers: int) -> None:
        short = newcomers - len(self._free)
        if short > 0 and len(self._owner) < self.capacity:
            self._grow(min(self.capacity, max(2 * len(self._owner), len(self._owner) + short)))
            short = newcomers - len(self._free)
        if short > 0:
            idle = np.array(
                [row for row in self._rows.values() if row not in self._changed and self._touched[row] < self._tick],
                np.int32,
            )
            leaving = min(len(idle), max(short, self.capacity // 64))
            self._release(idle[np.argsort(self._touched[idle], kind="stable")[:leaving]])

    def _release(self, rows: Int32) -> None:
        for family in self._families:
            family.clear(rows)
        for row in rows.tolist():
            owner = self._owner[row]
            if owner is not None:
                del self._rows[owner]
            self._owner[row] = None
            self._changed.discard(row)
            self._free.append(row)

    def _grow(self, rows: int) -> None:
        first = len(self._owner)
        for family in self._families:
            family.grow(rows)
        self._owner.extend([None] * (rows - first))
        self._touched = np.concatenate([self._touched, np.zeros(rows - first, np.int64)])
        self._free.extend(range(rows - 1, first - 1, -1))
