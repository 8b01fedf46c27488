"""Spending is charged once for each slate and ad, and known to the millionth whatever dies and whoever takes over."""

from __future__ import annotations

import math
import random
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.cli.commands.ads import spending
from streamrec.codec import decode
from streamrec.config.settings import Settings
from streamrec.engine.ads import accounts as accounts_of
from streamrec.engine.ads.accounts import DAY_MS, DAYS_KEPT, AdAccounts, Due
from streamrec.engine.ads.ads import ADS
from streamrec.engine.arrays.feedback import ShownAds
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.attribution.attribution import AttributionRules, RewardRule, SeenRule, ServedSlate
from streamrec.engine.attribution.open_slates import OpenSlateLimits, OpenSlates
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.items.bids import MILLION, millionths
from streamrec.engine.partition_tables import DIRECTORY, NOTHING_LEFT
from streamrec.events import Event, EventType, Item, Slate, SlateItem
from streamrec.replay.catalogue_file import CatalogueItems, read_catalogue
from streamrec.state import Checkpoint, Key, Kind
from streamrec.state.memory import MemoryStore
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.testing import records
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_worker
from streamrec.worker.checkpoints import CheckpointPace

DAY = 20_000
NOON = DAY * DAY_MS + DAY_MS // 2
WINDOW_MS = 600_000
RULES = AttributionRules(WINDOW_MS, SeenRule.ALL, RewardRule.MAX, {EventType.PURCHASE: 1.0})


def moved(first: AdAccounts, second: AdAccounts, stored: dict[str, bytes], partition: int = 0) -> None:
    """Hand a partition over the way checkpoints do, by way of a store."""
    stored |= {name: value for (_, name), value in first.take_changes(partition).items()}
    for name in [name for name, value in stored.items() if value == NOTHING_LEFT]:
        del stored[name]
    second.take_over(partition, lambda kind, names: [stored.get(name) for name in names])


def due(ad: str, ts: int, amount: int, limit: int = 10**18) -> Due:
    return Due(ad, ts, amount, limit)


# Accounts


def test_what_is_charged_is_spent_at_once_and_counts_for_ranking_from_the_next_learning_cut_on() -> None:
    accounts = AdAccounts()
    accounts.charge(0, due("a", NOON, 5))
    accounts.charge(0, due("a", NOON + 1, 5))
    accounts.charge(1, due("a", NOON, 7))
    assert (accounts.spent(0, "a", DAY), accounts.settled(0, ["a"], DAY)) == (10, [0])
    accounts.settle()
    assert accounts.settled(0, ["b", "a"], DAY) == [0, 10]
    assert accounts.settled(1, ["a"], DAY) == [7]
    assert accounts.settled(0, ["a"], DAY + 1) == [0]


def test_a_version_changes_when_what_counts_does_and_not_before() -> None:
    accounts = AdAccounts()
    accounts.settle()
    accounts.charge(0, due("a", NOON, 5))
    before = accounts.version(0)
    accounts.charge(0, due("a", NOON, 5))
    assert accounts.version(0) == before
    accounts.settle()
    assert accounts.version(0) != before
    assert accounts.version(1) == 0


def test_old_days_leave_with_a_new_one_and_ads_without_any_day_with_them() -> None:
    accounts, stored = AdAccounts(), dict[str, bytes]()
    accounts.charge(0, due("old", NOON, 5))
    accounts.charge(0, due("both", NOON, 5))
    accounts.charge(0, due("both", NOON + DAY_MS, 6))
    moved(accounts, AdAccounts(), stored)
    accounts.charge(0, due("new", NOON + DAYS_KEPT * DAY_MS, 7))
    heir = AdAccounts()
    moved(accounts, heir, stored)
    assert set(stored) == {"both", "new", DIRECTORY}
    assert [heir.spent(0, "both", DAY + n) for n in (0, 1)] == [0, 6]


def test_what_comes_too_late_for_its_day_counts_for_the_oldest_that_is_kept() -> None:
    accounts = AdAccounts()
    accounts.charge(0, due("a", NOON, 1))
    accounts.charge(0, due("a", NOON - 9 * DAY_MS, 2))
    assert accounts.spent(0, "a", DAY - DAYS_KEPT + 1) == 2


def test_what_a_click_would_cost_beyond_the_limit_is_not_charged() -> None:
    accounts = AdAccounts()
    for _ in range(3):
        accounts.charge(0, due("a", NOON, 4, limit=10))
        accounts.settle()
    accounts.charge(0, due("a", NOON + DAY_MS, 4, limit=10))
    assert [accounts.spent(0, "a", day) for day in (DAY, DAY + 1)] == [10, 4]
    assert accounts.beyond == 2


def test_more_ads_than_there_is_room_for_are_not_charged_but_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts_of, "MAX_ACCOUNTS", 2)
    accounts = AdAccounts()
    for ad in "abca":
        accounts.charge(0, due(ad, NOON, 1))
    assert [accounts.spent(0, ad, DAY) for ad in "abc"] == [2, 1, 0]
    assert accounts.refused == 1


def test_partitions_that_leave_are_forgotten() -> None:
    accounts = AdAccounts()
    for partition in (0, 1):
        accounts.charge(partition, due("a", NOON, 5))
    accounts.settle()
    before = accounts.version(0)
    accounts.drop([0])
    assert (accounts.spent(0, "a", DAY), accounts.spent(1, "a", DAY)) == (0, 5)
    assert accounts.version(0) != before


CHARGES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(1, 10**15), st.booleans()))


@given(CHARGES, st.integers(0, 30))
def test_a_partition_that_is_handed_over_anywhere_ends_up_with_the_same_accounts(
    charges: list[tuple[str, int, int, bool]], handed_over: int
) -> None:
    kept, current, stored = AdAccounts(), AdAccounts(), dict[str, bytes]()
    for number, (ad, day, amount, cut) in enumerate(charges):
        if number == handed_over:
            heir = AdAccounts()
            moved(current, heir, stored)
            current = heir
        for accounts in (kept, current):
            accounts.charge(0, due(ad, NOON + day * DAY_MS, amount))
            if cut:
                accounts.settle()
    for day in range(DAY - 3, DAY + 6):
        assert kept.settled(0, "abc", day) == current.settled(0, "abc", day)
        assert [kept.spent(0, ad, day) for ad in "abc"] == [current.spent(0, ad, day) for ad in "abc"]


# What a click costs


def shown(bids: Sequence[int], rec_id: str = "user-events-0-1", ts: int = NOON) -> tuple[Slate, ServedSlate]:
    places = tuple(
        SlateItem(item_id="abcdef"[at], position=at + 1, score=0.0, propensity=0.5, shares={})
        for at in range(len(bids))
    )
    slate = Slate(rec_id=rec_id, user_id="u", ts=ts, items=places, policy="p", version="1", candidates=9, scenario=ADS)
    ads = ShownAds(np.array(bids), np.array(bids) * 9, np.arange(len(bids)) * 1.0, np.zeros(len(bids), np.bool_))
    return slate, ServedSlate(0, 7, np.zeros((len(bids), 2), np.float32), {}, ads)


class Till(OpenSlates):
    """Open slates, and what was charged."""

    def __init__(self) -> None:
        self.charged: list[tuple[int, Due]] = []
        super().__init__(RULES, 0, OpenSlateLimits(100, 8, 1_000), lambda *charge: self.charged.append(charge))

    def click(self, item: str, kind: EventType = EventType.CLICK, after_ms: int = 5, rec_id: str | None = None) -> bool:
        event = Event(type=kind, user_id="u", ts=NOON + after_ms, item_id=item, rec_id=rec_id)
        return self.credit(LoggedEvent(event, 0, 77))


def test_a_click_on_an_ad_costs_its_bid_as_of_the_slate_once() -> None:
    till = Till()
    till.shown(0, *shown([30, 0, 20]))
    for item in "abca":
        till.click(item)
    assert till.charged == [(0, Due("a", NOON, 30, 270)), (0, Due("c", NOON, 20, 180))]


def test_only_a_click_within_the_window_costs_anything() -> None:
    till = Till()
    till.shown(0, *shown([30]))
    assert till.click("a", EventType.PURCHASE)
    till.click("a", EventType.IMPRESSION)
    till.click("a", after_ms=WINDOW_MS + 1)
    till.click("a", after_ms=-1)
    till.click("a", rec_id="another")
    assert till.charged == []
    till.click("a", after_ms=WINDOW_MS)
    assert len(till.charged) == 1


def test_a_click_is_charged_to_the_slate_that_it_names_or_the_newest_that_showed_the_ad() -> None:
    till = Till()
    till.shown(0, *shown([30], "first"))
    till.shown(0, *shown([40], "second", NOON + 1))
    till.click("a")
    till.click("a", rec_id="first")
    assert [due.bid for _, due in till.charged] == [40, 30]


def test_what_was_charged_is_kept_with_the_slate_so_that_its_new_owner_does_not_charge_again() -> None:
    till, heir = Till(), Till()
    till.shown(0, *shown([30, 40]))
    till.click("a")
    heir.admit([(0, "u")], [till.take_changes(0)["open", "u"]], NOON)
    heir.click("a")
    heir.click("b")
    assert [due.bid for _, due in heir.charged] == [40]


def test_the_lesson_of_a_slate_says_which_ads_were_clicked() -> None:
    till = Till()
    till.shown(0, *shown([30, 0, 20]))
    till.tick(0, NOON, learned=False)
    till.click("c")
    till.tick(0, NOON + 10**7, learned=False)
    [(came, _)] = till.close(lambda users: [None] * len(users))
    assert came.slate_feedback is not None
    assert came.slate_feedback.ads is not None
    assert came.slate_feedback.ads.bids.tolist() == [30, 0, 20]
    assert came.slate_feedback.ads.utilities.tolist() == [0.0, 1.0, 2.0]
    assert came.slate_feedback.ads.clicked.tolist() == [False, False, True]


# Through the whole worker, and over its death

BIDS = {f"i{n}": 0.07 * (n + 1) for n in range(0, 12, 2)}
BUDGET = 2.0
SETTINGS = Settings.model_validate(
    {
        "learning": {"models": ("popularity", "covisit"), "micro_batch": 8},
        "fusion": {"form": "linear"},
        "limits": {"max_items": 64},
        "topics": {"partitions": 2},
        "attribution": {"window_s": 3_600.0, "lateness_s": 0.0, "max_open_per_user": 64},
    }
)


class Killed(Exception):
    pass


def browsing(seed: int) -> list[Event]:
    """Two days of requests for ads and for others, and clicks on whatever; some events come twice."""
    rng, ts, log = random.Random(seed), NOON, list[Event]()
    for number in range(300):
        user, ts = f"u{rng.randrange(4)}", ts + rng.choice([1_000, 30_000, 300_000, 900_000])
        asks = rng.random() < 0.4
        event = Event(
            type=EventType.REQUEST if asks else rng.choice([EventType.CLICK, EventType.CLICK, EventType.VIEW]),
            user_id=user, ts=ts, event_id=f"e{number}", k=6 if asks else None,
            item_id=None if asks else f"i{rng.randrange(12)}",
            scenario=rng.choice([ADS, ADS, "home"]) if asks else None,
        )  # fmt: skip
        log += [event] * rng.choice([1, 1, 1, 2])
    return log


class Worked(NamedTuple):
    """What is left of workers on a log."""

    store: MemoryStore
    slates: dict[str, Slate]
    learned: dict[str, bytes]  # of ads


def worked(log: list[Event], directory: Path, deaths: Sequence[int], poll: int) -> Worked:
    """Run workers over a log, one after the other, each killed at a portion, the last one to its end."""
    store, sink = MemoryStore(), LocalSink()
    catalogue = CatalogueItems(
        Item(item_id=f"i{n}", bid=BIDS.get(f"i{n}"), budget=BUDGET if f"i{n}" in BIDS else None) for n in range(12)
    )
    for death in [*deaths, 10**9]:
        portions = iter(range(10**9))

        def die(batch_result: BatchResult, portions: object = portions, death: int = death) -> None:
            if next(portions) == death:  # type: ignore[call-overload]
                raise Killed

        source = LocalSource("user-events", records("user-events", log))
        snapshots = SnapshotDirectory(directory, 3)
        worker = build_worker(SETTINGS, source, sink, store, snapshots, catalogue=catalogue, observer=die)
        worker._poll_records = poll
        worker._checkpoints._pace = CheckpointPace(0.0, math.inf)  # one after each poll, however fast the machine
        if death == 10**9:
            worker.run()
        else:
            with pytest.raises(Killed):
                worker.run()
            assert store.find(Kind.ACCOUNT, DIRECTORY), "it died before anything was spent"
    slates: dict[str, Slate] = {}
    for record in sink.records("recommendations"):
        slate = decode(record.value or b"", record.headers, Slate)
        assert slates.setdefault(slate.rec_id, slate).items == slate.items, "a slate that is made again is another"
    learned = worker.pipeline.features.ads.state()
    return Worked(store, slates, {name: array.tobytes() for name, array in learned.items()})


def limit_of(partition: int, ad: str, day: int) -> int:
    """What one of two partitions may spend: every other click of those that the budget buys."""
    bid, turn = millionths(BIDS[ad]), (zlib.crc32(ad.encode()) + day + partition) % 2
    return bid * len([click for click in range(millionths(BUDGET) // bid) if click % 2 == turn])


def recounted(log: list[Event], slates: dict[str, Slate]) -> Counter[tuple[int, str, int]]:
    """What must have been spent, by partition, ad and day."""
    spent: Counter[tuple[int, str, int]] = Counter()
    waiting: dict[str, list[Slate]] = {}
    seen, paid = set[str](), set[tuple[str, str]]()
    for record, event in zip(records("user-events", log), log, strict=True):
        assert event.event_id is not None
        if event.event_id in seen:
            continue
        seen.add(event.event_id)
        place = f"user-events-{record.partition}-{record.offset}"
        if place in slates:
            waiting.setdefault(event.user_id, []).append(slates[place])
        if event.type is not EventType.CLICK or event.item_id is None:
            continue
        for slate in reversed(waiting.get(event.user_id, [])):
            if event.ts - slate.ts <= 3_600_000 and event.item_id in [item.item_id for item in slate.items]:
                if slate.scenario == ADS and event.item_id in BIDS and (slate.rec_id, event.item_id) not in paid:
                    paid.add((slate.rec_id, event.item_id))
                    account = record.partition, event.item_id, slate.ts // DAY_MS
                    spent[account] = min(spent[account] + millionths(BIDS[event.item_id]), limit_of(*account))
                break
    return spent


def accounted(store: MemoryStore) -> Counter[tuple[int, str, int]]:
    """What the store says was spent."""
    found: Counter[tuple[int, str, int]] = Counter()
    for ad in BIDS:
        for partition, value in store.find(Kind.ACCOUNT, ad).items():
            for day in accounts_of.unpacked(value):
                found[partition, ad, day] = accounts_of.total(accounts_of.unpacked(value), day)
    return found


def test_spending_equals_a_recount_of_the_log_however_often_the_worker_dies(tmp_path: Path) -> None:
    log = browsing(3)
    undisturbed = worked(log, tmp_path / "undisturbed", (), poll=64)
    killed = worked(log, tmp_path / "killed", (120, 60, 25), poll=11)
    expected = recounted(log, undisturbed.slates)
    assert len(expected) > 5
    assert sum(expected.values()) > 3 * MILLION
    assert any(spent == limit_of(*account) for account, spent in expected.items()), "no limit was reached"
    assert any(spent < limit_of(*account) for account, spent in expected.items()), "no limit was left"
    newest = max(day for _, _, day in expected)
    kept = Counter({account: spent for account, spent in expected.items() if account[2] > newest - DAYS_KEPT})
    assert accounted(undisturbed.store) == accounted(killed.store) == kept
    assert killed.slates == undisturbed.slates
    assert killed.learned == undisturbed.learned


# What people are shown of it


def test_spending_is_summed_over_partitions_and_ads_that_nobody_clicked_are_there(tmp_path: Path) -> None:
    store, accounts = MemoryStore(), AdAccounts()
    assert spending(store, CatalogueItems()) is None
    for partition, ad, ts, amount in (
        (0, "a", NOON - DAY_MS, 9),
        (0, "a", NOON, 2),
        (3, "a", NOON, 1),
        (3, "b", NOON, 8),
    ):
        accounts.charge(partition, due(ad, ts, amount * MILLION))
    for partition in (0, 3):
        mark = store.open(partition)
        changes = accounts.take_changes(partition)
        writes = {Key(partition, Kind(kind), name): value for (kind, name), value in changes.items()}
        store.commit(Checkpoint(partition, mark.epoch, 5, None, writes))
    file = tmp_path / "items.csv"
    file.write_text("item_id,bid,budget\na,1,50\nc,0.5,5\nd,,\n")
    known = spending(store, read_catalogue(file))
    assert known is not None
    assert known["day"] == "2024-10-04"
    assert [(row["item_id"], row["budget"], row["spent"], row["by_partition"]) for row in known["ads"]] == [
        ("b", None, 8.0, {"3": 8.0}),
        ("a", 50.0, 3.0, {"0": 2.0, "3": 1.0}),
        ("c", 5.0, 0.0, {}),
    ]
