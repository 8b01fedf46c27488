"""What a user has bought lately, for rules that do not offer it again.

Bounded: the newest LIMIT items of a user, 12 bytes each. Kept only when a scenario asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from streamrec.engine.arrays.batch import Int32, Int64
from streamrec.engine.items.item_table import among
from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts

LIMIT = 256


class _UserPurchases(NamedTuple):
    """One user's, in the order in which they became known."""

    items: Int32
    at: Int64  # ms, when each was bought last


NONE = _UserPurchases(np.empty(0, np.int32), np.empty(0, np.int64))


class Purchases(UserFeature):
    """When each item was last bought, ms, by row of the user table."""

    keys = ("bought",)

    def __init__(self) -> None:
        self._of: dict[int, _UserPurchases] = {}

    def add(self, row: int, item: int, ts: int) -> None:
        """The user bought an item."""
        items, at = self._of.get(row, NONE)
        again = items == item
        ts = max(ts, int(at[again].max(initial=0)))
        items, at = np.append(items[~again], np.int32(item)), np.append(at[~again], np.int64(ts))
        if len(items) > LIMIT:
            oldest = int(at.argmin())
            items, at = np.delete(items, oldest), np.delete(at, oldest)
        self._of[row] = _UserPurchases(items, at)

    def since(self, row: int, ts: int) -> Int32:
        """The items bought at `ts` or later, by index."""
        items, at = self._of.get(row, NONE)
        return np.sort(items[at >= ts])

    def clear(self, rows: Int32) -> None:
        for row in rows.tolist():
            self._of.pop(row, None)

    def forget_items(self, items: Int32) -> None:
        gone = among(items)
        for row, (held, at) in self._of.items():
            leaving = gone(held)
            if leaving.any():
                self._of[row] = _UserPurchases(held[~leaving], at[~leaving])

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        items, at = self._of.get(row, NONE)
        bought = [[item_ids[item], ts] for item, ts in zip(items.tolist(), at.tolist(), strict=True)]
        return {"bought": bought} if bought else {}

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        known = [(indices[item_id], at) for item_id, at in value.get("bought", ()) if indices.get(item_id, -1) >= 0]
        if known:
            items, at = zip(*known, strict=True)
            self._of[row] = _UserPurchases(np.array(items, np.int32), np.array(at, np.int64))

    def stored_items(self, value: Mapping[str, Any]) -> Iterable[str | None]:
        return (entry[0] for entry in value["bought"])


def build(parts: UserFeatureParts) -> Purchases:
    """The feature, without any user yet."""
    return Purchases()
