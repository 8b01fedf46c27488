"""What the catalogue says of items, as a recommender needs it: what may be shown when, what is raised, what is new.

The catalogue is an input beside the log. It is read item by item, between steps, and nothing of it is saved but what it
would not say again: which items were withdrawn, which came in by the catalogue, and how often these were shown. After a
restart it is read whole.

Facts are kept by item id, so that they wait for items that no model knows yet, and by item index, where whole arrays
are asked at once. Knows nothing of topics, files or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np

from streamrec.engine.arrays.batch import NOBODY, NOTHING, Array, Bool, Float32, Int32, Int64
from streamrec.engine.arrays.packing import packed_strings, unpacked_strings
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.items.admission import ItemAdmission
from streamrec.engine.items.attributes import NOTHING_SAID, ItemAttributes
from streamrec.engine.items.bids import Bids
from streamrec.engine.items.entry import ALWAYS, CatalogueEntry
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.items.text_encoders import TextVectors
from streamrec.events import Item


class SearchIndex(Protocol):
    """Finds items by the words that the catalogue says of them."""

    def __len__(self) -> int:
        """The items in it."""

    def take(self, item: Item) -> None:
        """This is said of the item now."""

    def withdraw(self, item_id: str) -> None:
        """Nothing is said of the item any more."""

    def search(self, text: str, k: int) -> tuple[list[str], Float32]:
        """At most `k` items by id, best first, and their scores, above zero."""


class Catalogue:
    """At most `capacity` items of the catalogue; of more, the longest unchanged are as if they were not in it.

    `eager` as in `ItemAdmission`. `listed_only`: nothing else may be shown.
    `texts` makes content vectors of items, and of what people search for; None: they are not needed. `index` holds the
    words of what is listed; None: there is no search.
    """

    def __init__(
        self,
        items: ItemTable,
        capacity: int,
        *,
        eager: bool = True,
        listed_only: bool = False,
        texts: TextVectors | None = None,
        index: SearchIndex | None = None,
    ) -> None:
        self.items = items
        self.capacity = capacity
        self.texts = texts
        self.index = index
        self.revision = 0  # of what is new
        self.dropped = 0  # items left out because there were too many
        self.boost: Float32 = np.zeros(items.capacity, np.float32)  # added to the score, by item index
        self.bids = Bids(items.capacity)
        self.born: Bool = np.zeros(items.capacity, np.bool_)  # came in by the catalogue, before anybody touched it
        self.shown: Int32 = np.zeros(items.capacity, np.int32)  # times on a slate, of those
        self.attributes = ItemAttributes(items)
        self._listed_only = listed_only
        self._entries: dict[str, CatalogueEntry] = {}  # in the order of their last change
        self._newcomers = ItemAdmission(items, self._entries, eager=eager)
        self._withdrawn: dict[str, None] = {}
        self._opens: Int64 = np.zeros(items.capacity, np.int64)
        self._closes: Int64 = np.full(items.capacity, ALWAYS, np.int64)
        self._out: Bool = np.full(items.capacity, listed_only, np.bool_)  # withdrawn, or not listed where it must be
        self._unsettled: dict[int, None] = {}  # items that were given an index since the last learning cut
        self._on_slates: list[int] = []  # items put there since the last learning cut
        self._barred = NOBODY
        self._barred_since, self._barred_until = 1, 0  # when that holds; nothing is known yet
        items.on_named = self._name
        items.on_forgotten = self._clear

    def __len__(self) -> int:
        return len(self._entries)

    # Items come and go

    def take(self, item: Item, sent_ms: int = 0) -> None:
        """The item is in the catalogue, and this is said of it now; `sent_ms` is when it was said, 0: unknown."""
        name = item.item_id
        self._withdrawn.pop(name, None)
        self._entries.pop(name, None)
        self._entries[name] = CatalogueEntry.of(item, sent_ms, self.texts)
        if self.index is not None:
            self.index.take(item)
        while len(self._entries) > self.capacity:
            oldest = next(iter(self._entries))
            del self._entries[oldest]
            self.dropped += 1
            self._unlist(oldest)
            self._tell(oldest)
        self._tell(name)
        self._newcomers.told(name)

    def withdraw(self, item_id: str) -> None:
        """The item must not be shown from now on, whoever wants it."""
        self._entries.pop(item_id, None)
        self._unlist(item_id)
        self._withdrawn.pop(item_id, None)
        self._withdrawn[item_id] = None
        while len(self._withdrawn) > self.capacity:
            forgiven = next(iter(self._withdrawn))
            del self._withdrawn[forgiven]
            self._tell(forgiven)
        self._tell(item_id)

    def _unlist(self, item_id: str) -> None:
        if self.index is not None:
            self.index.withdraw(item_id)

    # What is asked

    def category(self, item_id: str) -> str | None:
        """The item's first category, None where none is known."""
        entry = self._entries.get(item_id)
        return None if entry is None else entry.category

    def price(self, item_id: str) -> float | None:
        """The item's price, None where none is known."""
        entry = self._entries.get(item_id)
        return None if entry is None else entry.said.price

    def spans(self, ts: Int64, rows: slice) -> Iterator[tuple[slice, Bool]]:
        """The query rows, in runs for which the same items are barred, and these, by item index.

        `ts` are the times of all queries, ms. The array stays the same object while it holds the same.
        """
        start = rows.start
        while start < rows.stop:
            barred = self._barred_at(int(ts[start]))
            stop = start + 1
            while stop < rows.stop and self._barred_since <= ts[stop] < self._barred_until:
                stop += 1
            yield slice(start, stop), barred
            start = stop

    def unheard(self) -> list[int]:
        """Items that the log has named since the last learning cut for the first time: models may not know them yet."""
        return [index for index in self._unsettled if not self.born[index]]

    def newest(self, shown_below: int) -> Int32:
        """Items that came in by the catalogue and were shown less often than that, the latest first."""
        rows = len(self.items)
        there = np.flatnonzero(self.born[:rows] & (self.shown[:rows] < shown_below))
        order = np.lexsort((there, -self.items.first_ts[there]))
        return there[order].astype(np.int32)

    def note_shown(self, items: Iterable[int]) -> None:
        """These were put on a slate; it counts from the next learning cut on, as everything that is learned."""
        self._on_slates.extend(items)

    def settle(self) -> None:
        """The cut: what was shown counts, and it is known what new items are about."""
        np.add.at(self.shown, np.array(self._on_slates, np.int32), 1)
        self._on_slates.clear()
        self._say_content(self._unsettled)
        self._unsettled.clear()

    def _say_content(self, indices: Iterable[int]) -> None:
        """What these items are about counts from now on."""
        for index in indices:
            entry = self._entries.get(self.items.ids[index])
            if entry is not None:
                self.items.content.set(index, entry.content)

    # New items

    def arrive(self, now_ms: int, reserved: int) -> None:
        """What is new is given an index, as far as there is room beside the `reserved` ones: see `ItemAdmission`."""
        self._bear(self._newcomers.arrive(now_ms, reserved))

    def arrive_expected(self, now_ms: int, reserved: int) -> None:
        """The same at a learning cut, for what was said to come at a later time: the log's clock is at `now_ms`."""
        self._bear(self._newcomers.arrive_expected(now_ms, reserved))

    def needed(self, reserved: int) -> int:
        """How many indices must be free so that items that wait for room can come, beside the `reserved`."""
        return self._newcomers.needed(reserved)

    def readmit(self, now_ms: int, reserved: int) -> None:
        """Items that waited for room may come now."""
        self._bear(self._newcomers.readmit(now_ms, reserved))

    def _bear(self, indices: list[int]) -> None:
        self.born[indices] = True
        self.revision += len(indices)

    # By item index

    def forget(self, items: Int32) -> None:
        """These indices will name other items soon."""
        self.born[items] = False
        self.shown[items] = 0
        self._clear(items)

    def _clear(self, items: Int32) -> None:
        """What the catalogue says of these is said of others now."""
        self.attributes.forget(items)
        self._set(items, None, False)

    def _name(self, index: int, item_id: str) -> None:
        """An index was given; what was there before was forgotten.

        What the item is about counts from the next learning cut on: before that it would be found by the very query
        that it is the answer to.
        """
        self._unsettled[index] = None
        if item_id in self._entries or item_id in self._withdrawn or self._listed_only:
            self._tell(item_id)

    def _tell(self, item_id: str) -> None:
        index = self.items.lookup(item_id)
        if index == NOTHING:
            return
        entry = self._entries.get(item_id)
        self._set(index, entry, item_id in self._withdrawn)
        if index not in self._unsettled:
            self.items.content.set(index, None if entry is None else entry.content)
        if entry is not None and entry.category is not None:
            self.items.categorise(index, entry.category)
        elif entry is not None and self.attributes.named_category(index):  # and names it no more
            self.items.uncategorise(index)
        self.attributes.tell(index, NOTHING_SAID if entry is None else entry.said)

    def _set(self, index: int | Int32, entry: CatalogueEntry | None, withdrawn: bool) -> None:
        self._opens[index] = 0 if entry is None else entry.opens
        self._closes[index] = ALWAYS if entry is None else entry.closes
        self.boost[index] = 0.0 if entry is None else entry.log_boost
        self.bids.set(index, *((0, 0) if entry is None else (entry.bid, entry.budget)))
        self._out[index] = withdrawn or (self._listed_only and entry is None)
        self._barred_since, self._barred_until = 1, 0

    def _barred_at(self, ts: int) -> Bool:
        if not self._barred_since <= ts < self._barred_until:
            rows = len(self.items)
            opens, closes = self._opens[:rows], self._closes[:rows]
            barred = self._out[:rows] | (ts < opens) | (closes <= ts)  # (items,)
            self._barred = barred if barred.any() else NOBODY
            turns = np.concatenate([opens, closes])
            self._barred_since = int(turns.max(initial=0, where=turns <= ts))
            self._barred_until = int(turns.min(initial=ALWAYS, where=turns > ts))
        return self._barred

    # Snapshots, and serving by what another one learned of the same catalogue

    def served(self) -> dict[str, Rows]:
        """By item index, but for those that are `unsettled`."""
        rows = len(self.items)
        return {
            "born": self.born[:rows],
            "shown": self.shown[:rows],
            "out": self._out[:rows],
            "unsettled": np.array(list(self._unsettled), np.int32),
        }

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """What another one knows of new items, after its items are served.

        What it knows as withdrawn stays so here, unless the catalogue has listed it since: the topic does not say for
        ever what was withdrawn.
        """
        self.born, self.shown = arrays["born"], arrays["shown"]
        out = np.flatnonzero(arrays["out"]) if changed is None else changed.get("out", np.empty(0, np.int64))
        for index in out.tolist():
            name = self.items.ids[index]
            if arrays["out"][index] and name and name not in self._entries and name not in self._withdrawn:
                self.withdraw(name)
        waited, self._unsettled = self._unsettled, dict.fromkeys(arrays["unsettled"].tolist())
        self._say_content(index for index in waited if index not in self._unsettled and index < len(self.items))
        self._on_slates.clear()
        self._newcomers.leave()
        self.revision += 1

    def state(self) -> dict[str, Array]:
        """What the catalogue will not say again."""
        return {
            **{name: np.array(rows) for name, rows in self.served().items()},
            "on_slates": np.array(self._on_slates, np.int32),
            "cut_ms": np.array([self._newcomers.cut_ms], np.int64),
            **packed_strings("withdrawn", list(self._withdrawn)),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`, after the items were restored; what was read since the start stands."""
        said = self._withdrawn
        self._withdrawn = dict.fromkeys(n for n in unpacked_strings("withdrawn", arrays) if n not in self._entries)
        self._withdrawn.update(said)
        self.look_anew(arrays["unsettled"].tolist())
        rows = len(arrays["born"])
        self.born[:rows], self.shown[:rows] = arrays["born"], arrays["shown"]
        self._on_slates = arrays["on_slates"].tolist()
        self._newcomers.cut_ms = int(arrays["cut_ms"][0])

    def look_anew(self, unsettled: Iterable[int] = ()) -> None:
        """The item table is another: facts go to where their items are now.

        `unsettled` are those that came since the last learning cut.
        """
        self._unsettled = dict.fromkeys(unsettled)
        self.born[:] = False
        self.shown[:] = 0
        every = np.arange(self.items.capacity, dtype=np.int32)
        self._set(every, None, False)
        self.attributes.forget(every)
        self.items.content.forget(every)
        for name in [*self._entries, *self._withdrawn]:
            self._tell(name)
        self._newcomers.look_anew()
        self._on_slates.clear()
        self.revision += 1
