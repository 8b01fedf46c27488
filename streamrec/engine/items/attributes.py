"""What the catalogue says of items that can be asked for: their price, all their categories, all their tags.

By item index, so that a filter is answered for every item at once. Prices are an array; of each category and each tag
it is kept which items carry it, so a label costs as much as it has items and not as much as there are. What is said of
an item is added when it gets an index, and removed when its index is (`Catalogue` does both).

Where the catalogue names no category of an item, the item table's counts: the one that events named. Knows nothing of
topics, models or requests.
"""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from streamrec.engine.arrays.batch import Bool, Float64, Int32
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.items.item_table import ItemTable
from streamrec.events import Filters, Item

REMEMBERED = 64
"""Filters whose items are kept until something changes, a byte per item each."""

SHARED = 1_024
"""Lists of categories that are kept for the next item."""


class Description(NamedTuple):
    """What is said of one item. No label is there twice."""

    price: float | None = None
    categories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


NOTHING_SAID = Description()


def description_of(item: Item) -> Description:
    """What the catalogue says. Equal labels are one text in memory, whoever carries them."""
    if item.price is None and not item.categories and not item.tags:
        return NOTHING_SAID
    return Description(item.price, _shared(item.categories), _distinct(item.tags))


class ItemAttributes:
    """Of every item that has an index."""

    def __init__(self, items: ItemTable) -> None:
        self.price: Float64 = np.full(items.capacity, np.nan, np.float64)  # by item index; NaN: not said
        self._items = items
        self._said = [NOTHING_SAID] * items.capacity
        self._categorised: Bool = np.zeros(items.capacity, np.bool_)  # the catalogue names a category
        self._categories = _Carriers(items.capacity)
        self._tags = _Carriers(items.capacity)
        self._revision = 0
        self._known_as_of = (0, 0)
        self._known: OrderedDict[Filters, Bool] = OrderedDict()  # least recently asked first

    # In and out

    def tell(self, index: int, said: Description) -> None:
        """This is said of the item now, in place of what was."""
        before = self._said[index]
        if said == before:
            return
        self._said[index] = said
        self._revision += 1
        self.price[index] = np.nan if said.price is None else said.price
        self._categorised[index] = bool(said.categories)
        self._categories.change(index, before.categories, said.categories)
        self._tags.change(index, before.tags, said.tags)

    def forget(self, items: Int32) -> None:
        """These indices will name other items soon."""
        said = [self._said[index] for index in items.tolist()]
        self._categories.forget(items, {label for each in said for label in each.categories})
        self._tags.forget(items, {label for each in said for label in each.tags})
        self.price[items] = np.nan
        self._categorised[items] = False
        for index in items.tolist():
            self._said[index] = NOTHING_SAID
        self._revision += 1

    # What is asked

    def categories(self, index: int) -> tuple[str, ...]:
        """All categories of an item, the first one first."""
        said = self._said[index].categories
        if said:
            return said
        name = self._items.category_of(index)
        return () if name is None else (name,)

    def named_category(self, index: int) -> bool:
        """Whether the catalogue names a category of the item."""
        return bool(self._categorised[index])

    def tags(self, index: int) -> tuple[str, ...]:
        """All tags of an item."""
        return self._said[index].tags

    def matching(self, filters: Filters) -> Bool:
        """Which items are as wanted, by item index, (items,); not to be written to.

        An item of which a category, a tag or the price is not known does not have it: it passes `without_categories`
        and nothing else.
        """
        now = (self._revision, self._items.revision)
        if self._known_as_of != now:
            self._known_as_of = now
            self._known.clear()
        found = self._known.get(filters)
        if found is None:
            found = self._known[filters] = self._found(filters)
            found.flags.writeable = False
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(filters)
        return found

    def within(self, categories: Iterable[str]) -> Bool:
        """Which items are in at least one of the categories, by item index, (items,)."""
        wanted = tuple(categories)
        within = np.zeros(len(self._items), np.bool_)
        silent = np.flatnonzero(~self._categorised[: len(within)]).astype(np.int32)
        within[silent] = self._items.of_category(wanted, silent)
        for category in wanted:
            _mark(within, self._categories.of(category))
        return within

    def tagged(self, tags: Iterable[str]) -> Bool:
        """Which items have all the tags, by item index, (items,)."""
        wanted = dict.fromkeys(tags)
        having = np.zeros(len(self._items), np.int16)
        for tag in wanted:
            _count(having, self._tags.of(tag))
        tagged: Bool = having == len(wanted)
        return tagged

    def _found(self, filters: Filters) -> Bool:
        price = self.price[: len(self._items)]
        found = self.tagged(filters.tags) if filters.tags else np.ones(len(self._items), np.bool_)
        if filters.categories:
            found &= self.within(filters.categories)
        if filters.without_categories:
            found &= ~self.within(filters.without_categories)
        if filters.price_min is not None:
            found &= price >= filters.price_min  # not true of NaN
        if filters.price_max is not None:
            found &= price <= filters.price_max
        return found


class _Carriers:
    """Which items carry each label, in no order."""

    def __init__(self, capacity: int) -> None:
        self._items: dict[str, array[int]] = {}
        self._leaving: Bool = np.zeros(capacity, np.bool_)

    def of(self, label: str) -> Int32:
        """A view, to be let go of before anything changes."""
        return np.frombuffer(self._items[label], np.int32) if label in self._items else np.empty(0, np.int32)

    def change(self, index: int, before: tuple[str, ...], now: tuple[str, ...]) -> None:
        for label in now:
            if label not in before:
                if label not in self._items:
                    self._items[label] = array("i")
                self._items[label].append(index)
        if before:
            self.forget(np.array([index], np.int32), [label for label in before if label not in now])

    def forget(self, items: Int32, labels: Iterable[str]) -> None:
        """None of the items carries any of the labels from now on."""
        self._leaving[items] = True
        for label in labels:
            carriers = self.of(label)
            staying = carriers[~self._leaving[carriers]]
            if len(staying):
                self._items[label] = array("i", staying.tobytes())
            else:
                del self._items[label]
        self._leaving[items] = False


@compiled
def _mark(marked, items):  # type: ignore[no-untyped-def]
    for item in items:
        marked[item] = True


@compiled
def _count(counts, items):  # type: ignore[no-untyped-def]
    for item in items:
        counts[item] += 1


def _distinct(labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sys.intern(label) for label in dict.fromkeys(labels))


@lru_cache(maxsize=SHARED)
def _shared(categories: tuple[str, ...]) -> tuple[str, ...]:
    """Many items are in the same categories; of these there is one list."""
    return _distinct(categories)
