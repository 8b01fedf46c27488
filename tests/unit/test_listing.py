"""What the catalogue says reaches slates: new items at once, withdrawn ones never, each at its time."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import pytest

from streamrec.config.groups import FusionSettings, Learning, Limits, Serving
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import NOTHING
from streamrec.engine.items.catalogue import Catalogue
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.pipeline import Pipeline
from streamrec.events import Event, EventType, Item, Slate
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.wiring import answers, build_pipeline

BEGAN = 1_700_000_000_000
MINUTE_MS = 60_000
ITEMS = 60
SETTINGS = Settings.model_validate({"preset": "fast"}).model_copy(
    update={"limits": Limits(max_items=512, max_users=500), "serving": Serving(k=10)}
)
WITH_CONTENT = Learning(models=("popularity", "covisit_recent", "content"))
FAST = Learning(models=("popularity", "covisit_recent", "repeats"))


def untaught(catalogue: Iterable[Item] = (), *, eager: bool = True, **changes: object) -> Pipeline:
    changed = {"learning": FAST, "fusion": FusionSettings(form="linear"), **changes}
    settings = SETTINGS.model_copy(update=changed)
    return build_pipeline(settings, CatalogueItems(catalogue), eager=eager)


class Shop:
    """A recommender and the time in its shop; people keep to the items of the log."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.catalogue = pipeline.features.catalogue
        self.now_ms, self._offset = BEGAN, 0
        self._rng = np.random.default_rng(3)

    def handle(self, *events: Event) -> list[Slate]:
        self._offset += len(events)
        return answers(self.pipeline, events, first=self._offset - len(events))

    def visits(self, count: int) -> None:
        for _ in range(count):
            self.now_ms += 1_000
            user, item = f"u{self._rng.integers(30)}", f"i{self._rng.integers(ITEMS)}"
            self.handle(Event(type=EventType.VIEW, user_id=user, item_id=item, ts=self.now_ms))

    def slate(self, user: str = "u1", **more: object) -> list[str]:
        self.now_ms += 1_000
        (slate,) = self.handle(Event(type=EventType.REQUEST, user_id=user, ts=self.now_ms, **more))
        return [place.item_id for place in slate.items]

    def candidates(self) -> set[str]:
        """What was found for the newest query."""
        batch, ids = self.pipeline.batch, self.pipeline.features.items.ids
        return {ids[item] for item in batch.candidates.items[batch.asked - 1].tolist() if item != NOTHING}


@pytest.fixture
def shop() -> Shop:
    """One in which people have been for a while."""
    shop = Shop(untaught())
    shop.visits(400)
    return shop


def item(name: str, **more: object) -> Item:
    return Item(item_id=name, **more)


def test_a_new_item_is_a_candidate_of_the_next_request_and_soon_on_a_slate(shop: Shop) -> None:
    assert "new" not in set(shop.slate()) | shop.candidates()
    shop.catalogue.take(item("new"))
    first = shop.slate()
    assert "new" in shop.candidates()
    waited = next((n for n in range(400) if "new" in shop.slate(user=f"u{n % 30}")), None)
    print(f"first on a slate after {waited} requests")
    assert len(first) == 10
    assert waited is not None


def test_an_item_that_had_its_chances_is_not_proposed_for_being_new(shop: Shop) -> None:
    shop.catalogue.take(item("new", boost=10.0))
    shown = sum("new" in shop.slate(user=f"u{n % 30}") for n in range(300))
    assert 80 < shown < 180  # a hundred, and those of the micro-batch at the end of which it counts
    assert "new" not in shop.slate()
    assert "new" not in shop.candidates()


def test_a_withdrawn_item_is_gone_from_the_next_slate(shop: Shop) -> None:
    before = [shop.slate(f"u{n}") for n in range(5)]
    favourite = max({name for slate in before for name in slate}, key=lambda name: sum(name in s for s in before))
    shop.catalogue.withdraw(favourite)
    for n in range(60):
        slate = shop.slate(f"u{n % 30}")
        assert favourite not in slate
        assert favourite not in shop.candidates()
        assert len(slate) == 10
    shop.visits(60)  # of which some are of the withdrawn item: that teaches, and brings it back no more
    assert favourite not in shop.slate()
    shop.catalogue.take(item(favourite))
    assert any(favourite in shop.slate(f"u{n % 30}") for n in range(20))


def test_lists_are_filled_up_whatever_was_withdrawn(shop: Shop) -> None:
    for n in range(ITEMS - 12):
        shop.catalogue.withdraw(f"i{n}")
    slate = shop.slate("nobody before")
    assert len(slate) == 10
    assert set(slate) <= {f"i{n}" for n in range(ITEMS - 12, ITEMS)}


def test_an_item_is_shown_from_its_time_to_its_time_by_the_clock_of_the_log(shop: Shop) -> None:
    opens, closes = shop.now_ms + 10 * MINUTE_MS, shop.now_ms + 20 * MINUTE_MS
    shop.catalogue.take(item("i1", available_from=opens, available_until=closes, boost=10.0))
    seen: dict[str, set[bool]] = {"before": set(), "while": set(), "after": set()}
    while shop.now_ms < closes + 5 * MINUTE_MS:
        slate = shop.slate(f"u{shop.now_ms % 30}")
        when = "before" if shop.now_ms < opens else "while" if shop.now_ms < closes else "after"
        seen[when].add("i1" in slate)
        shop.now_ms += 20_000
    assert seen["before"] == seen["after"] == {False}
    assert True in seen["while"]


def test_each_request_of_a_portion_is_held_to_its_own_time(shop: Shop) -> None:
    turn = shop.now_ms + 5_000
    shop.catalogue.take(item("i1", available_until=turn, boost=10.0))
    asked = [Event(type=EventType.REQUEST, user_id=f"u{n}", ts=turn - 4_000 + 1_000 * (n % 8), k=20) for n in range(24)]
    slates = shop.handle(*asked)
    shown = ["i1" in {place.item_id for place in slate.items} for slate in slates]
    assert not any(there for there, slate in zip(shown, slates, strict=True) if slate.ts >= turn)
    assert sum(shown) >= 4


def test_a_boost_raises_the_score_by_its_logarithm(shop: Shop) -> None:
    def score() -> float:
        shop.now_ms += 1_000
        (slate,) = shop.handle(Event(type=EventType.REQUEST, user_id="u1", ts=shop.now_ms - 1_000, k=60))
        return next(place.score for place in slate.items if place.item_id == "i1")

    plain = score()
    shop.catalogue.take(item("i1", boost=2.0))
    assert score() - plain == pytest.approx(np.log(2), abs=0.02)
    shop.catalogue.take(item("i1", boost=0.5))
    assert score() - plain == pytest.approx(-np.log(2), abs=0.02)


def test_where_only_what_is_listed_may_be_shown_the_rest_is_not() -> None:
    shop = Shop(untaught([item(f"i{n}") for n in range(20)], serving=Serving(k=10, listed_only=True)))
    shop.visits(200)
    for n in range(20):
        assert set(shop.slate(f"u{n}")) <= {f"i{n}" for n in range(20)}


def test_an_item_is_not_known_before_it_was_added() -> None:
    added = BEGAN + 10 * MINUTE_MS
    for eager in (True, False):
        shop = Shop(untaught([item("new", added=added)], eager=eager))
        while shop.now_ms < added + 5 * MINUTE_MS:
            shop.visits(8)
            shop.slate()
            known = shop.pipeline.features.items.lookup("new") != NOTHING
            assert not known or shop.now_ms >= added
            assert known or shop.now_ms < added + MINUTE_MS


def test_a_file_without_times_says_nothing_of_what_will_be() -> None:
    shop = Shop(untaught([item(f"i{n}", categories=("mugs",)) for n in range(ITEMS)], eager=False))
    shop.visits(3)
    table = shop.pipeline.features.items
    assert table.known <= 3
    assert {table.category_names()[table.category[index]] for index in range(len(table))} == {"mugs"}


def test_more_than_there_is_room_for_come_newest_first() -> None:
    many = [item(f"n{n}", added=BEGAN - n) for n in range(1_000)]
    shop = Shop(untaught(many))
    shop.visits(100)
    known = {name for name in shop.pipeline.features.items.ids if name.startswith("n")}
    assert len(known) > 300
    assert known >= {f"n{n}" for n in range(300)}
    assert shop.pipeline.features.items.room >= SETTINGS.learning.micro_batch
    shop.catalogue.take(item("latest", added=shop.now_ms))
    shop.visits(40)
    assert shop.pipeline.features.items.lookup("latest") != NOTHING


def test_a_catalogue_beyond_its_limit_forgets_what_was_longest_unchanged() -> None:
    table = ItemTable(64)
    catalogue = Catalogue(table, 10)
    index = table.intern("n0", BEGAN)
    for n in range(12):
        catalogue.take(item(f"n{n}", boost=2.0, categories=(f"c{n}",)))
    assert (len(catalogue), catalogue.dropped) == (10, 2)
    assert catalogue.boost[index] == 0.0
    assert [catalogue.category(name) for name in ("n0", "n1", "n2", "n11")] == [None, None, "c2", "c11"]


def test_after_a_restart_the_catalogue_is_told_again_and_what_it_would_not_say_is_kept(shop: Shop) -> None:
    gone, back = shop.slate("nobody before")[:2]
    shop.catalogue.take(item("new"))
    shop.catalogue.withdraw(gone)
    shop.catalogue.withdraw(back)
    shop.slate()
    state = shop.pipeline.state()
    again = Shop(untaught([item("new", boost=10.0), item(back)]))  # their tombstones are gone by now
    again.now_ms = shop.now_ms
    again.pipeline.restore(state)
    slates = [again.slate(f"u{n}", k=60) for n in range(30)]
    assert not any(gone in slate for slate in slates)
    assert any(back in slate for slate in slates)
    assert any("new" in slate for slate in slates)


def test_with_the_same_catalogue_a_restored_one_goes_on_as_if_nothing_had_happened() -> None:
    def listed() -> Shop:
        items = [item(f"i{n}", tags=(f"t{n % 9}",)) for n in range(ITEMS)]
        later = [item(f"n{n}", tags=("t1",), added=BEGAN + 15_000 * n) for n in range(40)]
        return Shop(untaught([*items, *later, item("i3", available_until=BEGAN + 300_000)], learning=WITH_CONTENT))

    first, second = listed(), listed()
    for shop in (first, second):
        shop.catalogue.withdraw("i5")
    first.visits(201)
    first.slate()
    second.pipeline.restore(first.pipeline.state())
    second.now_ms, second._offset, second._rng = first.now_ms, first._offset, copy.deepcopy(first._rng)
    names = [name for _, name in first.pipeline.features.users._entries]
    stored = first.pipeline.features.users.take_changes(0)
    second.pipeline.features.users.admit([(0, name) for name in names], [stored["user", n] for n in names], BEGAN)
    for _ in range(60):
        for shop in (first, second):
            shop.visits(5)
        assert first.slate() == second.slate()
    assert {name for name in first.pipeline.features.items.ids if name.startswith("n")}


@pytest.mark.parametrize(("liked", "other"), [("garden", "kitchen"), ("kitchen", "garden")])
def test_a_new_item_described_like_what_somebody_likes_ranks_above_one_described_otherwise(
    liked: str, other: str
) -> None:
    described = [item(f"i{n}", tags=(("garden", "kitchen")[n % 2],), text=f"number {n}") for n in range(ITEMS)]
    shop = Shop(untaught(described, learning=WITH_CONTENT))
    rng = np.random.default_rng(7)

    def visits(count: int) -> None:
        for n in range(count):  # everybody keeps to one kind
            shop.now_ms += 1_000
            name = f"i{2 * rng.integers(ITEMS // 2) + n % 2}"
            shop.handle(Event(type=EventType.VIEW, user_id=f"u{n % 30}", item_id=name, ts=shop.now_ms))

    visits(600)
    shop.catalogue.take(item("wanted", tags=(liked,), text="just in"))
    shop.catalogue.take(item("unwanted", tags=(other,), text="just in"))
    visits(64)  # over a learning cut, from which on it is known what they are about
    batch, lookup = shop.pipeline.batch, shop.pipeline.features.items.lookup
    for n in range(6):
        shop.slate(f"u{2 * n + (liked == 'kitchen')}")
        at = batch.asked - 1
        offered = batch.candidates.items[at].tolist()
        wanted, unwanted = (offered.index(lookup(name)) for name in ("wanted", "unwanted"))
        assert batch.candidates.utility[at, wanted] > batch.candidates.utility[at, unwanted]


def test_a_snapshot_of_before_there_were_catalogues_can_be_used(shop: Shop) -> None:
    state = shop.pipeline.state()
    del state["listing"]
    again = Shop(untaught([item("new", boost=10.0)]))
    again.now_ms = shop.now_ms
    again.pipeline.restore(state)
    assert any("new" in again.slate(f"u{n}") for n in range(30))


def test_without_a_catalogue_nothing_is_barred_and_the_same_array_says_so(shop: Shop) -> None:
    ts = np.array([BEGAN, BEGAN + 10**9, BEGAN], np.int64)
    ((rows, barred),) = shop.catalogue.spans(ts, slice(0, 3))
    assert (rows, len(barred)) == (slice(0, 3), 0)
