"""Items as the models know them: a dense index per item id, and the few facts every model asks for.

An index is given when an item is first seen and taken back when the item has not been seen for longest and room is
needed. Knows nothing of models: what keeps rows by item index is given the indices to forget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Array, Bool, Int32, Int64
from streamrec.engine.arrays.packing import packed_strings, unpacked_strings
from streamrec.engine.following.served import Arrays, ChangedRows, Rows, RowStamps
from streamrec.engine.items.item_vectors import WIDTH, Content
from streamrec.errors import StateError
from streamrec.events import LATEST_TS_MS

FORGOTTEN_SHARE = 64
"""When the table is full, one item in so many makes room."""


class ItemTable:
    """At most `capacity` items, each with an index below it."""

    def __init__(self, capacity: int, content_width: int = WIDTH) -> None:
        self.capacity = capacity
        self.content = Content(capacity, content_width)
        self.first_ts = np.zeros(capacity, np.int64)
        self.last_ts = np.zeros(capacity, np.int64)
        self.category = np.full(capacity, NOTHING, np.int32)
        self.ids: list[str] = []
        self._stamped = RowStamps(capacity)  # of ids
        self._index: dict[str, int] = {}
        self._free: list[int] = []
        self._categories: dict[str, int] = {}
        self._category_names: list[str] = []
        self.revision = 0  # of which items there are, and of their categories
        self.on_named: Callable[[int, str], None] = lambda index, item_id: None
        """Told of every index that is given."""
        self.on_forgotten: Callable[[Int32], None] = lambda indices: None
        """Told of indices that no longer name what they did, by `serve`, before `on_named` of those that came."""
        self._follows = False  # another one gives and takes indices
        self._followed_ids: list[str] = []  # by index, as of the last `serve`

    def __len__(self) -> int:
        """One more than the largest index ever given: the rows that models must look at."""
        return len(self.ids)

    @property
    def known(self) -> int:
        """Items that have an index now."""
        return len(self._index)

    def lookup(self, item_id: str) -> int:
        """The item's index, NOTHING when it is unknown."""
        return self._index.get(item_id, NOTHING)

    def intern(self, item_id: str, ts: int) -> int:
        """The item's index, given now if it is new. `make_room` must have been asked for first.

        Only a new item's time is taken: what is known of an item moves at learning cuts (`seen`), never before it was
        ranked. NOTHING for a new one where another table, which `serve` follows, gives indices.
        """
        index = self._index.get(item_id)
        if index is None and self._follows:
            return NOTHING
        if index is None:
            if self._free:
                index = self._free.pop()
                self.ids[index] = item_id
            else:
                index = len(self.ids)
                self.ids.append(item_id)
            self._index[item_id] = index
            self._stamped.touch(slice(index, index + 1))
            self.first_ts[index] = ts
            self.last_ts[index] = ts
            self.category[index] = NOTHING
            self.revision += 1
            self.on_named(index, item_id)
        return index

    def seen(self, indices: Int32, ts: Int64) -> None:
        """These items were touched at these times, (events,) each."""
        np.maximum.at(self.last_ts, indices, ts)

    def categorise(self, index: int, category: str) -> None:
        """Say what kind of item this is; at most `capacity` categories are kept apart."""
        code = self.category_code(category)
        if not self._follows and code not in (NOTHING, self.category[index]):
            self.category[index] = code
            self.revision += 1

    def uncategorise(self, index: int) -> None:
        """Forget the category of this item."""
        if not self._follows:
            self.category[index] = NOTHING
            self.revision += 1

    def category_of(self, index: int) -> str | None:
        """What kind of item this is, None where it is not known."""
        code = int(self.category[index])
        return None if code == NOTHING else self._category_names[code]

    def of_category(self, names: Iterable[str], items: Int32) -> Bool:
        """Which of some items are of one of these kinds, (items,)."""
        wanted = np.zeros(len(self._categories) + 1, np.bool_)  # by code; the last is where NOTHING points to
        wanted[[self._categories[name] for name in names if name in self._categories]] = True
        return wanted[self.category[items]]

    def category_names(self) -> list[str]:
        """By code."""
        return self._category_names.copy()

    def category_code(self, category: str) -> int:
        """The code of a category, given now if it is new; NOTHING when there are too many."""
        code = self._categories.get(category)
        if code is None and not self._follows and len(self._categories) < self.capacity:
            code = self._categories[category] = len(self._categories)
            self._category_names.append(category)
        return NOTHING if code is None else code

    def known_category(self, category: str) -> int:
        """The code of a category, NOTHING when it has none."""
        return self._categories.get(category, NOTHING)

    @property
    def free(self) -> list[int]:
        """Indices that named an item once and name none now."""
        return self._free

    @property
    def room(self) -> int:
        """Indices that are free."""
        return self.capacity - len(self._index)

    def longest_unseen(self) -> int:
        """When the first item that would be forgotten was last seen, ms; 0 when there is none."""
        known = np.fromiter(self._index.values(), np.int32, len(self._index))
        return int(self.last_ts[known].min(initial=LATEST_TS_MS)) if len(known) else 0

    def make_room(self, newcomers: int) -> Int32:
        """Free indices for as many new items; returns the indices that must be forgotten everywhere, often none."""
        spare = self.room
        if newcomers <= spare:
            return np.empty(0, np.int32)
        leaving = min(len(self._index), max(newcomers - spare, self.capacity // FORGOTTEN_SHARE))
        known = np.fromiter(self._index.values(), np.int32, len(self._index))
        # Ties go by index, so that equal logs forget equal items.
        order = np.lexsort((known, self.last_ts[known]))
        forgotten = known[order[:leaving]]
        for index in forgotten.tolist():
            del self._index[self.ids[index]]
            self.ids[index] = ""
            self._free.append(index)
        self._stamped.touch(forgotten)
        self.content.forget(forgotten)
        return np.sort(forgotten)

    def served(self) -> dict[str, Rows]:
        """By index, but for `free` and the names of categories by their codes."""
        rows = len(self.ids)
        return {
            "first_ts": self.first_ts[:rows],
            "last_ts": self.last_ts[:rows],
            "category": self.category[:rows],
            "free": np.array(self._free, np.int32),
            "ids": self.ids,
            "categories": self._category_names,
        }

    def touched(self, since: int) -> tuple[int, ChangedRows]:
        """What has a name is given one, or loses it, one by one."""
        moment, rows = self._stamped.since(since)
        return moment, {"ids": rows}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """Name items as another one does, who alone gives and takes indices and says what kind they are of."""
        self._follows = True
        self.first_ts, self.last_ts, self.category = arrays["first_ts"], arrays["last_ts"], arrays["category"]
        self.ids, self._category_names = arrays["ids"], arrays["categories"]
        self._free = arrays["free"].tolist()
        if changed is None or "categories" in changed:
            self._categories = {name: code for code, name in enumerate(self._category_names)}
        if changed is None:
            self._rename(range(len(self.ids)))
        elif "ids" in changed:
            self._rename(changed["ids"].tolist())
        self.revision += 1

    def _rename(self, indices: Iterable[int]) -> None:
        """Some of these name another item than at the last time."""
        before = self._followed_ids
        gone = range(len(self.ids), len(before))
        before += [""] * (len(self.ids) - len(before))
        renamed = [index for index in indices if before[index] != self.ids[index]]
        lost = [index for index in (*renamed, *gone) if before[index]]
        for index in lost:
            del self._index[before[index]]
        del before[len(self.ids) :]
        if lost:
            self.content.forget(np.array(lost, np.int32))
            self.on_forgotten(np.array(lost, np.int32))
        for index in renamed:
            before[index] = self.ids[index]
            if before[index]:
                self._index[before[index]] = index
        for index in renamed:
            if before[index]:
                self.on_named(index, before[index])

    def state(self) -> dict[str, Array]:
        rows = {name: held for name, held in self.served().items() if not isinstance(held, list)}
        return {
            **{name: held.copy() for name, held in rows.items()},
            **packed_strings("ids", self.ids),
            **packed_strings("categories", self._category_names),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self._stamped.touch(slice(None))
        self.ids = unpacked_strings("ids", arrays)
        rows = len(self.ids)
        if rows > self.capacity:
            raise StateError(
                f"the snapshot has {rows} items, limits.max_items allows {self.capacity}: raise it to {rows}"
            )
        self.first_ts[:rows] = arrays["first_ts"]
        self.last_ts[:rows] = arrays["last_ts"]
        self.category[:rows] = arrays["category"]
        self._free = [int(index) for index in arrays["free"]]
        free = set(self._free)
        self._index = {item_id: index for index, item_id in enumerate(self.ids) if index not in free}
        self._category_names = unpacked_strings("categories", arrays)
        self._categories = {name: code for code, name in enumerate(self._category_names)}
        self.revision += 1


def renamed(then: Mapping[str, Array], now: ItemTable) -> Int32:
    """The indices that named another item in an older state of the table than they do now."""
    before = unpacked_strings("ids", then)
    pairs = zip(before, now.ids, strict=False)  # the table only grows
    return np.array([index for index, (old, new) in enumerate(pairs) if old != new], np.int32)


def among(items: Int32) -> Callable[[Int32], Bool]:
    """Tells which of some indices are among these: made once where many users are asked about."""
    listed = np.zeros(int(items.max(initial=0)) + 2, np.bool_)  # the last stands for every index behind
    listed[items] = True
    return lambda held: listed[np.minimum(held, len(listed) - 1)]
