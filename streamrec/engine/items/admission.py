"""Items of the catalogue without an event yet: when each is given an index, and for how many there is room.

Indices are scarce, and some are left for what is new in the log. Knows nothing of what is known of items that are in.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from streamrec.engine.arrays.batch import NOTHING
from streamrec.engine.items.entry import CatalogueEntry
from streamrec.engine.items.item_table import FORGOTTEN_SHARE, ItemTable

SPARE_SHARE = 8
MOST_SPARE = 2_048
"""Indices that are left for what is new in the log: one in SPARE_SHARE, this many at most."""


class ItemAdmission:
    """Which of the catalogue's `entries`, by item id, wait for an index.

    `eager`: an item that does not say when it was added is new as soon as it is listed; else it is known when the log
    first names it (a backtest: the file says what will be, not when).
    """

    def __init__(self, items: ItemTable, entries: Mapping[str, CatalogueEntry], *, eager: bool) -> None:
        self.cut_ms = 0  # the log's clock at the last learning cut
        self._items = items
        self._entries = entries
        self._eager = eager
        self._new: dict[str, None] = {}  # listed, to be looked at before the next step
        self._expected: list[tuple[int, str]] = []  # a heap of those whose time of coming has not come
        self._crowded_out: dict[str, None] = {}  # those that found no room

    def told(self, item_id: str) -> None:
        """The catalogue has said something of the item."""
        if self._items.lookup(item_id) == NOTHING and (self._eager or self._entries[item_id].added is not None):
            self._new[item_id] = None

    def leave(self) -> None:
        """Whoever follows another table admits nothing."""
        self._new.clear()
        self._expected.clear()
        self._crowded_out.clear()

    def look_anew(self) -> None:
        """The item table is another."""
        self.leave()
        for item_id in self._entries:
            self.told(item_id)

    def arrive(self, now_ms: int, reserved: int) -> list[int]:
        """Give an index to what is new, the latest first, as far as there is room beside the `reserved` indices.

        Where there is none, the latest wait until as many as are `needed` are free; what came before all that is known
        does not. Returns the indices given.
        """
        arriving: list[tuple[int, str]] = []
        for name in self._new:
            entry = self._entries.get(name)
            if entry is None or self._items.lookup(name) != NOTHING:
                continue
            if entry.added is not None and (entry.added > self.cut_ms or not self._eager):
                heapq.heappush(self._expected, (entry.added, name))
            else:
                arriving.append((entry.came(now_ms), name))
        self._new.clear()
        return self._admit(arriving, reserved)

    def arrive_expected(self, now_ms: int, reserved: int) -> list[int]:
        """The same at a learning cut, for what was said to come at a later time: the log's clock is at `now_ms`."""
        self.cut_ms = now_ms
        due: list[tuple[int, str]] = []
        while self._expected and self._expected[0][0] <= now_ms:
            added, name = heapq.heappop(self._expected)
            entry = self._entries.get(name)
            if entry is not None and entry.added == added:
                due.append((added, name))
        return self._admit(due, reserved)

    def needed(self, reserved: int) -> int:
        """How many indices must be free so that items that wait for room can come, beside the `reserved`."""
        return reserved + (self._spare + len(self._crowded_out) if self._crowded_out else 0)

    def readmit(self, now_ms: int, reserved: int) -> list[int]:
        """Items that waited for room may come now."""
        waiting = [(self._entries[n].came(now_ms), n) for n in self._crowded_out if n in self._entries]
        self._crowded_out.clear()
        return self._admit(waiting, reserved)

    @property
    def _spare(self) -> int:
        return min(MOST_SPARE, self._items.capacity // SPARE_SHARE)

    def _admit(self, arriving: list[tuple[int, str]], reserved: int) -> list[int]:
        if not arriving:
            return []
        room = max(0, self._items.room - reserved - self._spare)
        arriving.sort(key=lambda one: (-one[0], one[1]))
        given = [
            self._items.intern(name, came) for came, name in arriving[:room] if self._items.lookup(name) == NOTHING
        ]
        if len(arriving) > room:
            oldest = self._items.longest_unseen()
            waiting = [name for came, name in arriving[room:] if came > oldest]
            self._crowded_out.update(dict.fromkeys(waiting[: self._items.capacity // FORGOTTEN_SHARE]))
        return given
