"""Everything a user ever touched, for systems that recommend a thing once (films, articles).

Bounded: the newest LIMIT items of a user. Kept only when the configuration excludes what was seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Int32
from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts

LIMIT = 4_096


class SeenItems(UserFeature):
    """A growing array of item indices per row of the user table."""

    keys = ("seen",)

    def __init__(self) -> None:
        self._items: dict[int, Int32] = {}
        self._used: dict[int, int] = {}

    def add(self, row: int, item: int) -> None:
        """`item` must not be recommended to this user from now on."""
        used = self._used.get(row, 0)
        items = self._items.get(row)
        if items is None or used == len(items):
            items = self._grown(row, items, used)
            used = self._used.get(row, 0)
        items[used] = item
        self._used[row] = used + 1

    def _grown(self, row: int, items: Int32 | None, used: int) -> Int32:
        if items is None:
            grown = np.full(16, NOTHING, np.int32)
        elif used < LIMIT:
            grown = np.concatenate([items, np.full(min(used, LIMIT - used), NOTHING, np.int32)])
        else:  # full: the older half is let go. Views handed out before keep the old array.
            grown = np.full(LIMIT, NOTHING, np.int32)
            grown[: LIMIT // 2] = items[LIMIT // 2 :]
            self._used[row] = LIMIT // 2
        self._items[row] = grown
        return grown

    def of(self, row: int) -> Int32:
        """The items as of now; later additions do not show in it."""
        items = self._items.get(row)
        return np.empty(0, np.int32) if items is None else items[: self._used[row]]

    def clear(self, rows: Int32) -> None:
        for row in rows.tolist():
            self._items.pop(row, None)
            self._used.pop(row, None)

    def forget_items(self, items: Int32) -> None:
        for row, seen in self._items.items():
            self._items[row] = np.where(np.isin(seen, items), NOTHING, seen).astype(np.int32)

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        return {"seen": [item_ids[index] for index in self.of(row).tolist() if index != NOTHING]}

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        for item_id in value.get("seen", ()):
            if item_id in indices:
                self.add(row, indices[item_id])

    def stored_items(self, value: Mapping[str, Any]) -> Iterable[str | None]:
        seen: list[str] = value["seen"]
        return seen


def build(parts: UserFeatureParts) -> SeenItems:
    """The feature, without any user yet."""
    return SeenItems()
