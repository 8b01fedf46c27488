"""The user table: one row per user in memory, made of user features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from streamrec.engine.arrays.batch import Int32
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.partition_tables import Name, WriteBackTable
from streamrec.engine.users.user_feature import UserFeature
from streamrec.events import Event

LAYOUT = 1
"""Version of a stored user."""
_FIRST_ROWS = 1_024
_SPARE_ITEMS = 2_048
"""Item indices that stay free for what is new in the log, more than a micro-batch can bring."""


class UserTable(WriteBackTable[int]):
    """Rows of the features' arrays, by user id."""

    kind = "user"

    def __init__(self, capacity: int, features: Sequence[UserFeature], items: ItemTable) -> None:
        super().__init__(capacity)
        self.newcomers = 0  # users met that the store did not know
        self._features = features
        self._items = items
        self._rows = 0  # how many there are
        self._free: list[int] = []
        self._grow(min(_FIRST_ROWS, capacity))

    def key(self, event: Event) -> str | None:
        return event.user_id

    def forget_items(self, items: Int32) -> None:
        for feature in self._features:
            feature.forget_items(items)

    def _packed(self, name: str, entry: int) -> bytes:
        value: dict[str, Any] = {"v": LAYOUT, "user_id": name}
        for feature in self._features:
            value.update(feature.pack(entry, self._items.ids))
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
        stored = [feature for feature in self._features if not value.keys().isdisjoint(feature.keys)]
        named = {item_id for feature in stored for item_id in feature.stored_items(value) if item_id is not None}
        # What the models have never heard of gets an index, unless the table is so full that new items will want it.
        roomy = self._items.known + len(named) + _SPARE_ITEMS <= self._items.capacity
        indices = {
            item_id: self._items.intern(item_id, ts) if roomy else self._items.lookup(item_id)
            for item_id in sorted(named)
        }
        for feature in stored:
            feature.unpack(row, value, indices)

    def _release(self, names: Sequence[Name]) -> list[int]:
        rows = super()._release(names)
        for feature in self._features:
            feature.clear(np.array(rows, np.int32))
        self._free.extend(rows)
        return rows

    def _grow(self, rows: int) -> None:
        for feature in self._features:
            feature.grow(rows)
        self._free.extend(range(rows - 1, self._rows - 1, -1))
        self._rows = rows
