"""How often an item was on a user's slates since the user last touched it, for rules that tire of it.

    n <- 1 + n * 2 ** -(age / HALF_LIFE_S)        put on a slate; 0 once the user touches the item

Bounded: LIMIT items of a user, those shown last. Kept only when a scenario asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from streamrec.features.batch import Int32

HALF_LIFE_S = 86_400.0
LIMIT = 256


class Shown:
    """(count, ms) of each item, by row of the user table."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[int, tuple[float, int]]] = {}

    def add(self, row: int, items: Iterable[int], ts: int) -> None:
        """These were put on a slate of the user."""
        counts = self._counts.setdefault(row, {})
        for item in items:
            before = counts.pop(item, (0.0, ts))
            counts[item] = 1.0 + _decayed(before, ts), max(ts, before[1])
        for item in list(counts)[: max(len(counts) - LIMIT, 0)]:
            del counts[item]

    def touch(self, row: int, item: int) -> None:
        """The user took notice of the item."""
        if row in self._counts:
            self._counts[row].pop(item, None)

    def above(self, row: int, most: float, ts: int) -> Int32:
        """The items that were shown so often or oftener, to the nearest whole number, by index."""
        counts = self._counts.get(row, {})
        often = sorted(item for item, count in counts.items() if _decayed(count, ts) >= most - 0.5)
        return np.array(often, np.int32)

    def grow(self, rows: int) -> None:
        """Rows appear as they are needed."""

    def clear(self, rows: Int32) -> None:
        for row in rows.tolist():
            self._counts.pop(row, None)

    def forget_items(self, items: Int32) -> None:
        gone = set(items.tolist())
        for row, counts in self._counts.items():
            self._counts[row] = {item: count for item, count in counts.items() if item not in gone}

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        counts = self._counts.get(row)
        return {"shown": [[item_ids[item], count, at] for item, (count, at) in counts.items()]} if counts else {}

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        known = {
            indices[item_id]: (count, at)
            for item_id, count, at in value.get("shown", ())
            if indices.get(item_id, -1) >= 0
        }
        if known:
            self._counts[row] = known


def _decayed(count: tuple[float, int], ts: int) -> float:
    """A count as of `ts`."""
    halvings = max(ts - count[1], 0) / 1000.0 / HALF_LIFE_S
    return float(count[0] * 0.5**halvings)
