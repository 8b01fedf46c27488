"""What is promised of slates holds in every scenario: bounds, propensities, outcomes, reasons."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest
from rich.console import Console

from streamrec.cli.shared.explanation import Explanation, as_plain, print_words
from streamrec.cli.shared.hindsight import reasons_now
from streamrec.codec import decode
from streamrec.config.scenarios import BUILT_IN
from streamrec.config.settings import Settings
from streamrec.engine.arrays.labels import IMITATED
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.pipeline import Pipeline
from streamrec.engine.users.fatigue import Fatigue
from streamrec.engine.users.purchases import LIMIT, Purchases
from streamrec.errors import BadEvent
from streamrec.evaluation.ope.outcomes import LOGGED, OutcomeFilter, OutcomeLog
from streamrec.events import Event, EventType, Filters, Item, Outcome, Slate
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.state import Key, Kind
from streamrec.state.memory import MemoryStore
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.testing import records
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import answers, build_pipeline, build_validation_limits, build_worker
from streamrec.worker.metrics import Metrics
from streamrec.worker.validation import event_of

BEGAN = 1_700_000_000_000
SHELVES = ("art", "bags", "cups", "dice", "elks")
ITEMS = [
    Item(
        item_id=f"{SHELVES[n % 5]}-{n}",
        title=f"{SHELVES[n % 5]} number {n}",
        categories=(SHELVES[n % 5],),
        price=float(1 + n),
        added=BEGAN,
        bid=0.1 + n if n % 10 == 0 else None,
        budget=1e4 if n % 10 == 0 else None,
    )
    for n in range(150)
]
BY_ID = {item.item_id: item for item in ITEMS}
NAMED = {"item_id": "art-0", "basket": ("bags-1", "cups-2"), "query": "dice number"}
RULED = {
    "home": {
        "leave_out": {"bought_within_s": 86_400, "shown_at_most": 3},
        "boosts": {"cups": 2.0},
        "slates": {"diversity": 0.5, "most_per_category": 3, "fresh_share": 0.2, "fresh_s": 86_400},
    }
}


def chosen(scenarios: Mapping[str, Any] | None = None, **groups: Any) -> Settings:
    return Settings.model_validate(
        {
            "limits": {"max_items": 1_000, "max_users": 1_000},
            "learning": {"models": ("popularity", "covisit_recent", "transitions"), "device": "cpu"},
            "fusion": {"form": "linear"},
            "attribution": {"window_s": 120, "lateness_s": 5},
            "checkpoints": {"interval_s": 1e9},
            "scenarios": scenarios or {},
            **groups,
        }
    )


def log_of(visits: int = 60) -> list[Event]:
    """Visits that go from an item to the next three, each with an event_id."""
    rng = np.random.default_rng(3)
    log, ts = [], BEGAN
    for visit in range(visits):
        first = int(rng.zipf(1.4)) % 150
        for n in range(first, first + 4):
            ts += 1_500
            item = ITEMS[n % 150].item_id
            kind = EventType.PURCHASE if n % 7 == 0 else EventType.CLICK
            log.append(Event(type=kind, user_id=f"u{visit % 20}", item_id=item, ts=ts, event_id=f"e{len(log)}"))
    return log


LOG = log_of()
NOW = LOG[-1].ts + 60_000


def asking(scenario: str, at: int, user: str, **more: Any) -> Event:
    named = {**NAMED, **more}
    return Event(type=EventType.REQUEST, user_id=user, ts=at, event_id=f"r{user}-{at}", scenario=scenario, **named)


def handle(pipeline: Pipeline, events: Sequence[Event], first: int = 0) -> list[Slate]:
    return answers(pipeline, events, first=first)


def taught(scenarios: Mapping[str, Any] | None = None, **groups: Any) -> Pipeline:
    pipeline = build_pipeline(chosen(scenarios, **groups), CatalogueItems(ITEMS))
    handle(pipeline, LOG)
    return pipeline


def ids(slate: Slate) -> list[str]:
    return [place.item_id for place in slate.items]


# Bounds


def test_what_is_kept_of_a_user_for_rules_is_bounded_in_memory_and_in_the_store() -> None:
    bought, shown = Purchases(), Fatigue()
    names = [f"a-usual-item-id-{n:06d}" for n in range(2_000)]
    for n in range(LIMIT + 100):
        bought.add(3, n, BEGAN + n)
        shown.add(3, range(5 * n, 5 * n + 20), BEGAN + n)
    assert bought.since(3, 0).tolist() == list(range(100, LIMIT + 100))
    assert len(shown.above(3, 0.5, BEGAN)) == LIMIT
    held = [array.nbytes for kept in (bought, shown) for array in kept._of[3]]
    assert sum(held) <= 32 * LIMIT
    stored = msgpack.packb({**bought.pack(3, names), **shown.pack(3, names)})
    assert len(stored) < 24_000


def test_what_is_kept_for_rules_comes_back_from_the_store_as_it_was_and_forgets_items_alike() -> None:
    rng = np.random.default_rng(4)
    names = [str(n) for n in range(500)]
    indices = {name: n for n, name in enumerate(names)}
    first: tuple[Any, Any] = (Purchases(), Fatigue())
    second: tuple[Any, Any] = (Purchases(), Fatigue())
    for step in range(200):
        item, ts, slate = int(rng.integers(500)), BEGAN + step * 40_000_000, rng.choice(500, 20, replace=False).tolist()
        for bought, shown in (first, second):
            bought.add(7, item, ts)
            shown.add(7, slate, ts)
            shown.touch(7, item)
            if step % 50 == 49:
                gone = np.arange(step, step + 9, dtype=np.int32)
                bought.forget_items(gone)
                shown.forget_items(gone)
        if step % 20 == 0:
            for at, one in enumerate(second):
                value = msgpack.unpackb(msgpack.packb(one.pack(7, names)))
                one.clear(np.array([7], np.int32))
                assert one.pack(7, names) == {}
                one.unpack(7, value, indices)
                assert one.pack(7, names) == first[at].pack(7, names)
    assert first[0].pack(7, names) == second[0].pack(7, names)
    assert first[1].pack(7, names) == second[1].pack(7, names)
    assert first[1].above(7, 1, ts).tolist() == second[1].above(7, 1, ts).tolist()


def test_rulings_of_one_portion_are_held_and_no_more() -> None:
    pipeline = taught(RULED)
    requests = [asking("home", NOW + n, f"v{n}") for n in range(200)]
    handle(pipeline, requests, 1_000)
    assert len(pipeline.rules_by_query) <= pipeline.batching.micro_batch
    bounds = [request_rules.constraints for request_rules in pipeline.rules_by_query.values()]
    assert all(bound is not None and bound.similar.nbytes <= 4 * 100 * 100 for bound in bounds)


@pytest.mark.parametrize("name", [*BUILT_IN])
def test_a_hundred_items_may_be_asked_for_in_every_scenario(name: str) -> None:
    pipeline = taught(fusion={"form": "linear", "explore": 0.1})
    [slate] = handle(pipeline, [asking(name, NOW, "v", k=100, explain=True)], 1_000)
    assert 10 <= len(slate.items) <= slate.candidates <= 100
    assert len(set(ids(slate))) == len(slate.items) == len(slate.reasons)
    assert all(0 < place.propensity <= 1 for place in slate.items)
    assert slate.items[-1].propensity == pytest.approx(1.0) or slate.candidates > len(slate.items)


# What others would have made of it


def test_values_by_propensity_are_unbiased_under_filters_and_constraints() -> None:
    """The mean of p(slate) / q(slate) over slates of q is 1, and weighted rewards are those of p."""
    rules = {"home": {"boosts": {"cups": 2.0}, "slates": {"diversity": 1.0, "most_per_category": 2}}}
    other = "exp3"
    rollout, fusion = {"evaluate": (other,)}, {"form": "linear", "explore": 0.3, "policy": "uniform"}
    pipeline = taught(rules, rollout=rollout, fusion=fusion)
    filters = Filters(categories=("cups", "dice"), price_max=40.0)
    requests = [asking("home", NOW, f"v{n % 500}", k=2, filters=filters, item_id=None) for n in range(1_500)]
    slates = handle(pipeline, requests, 1_000)
    passing = {item.item_id for item in ITEMS if item.categories[0] in ("cups", "dice") and item.price <= 40.0}
    assert all(set(ids(slate)) <= passing for slate in slates)
    proposals = [[one.item_id for one in slate.alternatives[other].proposals] for slate in slates]
    assert all(set(one) <= passing and len(set(one)) == 2 for one in proposals)
    chances = np.array([[place.propensity for place in slate.items] for slate in slates])
    others = np.array([slate.alternatives[other].propensities for slate in slates])
    weights = (others / chances).prod(1)
    assert weights.mean() == pytest.approx(1.0, abs=5 * weights.std() / np.sqrt(len(weights)))
    top = max(passing, key=lambda item_id: sum(one[0] == item_id for one in proposals))
    told = np.mean(weights * [ids(slate)[0] == top for slate in slates])
    assert told == pytest.approx(np.mean([one[0] == top for one in proposals]), abs=0.06)
    assert weights.std() > 0.05  # the two policies differ


@pytest.mark.parametrize("name", [*BUILT_IN])
def test_popularity_alone_answers_every_scenario_as_a_baseline(name: str) -> None:
    pipeline = taught(rollout={"mode": "shadow", "baseline": "model:popularity"})
    [slate] = handle(pipeline, [asking(name, NOW, "v")], 1_000)
    assert slate.policy == "model:popularity"
    assert slate.scenario == name
    assert len(slate.items) > 5
    assert {place.propensity for place in slate.items} == {1.0}
    other = slate.alternatives["plackett-luce"]
    assert all(0 < chance <= 1 for chance in other.propensities)
    assert len(other.proposals) == len(slate.items)


def test_two_policies_take_turns_under_the_same_constraints_and_filters() -> None:
    rules = {"home": {"slates": {"most_per_category": 2}}}
    pipeline = taught(rules, rollout={"interleave": ("greedy", "model:popularity")})
    filters = Filters(categories=("cups", "dice", "elks"))
    slates = handle(pipeline, [asking("home", NOW, f"v{n}", k=6, filters=filters) for n in range(20)], 1_000)
    for slate in slates:
        kinds = [BY_ID[name].categories[0] for name in ids(slate)]
        assert {kind: kinds.count(kind) for kind in kinds} == {"cups": 2, "dice": 2, "elks": 2}
        assert {place.team for place in slate.items} == {"greedy", "model:popularity"}
        assert all(0 < place.propensity <= 1 for place in slate.items)


APPRENTICE = {"mode": "apprentice", "baseline": "model:popularity", "imitate": "model:popularity"}


def test_an_apprentice_is_taught_what_its_master_shows_first_whatever_a_slate_must_be_made_of() -> None:
    rules = {"home": {"slates": {"fresh_share": 1.0, "fresh_s": 30}}}
    pipeline = taught(rules, rollout=APPRENTICE)
    for name in ("elks", "cups"):
        pipeline.features.catalogue.take(Item(item_id=f"{name}-new", categories=(name,), added=NOW - 1_000))
    views = [Event(type=EventType.VIEW, user_id="w", item_id="art-0", ts=NOW - 50 + n) for n in range(40)]
    handle(pipeline, views, 1_000)  # beyond a learning cut, from which on what is new is known
    filters = Filters(categories=("elks", "cups", "dice"))
    slates = handle(pipeline, [asking("home", NOW + n, f"v{n}", filters=filters) for n in range(10)], 1_100)
    examples, names = pipeline.batch.examples, pipeline.features.items.ids
    rows = np.flatnonzero(examples.label[: pipeline.batch.learned] == IMITATED)
    assert [names[item] for item in examples.item[rows]] == [slate.items[0].item_id for slate in slates]
    assert {slate.items[0].item_id for slate in slates} <= {"elks-new", "cups-new"}


def test_an_apprentice_does_not_take_for_a_taste_what_a_rule_has_raised() -> None:
    pipeline = taught({"home": {"boosts": {"elks": 100.0}}}, rollout=APPRENTICE)
    before = pipeline.fusion.mean.copy()
    filters = Filters(categories=("elks", "cups"), price_min=3.0, price_max=5.0)
    requests = [asking("home", NOW + n, f"v{n}", filters=filters, item_id=None, basket=None) for n in range(64)]
    slates = handle(pipeline, requests, 1_000)
    assert {tuple(ids(slate)) for slate in slates} == {("elks-4", "cups-2")}
    assert pipeline.fusion.version > 0
    assert np.abs(pipeline.fusion.mean - before).max() < 0.1


# An empty slate


def through_a_worker(
    log: Sequence[Event], store: MemoryStore, snapshots: SnapshotDirectory | None, settings: Settings
) -> Any:
    sink, source = LocalSink(), LocalSource("user-events", records("user-events", log))
    worker = build_worker(settings, source, sink, store, snapshots, catalogue=CatalogueItems(ITEMS))
    worker.run()
    return worker, sink


def test_an_empty_slate_is_published_counted_and_waits_for_nothing() -> None:
    none = Filters(categories=("nothing",))
    log = [
        *LOG,
        asking("home", NOW, "v", filters=none, explain=True),
        asking("search", NOW + 1, "w", query="submarine"),
        asking("home", NOW + 2, "x"),
        Event(type=EventType.CLICK, user_id="v", item_id="art-0", ts=NOW + 500, rec_id=f"user-events-0-{len(LOG)}"),
        *(Event(type=EventType.VIEW, user_id="late", item_id="art-5", ts=NOW + 400_000 + n) for n in range(64)),
    ]
    worker, sink = through_a_worker(log, MemoryStore(), None, chosen())
    slates = [decode(record.value or b"", record.headers, Slate) for record in sink.records("recommendations")]
    assert [(slate.scenario, len(slate.items) > 0) for slate in slates] == [
        ("home", False), ("search", False), ("home", True),
    ]  # fmt: skip
    assert slates[0].reasons == ()
    outcomes = [decode(record.value or b"", record.headers, Outcome) for record in sink.records("outcomes")]
    assert {outcome.rec_id for outcome in outcomes} == {slates[2].rec_id}
    value = worker.metrics.registry.get_sample_value
    assert value("streamrec_slates_total", {"scenario": "home"}) == 2
    assert value("streamrec_empty_slates_total", {"scenario": "home"}) == 1
    assert value("streamrec_empty_slates_total", {"scenario": "search"}) == 1
    assert value("streamrec_open_slates") == 0
    explanation = Explanation(slates[0], log[len(LOG)], None, CatalogueItems(), 0.25, derived=False)
    assert as_plain(explanation)["items"] == []
    console = Console(record=True, file=io.StringIO())
    print_words(console, explanation)
    assert "chose 0 of 0 candidates" in console.export_text()


def test_slates_are_counted_under_names_that_are_configured_alone() -> None:
    metrics = Metrics(["fused"], ["home"])
    slate = Slate(rec_id="r", user_id="u", ts=1, items=(), policy="greedy", version="0", candidates=0)
    for name in ("home", "cart", "x" * 64):
        metrics.answered(msgspec.structs.replace(slate, scenario=name))
    [counted] = metrics.empty.collect()
    values = {tuple(one.labels.values()): one.value for one in counted.samples if one.name.endswith("_total")}
    assert values == {("home",): 1.0, ("other",): 2.0}


def test_a_request_that_names_no_scenario_is_held_to_what_home_needs() -> None:
    validation_limits = build_validation_limits(chosen({"home": {"needs": "item"}}))
    bare = Event(type=EventType.REQUEST, user_id="v", ts=NOW)
    [refused, taken, searched] = records(
        "user-events",
        [
            bare,
            msgspec.structs.replace(bare, item_id="art-0"),
            Event(type=EventType.SEARCH, user_id="v", ts=NOW, query="cups"),
        ],
    )
    with pytest.raises(BadEvent, match="a request of scenario 'home' needs it"):
        event_of(refused, validation_limits)
    assert event_of(taken, validation_limits).item_id == "art-0"
    assert event_of(searched, validation_limits).query == "cups"


# Looking back


def test_reasons_of_a_scenario_s_slate_can_be_found_later_with_the_rules_as_they_were(tmp_path: Path) -> None:
    settings = chosen(RULED, checkpoints={"interval_s": 1e9}, snapshots={"url": str(tmp_path)})
    store, snapshots = MemoryStore(), SnapshotDirectory(tmp_path, 3)
    requests = [asking("home", NOW + 10 * n, "v", k=5, item_id=None) for n in range(4)]
    similar = asking("similar", NOW + 100, "v", k=5, filters=Filters(price_max=30.0))
    later = Event(type=EventType.PURCHASE, user_id="v", item_id="elks-4", ts=NOW + 200)
    log = [*LOG, *requests, similar, later]
    _, sink = through_a_worker(log, store, snapshots, settings)
    slates = [decode(record.value or b"", record.headers, Slate) for record in sink.records("recommendations")]
    [stored] = store.load([Key(0, Kind.USER, "v")])
    assert {"bought", "shown"} <= set(msgpack.unpackb(stored or b""))
    last = LoggedEvent(similar, 0, len(log) - 2, learned=True)
    reasons = reasons_now(settings, store, slates[-1], last, CatalogueItems(ITEMS))
    rules = {rule for reason in reasons for rule in reason.rules}
    assert len(reasons) == len(slates[-1].items)
    assert any("30 or cheaper" in rule for rule in rules)
    assert "3 items left out: the request names them" in rules
    home = LoggedEvent(requests[0], 0, len(LOG), learned=True)
    reasons = reasons_now(settings, store, slates[0], home, CatalogueItems(ITEMS))
    assert not any("left out" in rule for reason in reasons for rule in reason.rules)  # at that time, nothing was


def test_slates_of_one_scenario_can_be_valued_by_themselves() -> None:
    requests = [
        one
        for n in range(30)
        for one in (
            asking("similar", NOW + 40 * n, f"v{n}", k=3),
            asking("home", NOW + 40 * n + 1, f"w{n}", k=3),
            Event(type=EventType.CLICK, user_id=f"v{n}", item_id="bags-1", ts=NOW + 40 * n + 9),
        )
    ]
    after = [Event(type=EventType.VIEW, user_id="late", item_id="art-5", ts=NOW + 400_000 + n) for n in range(64)]
    settings = chosen(rollout={"evaluate": ("model:popularity",)})
    _, sink = through_a_worker([*LOG, *requests, *after], MemoryStore(), None, settings)
    outcomes = OutcomeLog(OutcomeFilter(scenario="similar"), 10_000, by_user=True)
    for record in sink.records("outcomes"):
        outcomes.add(decode(record.value or b"", record.headers, Outcome))
    assert outcomes.logged(LOGGED).rounds.slates == 30
    assert outcomes.logged("model:popularity").rounds.slates == 30
