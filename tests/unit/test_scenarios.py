"""Every scenario and every rule does what it says, however the log is cut, and says so in the explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from streamrec.codec import encode_event
from streamrec.config.scenarios import BUILT_IN
from streamrec.config.settings import Settings, load_settings
from streamrec.engine.pipeline import Pipeline
from streamrec.errors import BadEvent, ConfigError
from streamrec.events import Event, EventType, Filters, Item, Slate
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.transport import Record
from streamrec.wiring import build_pipeline, build_validation_limits, run_engine
from streamrec.worker.validation import event_of

BEGAN = 1_700_000_000_000
MINUTE_MS, DAY_MS = 60_000, 86_400_000
KINDS = ("lamp", "chair", "rug", "vase")
COLOURS = ("red", "green", "blue", "grey", "black", "white")
ITEMS = [
    Item(
        item_id=f"{kind}-{colour}",
        title=f"{colour} {kind}",
        categories=(kind,),
        tags=("bright",) if colour in ("red", "green") else (),
        price=10.0 * (1 + KINDS.index(kind)) + COLOURS.index(colour),
        bid=0.1 * 3 ** KINDS.index(kind) if colour == "grey" else None,
        budget=100.0 if colour == "grey" else None,
    )
    for kind in KINDS
    for colour in COLOURS
]
BY_ID = {item.item_id: item for item in ITEMS}


def untaught(scenarios: Mapping[str, Any] | None = None, **serving: object) -> Pipeline:
    settings = Settings.model_validate(
        {
            "limits": {"max_items": 2_000, "max_users": 2_000},
            "learning": {
                "models": ("popularity_minutes", "popularity", "popularity_days", "covisit_recent", "transitions"),
            },
            "fusion": {"form": "linear", "explore": 0.0, "policy": "greedy"},
            "serving": {"k": 6, **serving},
            "trends": {"rehearse": True},
            "scenarios": scenarios or {},
        }
    )
    return build_pipeline(settings, CatalogueItems(ITEMS))


def log_of(count: int, seed: int = 1) -> list[Event]:
    """Visits of one colour through the kinds: a lamp leads to a chair of its colour, that to a rug, that to a vase."""
    rng = np.random.default_rng(seed)
    ts, events = BEGAN, []
    while len(events) < count:
        colour, user = COLOURS[rng.integers(6)], f"u{rng.integers(40)}"
        for kind in KINDS:
            ts += int(rng.integers(1, 40_000))
            events.append(event(user, f"{kind}-{colour}", ts))
        ts += 2 * MINUTE_MS
    return events[:count]


def event(user: str, item: str, ts: int, kind: EventType = EventType.CLICK) -> Event:
    return Event(type=kind, user_id=user, item_id=item, ts=ts)


def asking(ts: int, scenario: str | None = None, user: str = "visitor", **more: Any) -> Event:
    return Event(type=EventType.REQUEST, user_id=user, ts=ts, scenario=scenario, explain=True, **more)


def handle(pipeline: Pipeline, events: Sequence[Event], poll: int = 512, first: int = 0) -> dict[int, Slate]:
    """Slates by offset."""
    slates: dict[int, Slate] = {}
    for batch_result in run_engine(pipeline, events, first=first, poll=poll):
        slates |= {offset: slate for (_, offset), slate in batch_result.slates.items()}
    return slates


LOG = log_of(600)
NOW = LOG[-1].ts + MINUTE_MS


@cache
def learned() -> dict[str, dict[str, np.ndarray]]:
    """The state of a recommender that learned the log."""
    pipeline = untaught()
    handle(pipeline, LOG)
    return pipeline.state()


def taught(scenarios: Mapping[str, Any] | None = None) -> Pipeline:
    """A recommender that learned the log."""
    pipeline = untaught(scenarios)
    pipeline.restore(learned())
    return pipeline


def answer(request: Event, scenarios: Mapping[str, Any] | None = None, past: Sequence[Event] = ()) -> Slate:
    """What a recommender that learned the log, and then `past`, answers."""
    pipeline = taught(scenarios)
    handle(pipeline, past, first=len(LOG))
    [slate] = handle(pipeline, [request], first=len(LOG) + len(past)).values()
    return slate


def ids(slate: Slate) -> list[str]:
    return [place.item_id for place in slate.items]


def kinds(slate: Slate) -> list[str]:
    return [BY_ID[place.item_id].categories[0] for place in slate.items]


def rules(slate: Slate) -> str:
    return "\n".join(rule for reason in slate.reasons for rule in reason.rules)


# The scenarios


def test_similar_shows_what_goes_with_the_item_and_not_the_item() -> None:
    slate = answer(asking(NOW, "similar", item_id="chair-blue"))
    assert slate.scenario == "similar"
    assert slate.items[0].item_id == "rug-blue"
    assert "chair-blue" not in ids(slate)
    assert "1 item left out: the request names it" in rules(slate)
    assert "similar leans on covisit_recent" in rules(slate)


def test_a_bundle_goes_with_the_whole_basket() -> None:
    slate = answer(asking(NOW, "bundle", basket=("lamp-red", "chair-red")))
    assert slate.items[0].item_id == "rug-red"
    assert not {"lamp-red", "chair-red"} & set(ids(slate))


def test_across_categories_nothing_is_of_the_category_at_hand() -> None:
    slate = answer(asking(NOW, "cross_category", item_id="chair-blue"))
    assert "chair" not in kinds(slate)
    assert len(slate.items) == 6
    assert max(kinds(slate).count(kind) for kind in KINDS) <= 3
    assert "other categories" in rules(slate)
    at_hand = answer(asking(NOW, "cross_category", "v"), past=[event("v", "rug-grey", NOW - 1_000)])
    assert "rug" not in kinds(at_hand)  # without an item, what was touched last


def test_candidates_that_a_request_brings_are_ranked_and_nothing_else() -> None:
    brought = ("rug-blue", "lamp-red", "nowhere", "chair-grey", "rug-blue")
    slate = answer(asking(NOW, "home", candidates=brought))
    assert sorted(ids(slate)) == ["chair-grey", "lamp-red", "rug-blue"]
    assert slate.candidates == 3
    similar = answer(asking(NOW, "similar", item_id="chair-blue", candidates=brought))
    assert ids(similar)[0] == "rug-blue"
    cheap = answer(asking(NOW, "home", candidates=brought, filters=Filters(categories=("rug",))))
    assert ids(cheap) == ["rug-blue"]
    assert not answer(asking(NOW, "home", candidates=("nowhere",))).items


def test_new_items_are_new() -> None:
    pipeline = taught({"new_items": {"leave_out": {"older_than_s": 3_600}}})
    pipeline.features.catalogue.take(Item(item_id="clock", title="clock", added=NOW - 5_000))
    handle(pipeline, [event("u1", "lamp-red", NOW - 1_000), event("u2", "stool", NOW)], first=1_000)
    late = [event("u3", "lamp-red", NOW + 40_000 + n) for n in range(40)]  # the cut, from which on the stool is known
    handle(pipeline, late, first=1_100)
    [slate] = handle(pipeline, [asking(NOW + 60_000, "new_items")], first=1_200).values()
    assert set(ids(slate)) == {"clock", "stool"}
    assert "at most 1 h old" in rules(slate)


def test_trending_shows_what_gains() -> None:
    rush = [event(f"n{n}", "vase-black", NOW + n * 100) for n in range(90)]
    after = [event(f"m{n}", "lamp-red", NOW + 20_000 + 31_000 * n) for n in range(4)]
    slate = answer(asking(after[-1].ts + 1_000, "trending"), past=[*rush, *after])
    assert slate.items[0].item_id == "vase-black"
    assert "trending leans on trends" in rules(slate)


def test_search_finds_words_and_then_looks_at_who_asks() -> None:
    slate = answer(asking(NOW, "search", query="Blue LAMP!"))
    assert slate.items[0].item_id == "lamp-blue"
    assert all("blue" in place.item_id or "lamp" in place.item_id for place in slate.items)
    assert "search leans on text" in rules(slate)
    asked = Event(type=EventType.SEARCH, user_id="v", ts=NOW, query="vase", explain=True)
    plain = answer(asked)
    assert plain.scenario == "search"
    assert set(kinds(plain)) == {"vase"}
    personal = answer(asked, past=[event("v", "rug-white", NOW - 5_000)])
    assert personal.items[0].item_id == "vase-white"


def test_a_search_that_finds_nothing_is_answered_with_nothing() -> None:
    slate = answer(asking(NOW, "search", query="submarine"))
    assert slate.items == ()
    assert slate.candidates == 0


def test_ads_are_ranked_by_what_they_earn() -> None:
    slate = answer(asking(NOW, "ads"))
    assert set(ids(slate)) == {f"{kind}-grey" for kind in KINDS}
    assert "ranked by what it earns" in rules(slate)
    assert slate.items[0].item_id == "vase-grey"  # equally wanted, and the highest bid


@pytest.mark.parametrize(("scenario", "charged"), [("ads", True), ("sponsored", True), ("home", False)])
def test_whatever_is_ranked_by_bids_is_charged_for_clicks(scenario: str, charged: bool) -> None:
    pipeline = taught({"sponsored": {"worth": "bid", "retrievers": ["ads"]}})
    [batch_result] = run_engine(pipeline, [asking(NOW, scenario)], first=len(LOG))
    [served] = batch_result.served_slates.values()
    assert (served.ads is not None) is charged
    assert served.ads is None or (served.ads.bids > 0).all()


def test_under_an_unknown_name_home_is_answered() -> None:
    assert ids(answer(asking(NOW, "cart"))) == ids(answer(asking(NOW)))


# The rules


def test_filters_hold_for_everything_shown() -> None:
    filters = Filters(categories=("lamp", "vase"), tags=("bright",), price_max=41.0)
    slate = answer(asking(NOW, filters=filters))
    assert set(ids(slate)) == {"lamp-red", "lamp-green", "vase-red", "vase-green"}
    assert "filtered: 4 items are in lamp or vase, tagged bright, 41 or cheaper" in rules(slate)
    configured = {"home": {"leave_out": {"without_categories": ["lamp"], "price_min": 25}}}
    assert set(kinds(answer(asking(NOW), configured))) <= {"rug", "vase"}


def test_what_was_bought_is_not_offered_again_for_a_while() -> None:
    rule = {"home": {"leave_out": {"bought_within_s": 30 * 86_400}}}
    past = [event("v", "lamp-red", NOW - 2_000, EventType.PURCHASE), event("v", "lamp-blue", NOW - 1_000)]
    request = asking(NOW, user="v", k=24)
    slate = answer(request, rule, past)
    assert "lamp-red" not in ids(slate)
    assert "lamp-blue" in ids(slate)
    assert "1 item left out: bought within 30 days" in rules(slate)
    later = asking(NOW + 31 * DAY_MS, user="v", k=24)
    assert "lamp-red" in ids(answer(later, rule, past))


def test_what_was_shown_often_and_never_touched_is_let_be() -> None:
    pipeline = taught({"home": {"leave_out": {"shown_at_most": 3}}})
    requests = [asking(NOW + 1_000 * n, user="v", k=4) for n in range(4)]
    slates = list(handle(pipeline, requests, first=1_000).values())
    assert ids(slates[0]) == ids(slates[1]) == ids(slates[2])
    assert not set(ids(slates[3])) & set(ids(slates[0]))
    assert "4 items left out: shown 3 times since they were last touched" in rules(slates[3])
    touched = [event("v", ids(slates[0])[1], NOW + 5_000), asking(NOW + 6_000, user="v", k=24)]
    [slate] = handle(pipeline, touched, first=1_100).values()
    assert ids(slates[0])[1] in ids(slate)
    [rested] = handle(pipeline, [asking(NOW + 2 * DAY_MS, user="v", k=24)], first=1_200).values()
    assert set(ids(slates[0])) <= set(ids(rested))


def test_a_boosted_category_rises() -> None:
    plain, boosted = answer(asking(NOW)), answer(asking(NOW), {"home": {"boosts": {"vase": 50.0}}})
    assert set(kinds(plain)[:3]) != {"vase"}
    assert kinds(boosted) == ["vase"] * 6
    assert "boosted 50 times: vase" in rules(boosted)


def test_diversity_spreads_over_categories() -> None:
    boosts = {"lamp": 5.0}
    crowded = answer(asking(NOW), {"home": {"boosts": boosts}})
    assert kinds(crowded).count("lamp") == 6
    spread = answer(asking(NOW), {"home": {"boosts": boosts, "slates": {"diversity": 3.0}}})
    assert set(kinds(spread)[:4]) == set(KINDS)
    assert "diversity: -3.00, like an item above" in rules(spread)
    capped = answer(asking(NOW), {"home": {"boosts": boosts, "slates": {"most_per_category": 2}}})
    assert kinds(capped).count("lamp") == 2
    assert "at most 2 items of a category" in rules(capped)


def test_fresh_items_get_their_share_of_every_beginning_of_a_slate() -> None:
    pipeline = taught({"home": {"slates": {"fresh_share": 0.5, "fresh_s": 3_600}}})
    for name in ("clock", "stool", "bench"):
        pipeline.features.catalogue.take(Item(item_id=name, title=name, added=LOG[-50].ts))
    [slate] = handle(pipeline, [asking(NOW)], first=1_000).values()
    fresh = [item_id in ("clock", "stool", "bench") for item_id in ids(slate)]
    assert all(sum(fresh[:n]) >= n // 2 for n in range(1, 7))
    assert sum(fresh) == 3
    assert "fresh: at least 50% of the places" in rules(slate)


# However the log is cut

EVERYTHING = {
    "home": {
        "leave_out": {"bought_within_s": 3_600, "shown_at_most": 2},
        "boosts": {"rug": 1.5},
        "slates": {"diversity": 0.7, "most_per_category": 2, "fresh_share": 0.2},
    },
    "ads": {"slates": {"diversity": 0.2}},
}


def mixed_log() -> list[Event]:
    rng = np.random.default_rng(5)
    named = list(BUILT_IN)
    events: list[Event] = []
    for at, one in enumerate(log_of(300, seed=9)):
        kind = EventType.PURCHASE if rng.random() < 0.2 else one.type
        item_id = f"late-{at // 9}" if rng.random() < 0.05 else str(one.item_id)
        events.append(event(one.user_id, item_id, one.ts, kind))
        for _ in range(int(rng.integers(0, 3))):
            more: dict[str, Any] = {"item_id": one.item_id, "basket": ("vase-red", "rug-grey"), "query": "red rug"}
            if rng.random() < 0.3:
                more["filters"] = Filters(price_max=30.0)
            events.append(asking(one.ts + 1, named[int(rng.integers(len(named)))], one.user_id, **more))
    return events


@pytest.fixture(scope="module")
def whole() -> tuple[list[Event], dict[int, Slate]]:
    """A log with questions to every scenario, and the answers when it is handled in one go."""
    events = mixed_log()
    return events, handle(untaught(EVERYTHING), events)


@pytest.mark.parametrize("poll", [1, 5])
def test_no_scenario_sees_how_the_log_was_cut(whole: tuple[list[Event], dict[int, Slate]], poll: int) -> None:
    events, expected = whole
    assert len(expected) > 200
    assert {slate.scenario for slate in expected.values()} == set(BUILT_IN)
    assert handle(untaught(EVERYTHING), events, poll) == expected


def test_a_user_from_the_store_is_offered_what_one_in_memory_is(whole: tuple[list[Event], dict[int, Slate]]) -> None:
    events, expected = whole
    half = len(events) // 2
    begun, second = untaught(EVERYTHING), untaught(EVERYTHING)
    handle(begun, events[:half])
    second.restore(begun.state())
    users = begun.features.users
    names = [name for _, name in users._entries]
    stored = users.take_changes(0)
    second.features.users.admit([(0, name) for name in names], [stored["user", name] for name in names], BEGAN)
    assert handle(second, events[half:], first=half) == {at: one for at, one in expected.items() if at >= half}


# What is refused


def record(request: Event) -> Record:
    return Record("user-events", 0, 0, b"v", encode_event(request))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (asking(NOW, "hoome"), r"field 'scenario' is 'hoome', expected one of home, similar.*; did you mean home\?"),
        (asking(NOW, "similar"), "field 'item_id' is missing: a request of scenario 'similar' needs it"),
        (asking(NOW, "bundle"), "field 'basket' is missing"),
        (asking(NOW, "search"), "field 'query' is missing"),
    ],
)
def test_a_request_that_lacks_what_it_is_about_is_no_event(request_: Event, said: str) -> None:
    validation_limits = build_validation_limits(Settings())
    with pytest.raises(BadEvent, match=said):
        event_of(record(request_), validation_limits)


def test_a_scenario_of_ones_own_is_taken() -> None:
    settings = Settings.model_validate({"scenarios": {"cart": {"needs": "basket", "boosts": {"vase": 2}}}})
    assert event_of(record(asking(NOW, "cart", basket=("a",))), build_validation_limits(settings)).scenario == "cart"
    assert settings.scenarios["similar"] == Settings().scenarios["similar"]  # the others are as they were


def test_one_rule_of_a_built_in_scenario_is_changed_alone() -> None:
    settings = Settings.model_validate({"scenarios": {"bundle": {"slates": {"most_per_category": 2}}}})
    changed, plain = settings.scenarios["bundle"], Settings().scenarios["bundle"]
    assert changed.slates.most_per_category == 2
    assert changed.slates.diversity == plain.slates.diversity
    assert changed.retrievers == plain.retrievers


def test_a_misspelt_rule_is_named(tmp_path: Any) -> None:
    file = tmp_path / "streamrec.toml"
    file.write_text("[scenarios.home.slates]\ndiversty = 1\n")
    with pytest.raises(ConfigError, match=r"scenarios\.home\.slates\.diversty"):
        load_settings(file)
