"""What a user has bought lately, for rules that do not offer it again.

Bounded: the newest LIMIT items of a user. Kept only when a scenario asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamrec.features.batch import Int32

LIMIT = 256


class Bought:
    """When each item was last bought, ms, by row of the user table."""

    def __init__(self) -> None:
        self._at: dict[int, dict[int, int]] = {}

    def add(self, row: int, item: int, ts: int) -> None:
        """The user bought an item."""
        bought = self._at.setdefault(row, {})
        ts = max(ts, bought.pop(item, 0))
        bought[item] = ts
        if len(bought) > LIMIT:
            del bought[min(bought, key=bought.__getitem__)]

    def since(self, row: int, ts: int) -> Int32:
        """The items bought at `ts` or later, by index."""
        return np.array(sorted(item for item, at in self._at.get(row, {}).items() if at >= ts), np.int32)

    def grow(self, rows: int) -> None:
        """Rows appear as they are needed."""

    def clear(self, rows: Int32) -> None:
        for row in rows.tolist():
            self._at.pop(row, None)

    def forget_items(self, items: Int32) -> None:
        gone = set(items.tolist())
        for row, bought in self._at.items():
            self._at[row] = {item: at for item, at in bought.items() if item not in gone}

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        bought = self._at.get(row)
        return {"bought": [[item_ids[item], at] for item, at in bought.items()]} if bought else {}

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        for item_id, at in value.get("bought", ()):
            if indices.get(item_id, -1) >= 0:
                self.add(row, indices[item_id], at)
