"""The user table: one row per user in memory, made of feature families."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgpack
import numpy as np

from streamrec.engine.arrays.batch import Int32
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.partition_tables import WriteBackTable
from streamrec.events import Event

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


class UserTable(WriteBackTable[int]):
    """Rows of the families' arrays, by user id."""

    kind = "user"

    def __init__(self, capacity: int, families: Sequence[UserFeature], items: ItemTable) -> None:
        super().__init__(capacity)
        self.newcomers = 0  # users met of whom the store knew nothing
        self._families = families
        self._items = items
        self._rows = 0  # how many there are
        self._free: list[int] = []
        self._grow(min(_FIRST_ROWS, capacity))

    def key(self, event: Event) -> str | None:
        return event.user_id

    def forget_items(self, items: Int32) -> None:
        for family in self._families:
            family.forget_items(items)

    def _packed(self, name: str, entry: int) -> bytes:
        value: dict[str, Any] = {"v": LAYOUT, "user_id": name}
        for family in self._families:
            value.update(family.pack(entry, self._items.ids))
        return bytes(msgpack.packb(value))

    def _unpacked(self, value: bytes | None, ts: int) -> int:
        if not self._free:
            self._grow(min(self.capacity, 2 * self._rows))
        row = self._free.pop()
        if value is None:
            self.newcomers += 1
        else:
            self._fill(row, msgpack.unpackb(value, strict_map_key=False), ts)
        return row

    def _fill(self, row: int, value: Mapping[str, Any], ts: int) -> None:
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

    def _released(self, entries: Sequence[int]) -> None:
        rows = np.array(entries, np.int32)
        for family in self._families:
            family.clear(rows)
        self._free.extend(entries)

    def _grow(self, rows: int) -> None:
        for family in self._families:
            family.grow(rows)
        self._free.extend(range(rows - 1, self._rows - 1, -1))
        self._rows = rows
