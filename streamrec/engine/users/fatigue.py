"""How often an item was on a user's slates since the user last touched it, for rules that tire of it.

    n <- 1 + n * 2 ** -(age / HALF_LIFE_S)        put on a slate; 0 once the user touches the item

Bounded: LIMIT items of a user, those shown last, 20 bytes each. Kept only when a scenario asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from streamrec.engine.arrays.batch import Bool, Float64, Int32, Int64
from streamrec.engine.items.item_table import among
from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts

HALF_LIFE_S = 86_400.0
LIMIT = 256


class _Showings(NamedTuple):
    """One user's, those shown last at the end."""

    items: Int32
    counts: Float64  # as of
    at: Int64  # ms

    def where(self, these: Bool) -> _Showings:
        """Some of them."""
        return _Showings(self.items[these], self.counts[these], self.at[these])

    def decayed(self, ts: int) -> Float64:
        """The counts as of `ts`."""
        halvings = np.maximum(ts - self.at, 0) / 1000.0 / HALF_LIFE_S
        counts: Float64 = self.counts * np.exp2(-halvings)
        return counts


NONE = _Showings(np.empty(0, np.int32), np.empty(0, np.float64), np.empty(0, np.int64))


class Fatigue(UserFeature):
    """(count, ms) of each item, by row of the user table."""

    keys = ("shown",)

    def __init__(self) -> None:
        self._of: dict[int, _Showings] = {}

    def add(self, row: int, items: Iterable[int], ts: int) -> None:
        """These were put on a slate of the user."""
        now = np.array(list(items), np.int32)
        before = self._of.get(row, NONE)
        counts, at = np.ones(len(now)), np.full(len(now), ts, np.int64)
        held, again = np.nonzero(before.items[:, None] == now)
        counts[again] += before.decayed(ts)[held]
        at[again] = np.maximum(at[again], before.at[held])
        items, others, when = before.where(~np.isin(before.items, now))
        self._of[row] = _Showings(
            np.append(items, now)[-LIMIT:], np.append(others, counts)[-LIMIT:], np.append(when, at)[-LIMIT:]
        )

    def touch(self, row: int, item: int) -> None:
        """The user took notice of the item."""
        shown = self._of.get(row)
        if shown is not None and item in shown.items:
            self._of[row] = shown.where(shown.items != item)

    def above(self, row: int, most: float, ts: int) -> Int32:
        """The items that were shown so often or oftener, to the nearest whole number, by index."""
        shown = self._of.get(row, NONE)
        return np.sort(shown.items[shown.decayed(ts) >= most - 0.5])

    def clear(self, rows: Int32) -> None:
        for row in rows.tolist():
            self._of.pop(row, None)

    def forget_items(self, items: Int32) -> None:
        gone = among(items)
        for row, shown in self._of.items():
            leaving = gone(shown.items)
            if leaving.any():
                self._of[row] = shown.where(~leaving)

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        columns = (column.tolist() for column in self._of.get(row, NONE))
        shown = [[item_ids[item], count, at] for item, count, at in zip(*columns, strict=True)]
        return {"shown": shown} if shown else {}

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        known = [
            (indices[item_id], count, at)
            for item_id, count, at in value.get("shown", ())
            if indices.get(item_id, -1) >= 0
        ]
        if known:
            items, counts, at = zip(*known, strict=True)
            self._of[row] = _Showings(np.array(items, np.int32), np.array(counts, np.float64), np.array(at, np.int64))

    def stored_items(self, value: Mapping[str, Any]) -> Iterable[str | None]:
        return (entry[0] for entry in value["shown"])


def build(parts: UserFeatureParts) -> Fatigue:
    """The feature, without any user yet."""
    return Fatigue()
