"""What a service says of trends, statement by statement: per input partition and item, what the windows hold.

As `trends/totals.py` does: the last statement of each partition on an item counts, and the sum over partitions is what
all users did; what a partition said longer ago than a window is long, by the newest clock of all, is out of that
window.

Statements are kept by item id, so that they wait for items that no model knows yet, and find those again whose index
was forgotten. Nothing of them is saved: the topic says everything again to whoever starts. Knows nothing of topics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Array, Int32, Int64, MicroBatch
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.trending.table import TrendTable


class TopicTrendCounts:
    """At most `capacity` statements; when there are more, the items longest unmentioned leave."""

    def __init__(self, table: TrendTable, items: ItemTable, capacity: int) -> None:
        self.table = table
        self.capacity = capacity
        self.clock = 0  # the newest time that any statement named, ms
        self.dropped = 0  # items left out because there were too many statements
        self._items = items
        self._places: dict[str, dict[int, int]] = {}  # of an item, by partition; in the order of their last statement
        self._free: list[int] = []
        self._used = 0
        self._lengths_ms = np.array(table.lengths_s, np.int64) * 1000
        self._item: Int32 = np.full(capacity, NOTHING, np.int32)  # NOTHING: free, or of an item without an index
        self._ts: Int64 = np.zeros(capacity, np.int64)
        self._counts: Int64 = np.zeros((capacity, len(table.lengths_s), 2), np.int64)
        self._changed = False
        self._named = items.on_named
        items.on_named = self._name

    def __len__(self) -> int:
        return self._used - len(self._free)

    def take(self, partition: int, item_id: str, ts: int, counts: Sequence[tuple[int, int]]) -> None:
        """A partition says, as of `ts` (ms), what each window holds of an item: count and before."""
        places = self._places.pop(item_id, {})
        self._places[item_id] = places
        if partition not in places:
            places[partition] = self._place(item_id)
        place = places[partition]
        self._item[place] = self._items.lookup(item_id)
        self._ts[place] = ts
        self._counts[place] = counts
        self.clock = max(self.clock, ts)
        self._changed = True

    def withdraw(self, partition: int, item_id: str) -> None:
        """A partition has nothing of an item in its windows any more."""
        places = self._places.get(item_id, {})
        place = places.pop(partition, None)
        if place is None:
            return
        self._release(place)
        if not places:
            del self._places[item_id]

    def settle(self) -> None:
        """Add up what was said since the last time."""
        if not self._changed:
            return
        self._changed = False
        rows, used = len(self._items), self._used
        self.table.said[: max(rows, self.table.rows)] = 0
        _add_up(self._item[:used], self._ts[:used], self._counts, self.clock, self._lengths_ms, self.table.said)
        self.table.say(rows, self.clock)

    def _place(self, item_id: str) -> int:
        while not self._free and self._used == self.capacity:
            oldest = next(iter(self._places))
            if oldest == item_id:  # of this very item there are as many as fit
                return self._places[oldest].pop(next(iter(self._places[oldest])))
            for place in self._places.pop(oldest).values():
                self._release(place)
            self.dropped += 1
        if self._free:
            return self._free.pop()
        self._used += 1
        return self._used - 1

    def _release(self, place: int) -> None:
        self._item[place] = NOTHING
        self._free.append(place)
        self._changed = True

    def _name(self, index: int, item_id: str) -> None:
        """An index was given; what was there before was forgotten."""
        self._named(index, item_id)
        for place in self._places.get(item_id, {}).values():
            self._item[place] = index
            self._changed = True

    # As a model learns

    def learn(self, batch: MicroBatch) -> None:
        """New items get an index. The time is that of most queries: one that is ahead does not move it."""
        if batch.asked:
            self.table.tick(int(np.median(batch.queries.ts[: batch.asked])))
        self.settle()

    def forget(self, items: Int32) -> None:
        """These indices will name other items soon."""
        self._item[: self._used][np.isin(self._item[: self._used], items)] = NOTHING
        self.table.forget(items)

    def served(self) -> dict[str, Rows]:
        """Nothing: whoever serves reads the topic itself."""
        return {}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """The item table may have followed: statements are where their items are."""
        self.settle()

    def state(self) -> dict[str, Array]:
        """Nothing: the topic says it again."""
        return {}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The item table is another: statements go to where their items are now."""
        for item_id, places in self._places.items():
            index = self._items.lookup(item_id)
            for place in places.values():
                self._item[place] = index
        self._changed = True
        self.settle()


@compiled
def _add_up(item, ts, counts, clock, lengths_ms, said):  # type: ignore[no-untyped-def]
    for place in range(len(item)):
        if item[place] >= 0:
            for at in range(len(lengths_ms)):
                if clock - ts[place] <= lengths_ms[at]:
                    said[item[place], at, 0] += counts[place, at, 0]
                    said[item[place], at, 1] += counts[place, at, 1]
