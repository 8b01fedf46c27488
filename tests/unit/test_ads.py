"""Ads are ranked by what showing them is expected to bring, within their budgets and over the whole day."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.engine.ads import pacing
from streamrec.engine.ads.accounts import DAY_MS, Due
from streamrec.engine.ads.ads import ADS, Ads
from streamrec.engine.ads.click_probability import ClickProbability
from streamrec.engine.ads.pacing import AHEAD, Hours
from streamrec.engine.arrays.batch import NOTHING, Excluded, Float64, Int32, Queries
from streamrec.engine.arrays.compiled import mixed
from streamrec.engine.arrays.feedback import ShownAds, SlateFeedback
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.attribution.attribution import AttributionRules, RewardRule, SeenRule, ServedSlate
from streamrec.engine.attribution.open_slates import OpenSlateLimits, OpenSlates
from streamrec.engine.items import bids as bids_of
from streamrec.engine.items.bids import MILLION
from streamrec.engine.items.catalogue import Catalogue
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.retrieval.ads import AdRetriever
from streamrec.events import Event, EventType, Item, Slate, SlateItem

DAY = 20_000
MIDNIGHT = DAY * DAY_MS
NOON = MIDNIGHT + DAY_MS // 2


def listed(*items: Item, partitions: int = 1, paced: bool = True) -> tuple[Catalogue, Ads]:
    table = ItemTable(64)
    catalogue = Catalogue(table, 64)
    for item in items:
        catalogue.take(item)
        table.intern(item.item_id, NOON)
    return catalogue, Ads(table, catalogue.bids, ClickProbability(), partitions, paced=paced)


def ad(name: str, bid: float = 1.0, budget: float = 10.0) -> Item:
    return Item(item_id=name, bid=bid, budget=budget)


def value(
    ads: Ads, *items: int, ts: int = NOON, partition: int = 0, utilities: Sequence[float] | None = None
) -> Float64:
    said = np.zeros(len(items)) if utilities is None else np.array(utilities)
    return ads.log_value(np.array(items, np.int32), said, ts, partition)


# What the catalogue says


def test_an_item_with_a_bid_is_an_ad_from_the_moment_the_catalogue_says_so_until_it_does_no_more() -> None:
    catalogue, ads = listed(Item(item_id="a"), ad("b"), ad("c", 0.25, 4.0))
    assert ads.known().tolist() == [1, 2]
    assert (catalogue.bids.bid[2], catalogue.bids.budget[2]) == (MILLION // 4, 4 * MILLION)
    catalogue.take(ad("a"))
    catalogue.take(Item(item_id="b"))
    catalogue.withdraw("c")
    assert ads.known().tolist() == [0]


def test_an_index_that_names_another_item_does_not_keep_its_bid() -> None:
    catalogue, ads = listed(ad("a"), ad("b"))
    catalogue.forget(np.array([0], np.int32))
    assert ads.known().tolist() == [1]


def test_of_too_many_ads_those_that_bid_most_compete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bids_of, "MAX_ADS", 2)
    _, ads = listed(ad("a", 2.0), ad("b", 1.0), ad("c", 3.0))
    assert ads.known().tolist() == [0, 2]
    assert value(ads, 1)[0] == -math.inf


# How a budget is dealt out


@given(
    bid=st.integers(1, 10**6),
    clicks=st.integers(1, 500),
    partitions=st.integers(1, 12),
    rest=st.floats(0, 0.999),
    first=st.integers(0, 10**6),
)
def test_partitions_may_together_have_exactly_the_clicks_that_the_budget_buys(
    bid: int, clicks: int, partitions: int, rest: float, first: int
) -> None:
    budget = bid * clicks + int(rest * (bid - 1))
    had = []
    for partition in range(partitions):
        spent = 0
        while True:
            turn = np.array([(first + partition) % partitions])
            click, bought = pacing.allotted(np.array([bid]), np.array([budget]), np.array([spent]), turn, partitions)
            if pacing.resting(np.zeros(1), click, bought)[0]:
                break
            had.append(int(click[0]))
            spent += bid
        assert spent == pacing.limits(np.array([bid]), np.array([budget]), turn, partitions)[0]
    assert sorted(had) == list(range(clicks))
    assert len(had) * bid <= budget


def test_an_ad_rests_when_its_budget_is_spent_and_is_back_the_next_day() -> None:
    _, ads = listed(ad("a", 1.0, 2.0), ad("b"))
    late = MIDNIGHT + DAY_MS - 1
    for _ in range(2):
        assert ads.barred(late, 0).tolist() == []
        ads.charge(0, Due("a", late, MILLION, 10**15))
        ads.learn([])
    assert ads.barred(late, 0).tolist() == [0]
    assert np.isfinite(value(ads, 0, 1, ts=late)).tolist() == [False, True]
    assert ads.barred(late + 1, 0).tolist() == []


def test_what_one_partition_spends_leaves_the_others_theirs() -> None:
    _, ads = listed(ad("a", 1.0, 4.0), partitions=2, paced=False)
    for _ in range(2):
        ads.charge(0, Due("a", NOON, MILLION, 10**15))
    ads.learn([])
    assert [ads.barred(NOON, partition).tolist() for partition in (0, 1)] == [[0], []]
    assert [ads.spent("a", DAY, partition) for partition in (0, 1)] == [2.0, 0.0]


def test_an_ad_that_is_ahead_of_its_plan_bids_less_and_rests_when_it_is_far_ahead() -> None:
    _, ads = listed(ad("a", 1.0, 1_000.0))
    on_plan = value(ads, 0)[0]
    for spent, expected in ((500, on_plan), (510, on_plan - math.log(1.5)), (521, -math.inf)):
        ads.charge(0, Due("a", NOON, spent * MILLION - ads.accounts.spent(0, "a", DAY), 10**15))
        ads.learn([])
        assert value(ads, 0)[0] == pytest.approx(expected)
    assert value(ads, 0, ts=NOON + 3_600_000)[0] > -math.inf


def test_a_charge_counts_from_the_next_learning_cut_on_however_the_log_is_polled() -> None:
    _, ads = listed(ad("a", 1.0, 1.0))
    ads.charge(0, Due("a", NOON, MILLION, 10**15))
    assert ads.barred(NOON, 0).tolist() == []
    ads.learn([])
    assert ads.barred(NOON, 0).tolist() == [0]


def test_a_bid_or_budget_that_changes_counts_at_once() -> None:
    catalogue, ads = listed(ad("a", 1.0, 1.0))
    ads.charge(0, Due("a", NOON, MILLION, 10**15))
    ads.learn([])
    catalogue.take(ad("a", 1.0, 20.0))
    assert ads.barred(NOON, 0).tolist() == []
    before = value(ads, 0)[0]
    catalogue.take(ad("a", 2.0, 20.0))
    assert value(ads, 0)[0] == pytest.approx(before + math.log(2))


# The hours of a day


def test_a_day_is_even_until_something_is_known_of_it() -> None:
    hours = Hours()
    assert [hours.passed(MIDNIGHT + hour * 3_600_000) for hour in (0, 6, 12)] == pytest.approx([0, 0.25, 0.5])
    assert 0.999 < hours.passed(MIDNIGHT - 1) < 1


def test_the_plan_follows_the_hours_at_which_a_site_has_its_visitors_but_only_as_whole_days_show_them() -> None:
    hours = Hours()

    def evening(day: int) -> None:
        for n in range(500):
            hours.note(MIDNIGHT + day * DAY_MS + 20 * 3_600_000 + n * 7_000)

    evening(0)
    evening(1)
    assert hours.passed(NOON) == pytest.approx(0.5)  # the first day may have been joined late, the second is not over
    evening(2)
    assert hours.passed(NOON) < 0.3
    for day in range(3, 9):
        evening(day)
    assert hours.passed(NOON) < 0.1
    assert hours.passed(MIDNIGHT + 21 * 3_600_000) > 0.9
    heir = Hours()
    heir.restore(hours.state())
    for one in (hours, heir):
        one.note(MIDNIGHT + 20 * DAY_MS)
    assert heir.passed(NOON) == hours.passed(NOON)


# Chances and values


def test_untaught_an_ad_has_a_small_chance_that_grows_with_its_utility() -> None:
    _, ads = listed(ad("a"), ad("b"), ad("c"))
    chance = np.exp(value(ads, 0, 1, 2, utilities=[-9.0, -8.0, -7.0]))
    assert (np.diff(chance) > 0).all()
    assert 0.01 < chance.min() < chance.max() < 0.15


def test_what_is_no_ad_has_no_value_nor_has_an_empty_place_nor_an_unknown_utility() -> None:
    _, ads = listed(Item(item_id="a"), ad("b"), ad("c"))
    told = value(ads, 0, 1, NOTHING, 2, utilities=[0.0, 0.0, -math.inf, math.nan])
    assert np.isfinite(told).tolist() == [False, True, False, False]
    assert value(listed()[1], 0, 1).tolist() == [-math.inf] * 2


def test_an_expected_value_is_chance_times_bid() -> None:
    _, ads = listed(ad("a", 0.5), ad("b", 2.0))
    assert np.subtract(*value(ads, 1, 0)) == pytest.approx(math.log(4))


def slate_feedback(
    names: Sequence[str], clicked: Sequence[bool], utilities: Sequence[float], ts: int = NOON
) -> SlateFeedback:
    count = len(names)
    ads = ShownAds(np.full(count, MILLION), np.full(count, MILLION), np.array(utilities), np.array(clicked))
    return SlateFeedback(
        "p", 0, np.zeros((count, 1), np.float32), np.ones(count), np.zeros(count), 9, ts, items=tuple(names), ads=ads
    )


def taught(slates: int, seed: int = 0) -> Ads:
    """Taught by clicks that depend on the ad, on the utility and on the place."""
    rng = np.random.default_rng(seed)
    _, ads = listed(*(ad(name) for name in RATES))
    for _ in range(slates):
        names = rng.permutation(list(RATES))
        utilities = rng.normal(-4, 1, len(names))
        odds = np.array([math.log(RATES[name] / (1 - RATES[name])) for name in names])
        logits = odds + (utilities + 4) - 0.7 * np.log(np.arange(1, len(names) + 1))
        clicked = rng.random(len(names)) < 1 / (1 + np.exp(-logits))
        ads.learn([slate_feedback(names.tolist(), clicked.tolist(), utilities.tolist())])
    return ads


RATES = {"rare": 0.02, "usual": 0.05, "liked": 0.1, "loved": 0.2}


def test_chances_are_learned_as_they_are_at_the_first_place_and_a_usual_utility() -> None:
    chances = np.exp(value(taught(3_000), 0, 1, 2, 3, utilities=[-4.0] * 4))
    assert chances == pytest.approx(list(RATES.values()), rel=0.35)


def test_numbers_that_are_none_teach_nothing() -> None:
    _, ads = listed(ad("a"), ad("b"))
    ads.learn([slate_feedback(["a", "b"], [True, True], [math.nan, math.inf])])
    assert (ads.chance.skipped, ads.chance.version) == (2, 0)
    ads.learn([slate_feedback(["a", "b"], [True, True], [math.nan, 1.0])])
    assert np.isfinite(value(ads, 0, 1)).all()


def test_what_is_restored_is_bit_for_bit_what_was_saved_and_goes_on_the_same_way() -> None:
    left = taught(50)
    _, right = listed(*(ad(name) for name in RATES))
    right.restore(left.state())
    for ads in (left, right):
        ads.learn([slate_feedback(["new", "usual"], [True, False], [-3.0, -5.0])])
    one, other = left.state(), right.state()
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert np.array_equal(value(left, 0, 1, 2, 3), value(right, 0, 1, 2, 3))


def test_weights_of_ads_are_bounded_and_those_shown_least_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.engine.ads.click_probability.MAX_TAUGHT", 8)
    chance = ClickProbability()
    for n in range(40):
        chance.learn(["often", f"once-{n}"], [1, 2], np.zeros(2), [n % 2 == 0, False])
    assert len(chance.state()["ads.ends"]) <= 8
    assert chance.peculiar(["often"])[0] != 0.0


# Candidates


def test_the_retriever_proposes_the_ads_that_bring_most_and_may_be_shown() -> None:
    catalogue, ads = listed(ad("a", 1.0), ad("b", 3.0), Item(item_id="c"), ad("d", 2.0))
    retriever = AdRetriever("ads", ads)
    queries = Queries.empty(2)
    excluded = Excluded.of([np.array([1], np.int32), np.empty(0, np.int32)], np.array([True]))
    assert retriever.candidates(queries, slice(0, 2), 3, Excluded.nothing(2)).tolist() == [[1, 3, 0]] * 2
    assert retriever.candidates(queries, slice(0, 2), 3, excluded).tolist() == [[3, -1, -1], [1, 3, -1]]
    catalogue.take(ad("a", 9.0))
    assert retriever.candidates(queries, slice(0, 1), 1, Excluded.nothing(1)).tolist() == [[0]]


# A planted world: ads of known click rates, and users of one partition or another who ask all day

PLACES, ASKED, CUT = 3, 2_000, 32
PLACE_WORTH = (1.0, 0.6, 0.4)
PARTITIONS = 3


@dataclass(frozen=True)
class Advertised:
    """What advertisers pay and what users do."""

    bids: Float64  # (ads,)
    rates: Float64  # (ads,) chance of a click at the first place

    @classmethod
    def planted(cls, count: int = 24, seed: int = 5) -> Advertised:
        rng = np.random.default_rng(seed)
        return cls(np.exp(rng.normal(0, 0.8, count)).round(3), np.exp(rng.normal(-3, 0.8, count)).clip(0.005, 0.4))


Ranking = Callable[[Ads, Advertised, Float64, int, int], Float64]
"""What to rank ads by: of utilities, time and partition, -inf for those that must not be shown."""


def by_value(ads: Ads, world: Advertised, utilities: Float64, ts: int, partition: int) -> Float64:
    return ads.log_value(np.arange(len(utilities), dtype=np.int32), utilities, ts, partition)


def by_bid(ads: Ads, world: Advertised, utilities: Float64, ts: int, partition: int) -> Float64:
    return np.where(np.isfinite(by_value(ads, world, utilities, ts, partition)), world.bids, -np.inf)


def by_chance(ads: Ads, world: Advertised, utilities: Float64, ts: int, partition: int) -> Float64:
    return by_value(ads, world, utilities, ts, partition) - np.log(world.bids)


@dataclass(frozen=True)
class Day:
    """What came of one."""

    revenue: float
    spent: Float64  # (ads,)
    by_noon: Float64  # (ads,)


def lived(world: Advertised, rank: Ranking, budgets: Float64, seed: int = 1) -> Day:
    """A day of requests, evenly spread, through the slates, charges and lessons of a worker."""
    rng = np.random.default_rng(seed)
    count = len(world.bids)
    names = [f"ad-{n}" for n in range(count)]
    offers = zip(names, world.bids.tolist(), budgets.tolist(), strict=True)
    _, ads = listed(*(ad(name, bid, budget) for name, bid, budget in offers), partitions=PARTITIONS)
    rules = AttributionRules(600_000, SeenRule.ALL, RewardRule.MAX, {EventType.CLICK: 0.2})
    slates = OpenSlates(rules, 0, OpenSlateLimits(ASKED + 1, 8, ASKED + 1), ads.charge)
    by_noon = np.zeros(count)

    def spent() -> Float64:
        return np.array([sum(ads.spent(name, DAY, partition) for partition in range(PARTITIONS)) for name in names])

    for number in range(ASKED):
        ts, user, partition = MIDNIGHT + number * DAY_MS // ASKED, f"u{number}", int(mixed(7, number) % PARTITIONS)
        likes = rng.normal(0, 0.7, count)  # known to the models: what this user makes of each ad
        scores = rank(ads, world, likes - 4.0, ts, partition)
        places = [int(place) for place in np.argsort(-scores, kind="stable")[:PLACES] if scores[place] > -np.inf]
        show(slates, ads, partition, user, number, ts, [names[place] for place in places], places, likes - 4.0)
        for place, chosen in enumerate(places):
            chance = min(world.rates[chosen] * math.exp(likes[chosen]) * PLACE_WORTH[place], 1.0)
            if rng.random() < chance:
                click = Event(type=EventType.CLICK, user_id=user, ts=ts + 1, item_id=names[chosen])
                slates.credit(LoggedEvent(click, partition, number))
        slates.tick(partition, ts, learned=False)
        if number % CUT == CUT - 1:
            ads.learn(
                [
                    came.slate_feedback
                    for came, _ in slates.close(lambda users: [None] * len(users))
                    if came.slate_feedback
                ]
            )
        if number == ASKED // 2:
            by_noon = spent()
    return Day(float(spent().sum()), spent(), by_noon)


def show(
    slates: OpenSlates, ads: Ads, partition: int, user: str, number: int, ts: int,
    shown: list[str], places: list[int], utilities: Float64,
) -> None:  # fmt: skip
    items: Int32 = np.array(places, np.int32)
    slate = Slate(
        rec_id=f"{partition}-{number}", user_id=user, ts=ts, policy="p", version="1", candidates=24, scenario=ADS,
        items=tuple(
            SlateItem(item_id=name, position=at, score=0.0, propensity=1.0, shares={})
            for at, name in enumerate(shown, 1)
        ),
    )  # fmt: skip
    slates.shown(
        partition,
        slate,
        ServedSlate(
            0, 0, np.zeros((len(shown), 1), np.float32), {}, ads.shown(items, utilities[places], ts, partition)
        ),
    )


def test_ranking_by_expected_value_brings_more_than_by_bid_or_by_chance_alone() -> None:
    world = Advertised.planted()
    plenty = world.bids * 1e5
    value, bid, chance = (lived(world, rank, plenty).revenue for rank in (by_value, by_bid, by_chance))
    assert value > 1.15 * bid
    assert value > 1.15 * chance


def test_spending_keeps_within_the_budgets_and_goes_on_all_day() -> None:
    world = Advertised.planted()
    budgets = np.maximum(20 * world.bids, 12.0)
    day = lived(world, by_value, budgets)
    assert (day.spent <= budgets + 1e-9).all()
    pressed = day.spent > 0.9 * budgets
    assert pressed.sum() >= 8
    late = 4 * world.bids[pressed]  # one click is dealt at a time, and what is charged counts from the next cut on
    assert (day.by_noon[pressed] <= (0.5 + AHEAD) * budgets[pressed] + late).all()
    assert 0.4 * budgets[pressed].sum() < day.by_noon[pressed].sum() < 0.6 * budgets[pressed].sum()
