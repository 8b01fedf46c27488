"""Filters are answered as a reader of the catalogue would answer them, whatever was said, taken back and said again."""

from __future__ import annotations

from time import thread_time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.engine.arrays.batch import NOTHING
from streamrec.engine.items.catalogue import Catalogue
from streamrec.engine.items.item_table import ItemTable
from streamrec.events import Filters, Item

NAMES = [f"i{at}" for at in range(8)]
LABELS = ["a", "b", "c"]


def item(name: str, price: float | None = None, categories: str = "", tags: str = "") -> Item:
    return Item(item_id=name, price=price, categories=tuple(categories), tags=tuple(tags))


class Shop:
    """A listing over a small table, and what is in it."""

    def __init__(self, capacity: int = 64, max_catalogue: int = 64) -> None:
        self.items = ItemTable(capacity)
        self.catalogue = Catalogue(self.items, max_catalogue)

    def touched(self, *names: str, ts: int = 1_000) -> None:
        for name in names:
            self.items.intern(name, ts)

    def found(self, **wanted: object) -> set[str]:
        mask = self.catalogue.attributes.matching(Filters(**wanted))  # type: ignore[arg-type]
        assert mask.shape == (len(self.items),)
        return {self.items.ids[index] for index in np.flatnonzero(mask).tolist()} - {""}


@pytest.fixture
def shop() -> Shop:
    shop = Shop()
    shop.touched("mug", "cup", "lamp", "stranger")
    shop.catalogue.take(item("mug", 3.0, "ab", "xy"))
    shop.catalogue.take(item("cup", 5.0, "a", "x"))
    shop.catalogue.take(item("lamp", None, "c"))
    return shop


def test_an_item_has_to_satisfy_everything_that_is_wanted(shop: Shop) -> None:
    assert shop.found() == {"mug", "cup", "lamp", "stranger"}
    assert shop.found(categories=("a",)) == {"mug", "cup"}
    assert shop.found(categories=("b", "c")) == {"mug", "lamp"}
    assert shop.found(without_categories=("b",)) == {"cup", "lamp", "stranger"}
    assert shop.found(tags=("x",)) == {"mug", "cup"}
    assert shop.found(tags=("y", "x")) == {"mug"}
    assert shop.found(price_min=3, price_max=4) == {"mug"}
    assert shop.found(categories=("a",), without_categories=("b",), tags=("x",), price_min=0) == {"cup"}
    assert shop.found(categories=("a", "never heard of")) == {"mug", "cup"}
    assert shop.found(tags=("x", "never heard of")) == set()


def test_an_item_without_a_price_costs_neither_little_nor_much(shop: Shop) -> None:
    assert shop.found(price_max=1e9) == shop.found(price_min=-1e9) == {"mug", "cup"}


def test_what_events_call_an_item_counts_where_the_catalogue_is_silent(shop: Shop) -> None:
    shop.items.categorise(shop.items.lookup("stranger"), "a")
    assert shop.found(categories=("a",)) == {"mug", "cup", "stranger"}
    assert shop.found(without_categories=("a",)) == {"lamp"}
    assert shop.catalogue.attributes.categories(shop.items.lookup("stranger")) == ("a",)
    shop.catalogue.take(item("stranger", 1.0, "c"))
    assert shop.found(categories=("a",)) == {"mug", "cup"}
    assert shop.catalogue.attributes.categories(shop.items.lookup("mug")) == ("a", "b")


def test_what_the_catalogue_takes_back_is_not_known_any_more(shop: Shop) -> None:
    shop.catalogue.take(item("mug", None, "", "z"))
    assert shop.found(categories=("a", "b")) == {"cup"}
    assert shop.found(price_min=0) == {"cup"}
    assert shop.found(tags=("z",)) == {"mug"}
    shop.catalogue.withdraw("cup")
    assert shop.found(tags=("x",)) == shop.found(price_min=0) == set()


def test_facts_wait_for_items_that_get_an_index_later(shop: Shop) -> None:
    shop.catalogue.take(item("later", 2.0, "a", "x"))
    assert shop.found(price_max=2.0) == set()
    shop.touched("later")
    assert shop.found(price_max=2.0, categories=("a",), tags=("x",)) == {"later"}


def test_an_index_that_names_another_item_keeps_nothing_of_the_one_before() -> None:
    shop = Shop(capacity=4)
    for at, name in enumerate(["old", "b", "c", "d"]):
        shop.touched(name, ts=1_000 + at)
        shop.catalogue.take(item(name, 1.0, "a", "x"))
    forgotten = shop.items.make_room(1)
    shop.catalogue.forget(forgotten)
    shop.touched("new", ts=2_000)
    assert (shop.items.lookup("old"), shop.items.lookup("new")) == (NOTHING, 0)
    for wanted in ({"categories": ("a",)}, {"tags": ("x",)}, {"price_min": 0}):
        assert shop.found(**wanted) == {"b", "c", "d"}
    assert "new" in shop.found(without_categories=("a",))


def test_a_crowded_out_item_is_as_if_it_were_not_listed() -> None:
    shop = Shop(max_catalogue=2)
    shop.touched("one", "two", "three")
    for name in ("one", "two", "three"):
        shop.catalogue.take(item(name, 1.0, tags="x"))
    assert shop.found(tags=("x",)) == shop.found(price_min=0) == {"two", "three"}


def test_a_restored_recommender_filters_as_the_one_that_was_saved(shop: Shop) -> None:
    shop.items.categorise(shop.items.lookup("stranger"), "a")
    other = Shop()
    for name, price, categories, tags in (("mug", 3.0, "ab", "xy"), ("cup", 5.0, "a", "x"), ("lamp", None, "c", "")):
        other.catalogue.take(item(name, price, categories, tags))
    other.items.restore(shop.items.state())
    other.catalogue.restore(shop.catalogue.state())
    for wanted in ({"categories": ("a",)}, {"tags": ("x",)}, {"price_min": 4}, {"without_categories": ("b",)}):
        assert other.found(**wanted) == shop.found(**wanted) != set()


labels = st.lists(st.sampled_from(LABELS), max_size=4).map(tuple)
prices = st.none() | st.sampled_from([-1.0, 0.0, 1.0, 2.5])
items = st.builds(Item, item_id=st.sampled_from(NAMES), categories=labels, tags=labels, price=prices)
steps = st.lists(items | st.sampled_from(NAMES) | st.tuples(st.sampled_from(NAMES)), max_size=40)
filters = st.builds(
    Filters, categories=labels, without_categories=labels, tags=labels, price_min=prices, price_max=prices
)


@given(steps, st.lists(filters, min_size=1, max_size=4))
def test_the_arrays_agree_with_a_look_at_each_item(steps: list[object], asked: list[Filters]) -> None:
    shop, said = Shop(), dict[str, Item]()
    for step in steps:
        if isinstance(step, Item):
            shop.catalogue.take(step)
            said[step.item_id] = step
        elif isinstance(step, tuple):
            shop.catalogue.withdraw(step[0])
            # What a withdrawn item was last called stays with the models.
            gone = said.pop(step[0], None)
            if gone is not None and gone.categories and shop.items.lookup(step[0]) != NOTHING:
                said[step[0]] = Item(item_id=step[0], categories=gone.categories[:1])
        else:
            shop.touched(str(step))
        for wanted in asked:
            known = {name for name in shop.items.ids if satisfies(said.get(name, Item(item_id=name)), wanted)}
            mask = shop.catalogue.attributes.matching(wanted)
            assert {shop.items.ids[index] for index in np.flatnonzero(mask).tolist()} == known


def satisfies(item: Item, wanted: Filters) -> bool:
    dear = wanted.price_max is not None and (item.price is None or item.price > wanted.price_max)
    cheap = wanted.price_min is not None and (item.price is None or item.price < wanted.price_min)
    return (
        (not wanted.categories or bool(set(wanted.categories) & set(item.categories)))
        and not set(wanted.without_categories) & set(item.categories)
        and set(wanted.tags) <= set(item.tags)
        and not (dear or cheap)
    )


def test_an_answer_is_remembered_until_something_changes(shop: Shop) -> None:
    wanted = Filters(tags=("x",))
    first = shop.catalogue.attributes.matching(wanted)
    assert shop.catalogue.attributes.matching(Filters(tags=("x",))) is first
    assert not first.flags.writeable
    shop.touched("another")
    assert len(shop.catalogue.attributes.matching(wanted)) == len(first) + 1


def test_answers_remembered_are_bounded(shop: Shop) -> None:
    for price in range(1_000):
        shop.catalogue.attributes.matching(Filters(price_min=price))
    assert len(shop.catalogue.attributes._known) <= 64


def test_a_filter_over_a_large_catalogue_takes_about_a_millisecond() -> None:
    rng = np.random.default_rng(0)
    count = 20_000
    shop = Shop(count, count)
    for at in range(count):
        shop.catalogue.take(
            Item(
                item_id=f"i{at}",
                price=float(rng.integers(1, 100)),
                categories=tuple(f"c{code}" for code in rng.integers(0, 50, 3)),
                tags=tuple(f"t{code}" for code in rng.integers(0, 200, 5)),
            )
        )
        shop.touched(f"i{at}")
    spent = []
    for at in range(30):
        wanted = Filters(categories=("c1", f"c{at}"), without_categories=("c3",), tags=("t1",), price_min=at)
        began = thread_time()
        shop.catalogue.attributes.matching(wanted)
        spent.append(thread_time() - began)
    assert np.median(spent) < 0.002
