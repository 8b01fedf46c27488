"""Remember, recommend, learn: what is promised of the whole, whatever the parts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from streamrec.config.groups import FusionSettings, Learning, Limits, Serving
from streamrec.config.parts import models
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import NOTHING
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.pipeline import Pipeline
from streamrec.events import Event, EventType, Item, Slate
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.wiring import build_pipeline, run_engine

BEGAN = 1_700_000_000_000
CATALOGUE = CatalogueItems(Item(item_id=f"i{n}", categories=(f"c{n % 7}",)) for n in range(0, 150, 2))
State = dict[str, dict[str, np.ndarray]]


def untaught(*, max_items: int = 2_000, policy: str = "thompson", k: int = 20, **learning: object) -> Pipeline:
    settings = Settings(
        limits=Limits(max_items=max_items, max_users=2_000),
        learning=Learning(device="cpu", **learning),
        fusion=FusionSettings(policy=policy),
        serving=Serving(k=k),
    )
    return build_pipeline(settings, CATALOGUE, eager=False)


def log_of(count: int, seed: int = 0, items: int = 150, users: int = 60) -> list[Event]:
    """Walks along the items, with baskets, requests, refusals, late events and a pause now and then."""
    rng = np.random.default_rng(seed)
    ts, events, at = BEGAN, [], rng.integers(0, items, users)
    kinds = [EventType.VIEW, EventType.CLICK, EventType.PURCHASE, EventType.SKIP, EventType.RATING, EventType.REQUEST]
    while len(events) < count:
        user = int(rng.integers(users))
        ts += int(rng.choice([0, 700, 4_000, 90_000, 7_200_000], p=[0.2, 0.4, 0.3, 0.09, 0.01]))
        kind = kinds[rng.choice(6, p=[0.5, 0.15, 0.1, 0.05, 0.05, 0.15])]
        for _ in range(int(rng.integers(1, 4)) if kind is EventType.PURCHASE else 1):
            at[user] = (at[user] * 3 + 1 + int(rng.integers(3))) % items
            events.append(
                Event(
                    type=kind,
                    user_id=f"u{user}",
                    ts=ts - (3_000 if rng.random() < 0.05 else 0),
                    item_id=None if kind is EventType.REQUEST and rng.random() < 0.7 else f"i{at[user]}",
                    value=float(rng.integers(1, 6)) if kind is EventType.RATING else None,
                    k=int(rng.integers(1, 30)) if kind is EventType.REQUEST and rng.random() < 0.3 else None,
                    context={"category": f"c{user % 5}"} if rng.random() < 0.3 else None,
                )
            )
    return events[:count]


class SeenItems(NamedTuple):
    """What came of a log: slates, and each example's ranks and its ranking, by offset."""

    slates: dict[int, Slate]
    ranks: dict[int, bytes]
    rankings: dict[int, tuple[int, bytes, bytes]]
    known: dict[int, bool]


def run(pipeline: Pipeline, events: Sequence[Event], poll: int = 512, first: int = 0) -> SeenItems:
    """Handle a log in polls, from the offset `first`."""
    seen = SeenItems({}, {}, {}, {})
    for batch_result in run_engine(pipeline, events, first=first, poll=poll):
        seen.slates.update({offset: slate for (_, offset), slate in batch_result.slates.items()})
        trial, batch = batch_result.trial, pipeline.batch
        for at, logged in enumerate(trial.logged_events):
            row = trial.rows[at]
            candidates = batch.candidates.items[row].tobytes(), batch.candidates.scores[:, row].tobytes()
            seen.ranks[logged.offset] = trial.ranks[:, at].tobytes()
            seen.rankings[logged.offset] = (int(batch.queries.seed[row]), *candidates)
            seen.known[logged.offset] = trial.known[at]
    return seen


def differing(first: State, second: State) -> list[str]:
    """Names of the arrays that are not equal bit by bit."""
    assert first.keys() == second.keys()
    assert all(first[part].keys() == second[part].keys() for part in first)
    return [
        f"{part}.{name}"
        for part in first
        for name in first[part]
        if first[part][name].tobytes() != second[part][name].tobytes()
    ]


@pytest.fixture(scope="module")
def whole() -> tuple[list[Event], SeenItems, State]:
    events, pipeline = log_of(1_000), untaught()
    return events, run(pipeline, events), pipeline.state()


@pytest.mark.parametrize("poll", [1, 7])
def test_batching_changes_speed_and_never_results(whole: tuple[list[Event], SeenItems, State], poll: int) -> None:
    events, expected, state = whole
    pipeline = untaught()
    seen = run(pipeline, events, poll)
    assert len(seen.slates) > 100
    assert seen == expected
    assert differing(pipeline.state(), state) == []


@pytest.mark.parametrize("cut", [1, 333, 700])
def test_a_restored_recommender_goes_on_as_if_nothing_had_happened(
    whole: tuple[list[Event], SeenItems, State], cut: int
) -> None:
    events, expected, state = whole
    first, second = untaught(), untaught()
    run(first, events[:cut], 100)
    second.restore(first.state())
    users = first.features.users
    names = [name for _, name in users._entries]
    stored = users.take_changes(0)
    second.features.users.admit([(0, name) for name in names], [stored["user", name] for name in names], BEGAN)
    seen = run(second, events[cut:], 100, cut)
    assert seen.slates == {at: slate for at, slate in expected.slates.items() if at >= cut}
    assert seen.ranks == {at: found for at, found in expected.ranks.items() if at >= cut}
    assert differing(second.state(), state) == []


def test_taking_the_state_changes_nothing_and_hands_out_copies(whole: tuple[list[Event], SeenItems, State]) -> None:
    events, expected, _ = whole
    pipeline, slates = untaught(), {}
    for start in range(0, 900, 150):
        slates |= run(pipeline, events[start : start + 150], 50, start).slates
        for arrays in pipeline.state().values():
            for array in arrays.values():
                if array.flags.writeable:
                    array[...] = 0
    assert slates == {at: slate for at, slate in expected.slates.items() if at < 900}


def test_another_seed_draws_other_slates(whole: tuple[list[Event], SeenItems, State]) -> None:
    events, expected, _ = whole
    assert run(untaught(seed=1), events[:600]).slates != {
        at: slate for at, slate in expected.slates.items() if at < 600
    }


def view(user: str, item: str, ts: int, **more: object) -> Event:
    return Event(type=EventType.VIEW, user_id=user, item_id=item, ts=ts, **more)


def test_a_basket_shares_the_ranking_made_before_its_first_event() -> None:
    pipeline = untaught(micro_batch=4)
    run(pipeline, log_of(400))
    ts = BEGAN + 10**11
    # Ten events of one moment, longer than a micro-batch, with another user's in between.
    basket = [view("u1", f"i{n}", ts) for n in range(10)]
    seen = run(pipeline, [*basket[:5], view("u2", "i1", ts), *basket[5:], view("u1", "i11", ts + 1)], 3)
    mine = [seen.rankings[at] for at in range(12) if at != 5]
    assert len(set(mine[:10])) == 1
    assert mine[10] != mine[0]
    assert seen.rankings[5] != mine[0]


def test_an_item_is_ranked_before_it_is_known() -> None:
    pipeline = untaught()
    seen = run(pipeline, [view("u", "i1", BEGAN), view("u", "i2", BEGAN + 1), view("v", "i1", BEGAN + 40_000)], 1)
    assert seen.known == {0: False, 1: False, 2: True}
    assert np.frombuffer(seen.ranks[0], np.int8).tolist() == [0] * (1 + len(pipeline.models))


@pytest.mark.parametrize("k", [1, 7, 20, 40])
@pytest.mark.parametrize("policy", ["thompson", "greedy"])
def test_a_request_gets_as_many_items_as_it_asks_for(k: int, policy: str) -> None:
    pipeline = untaught(policy=policy)
    run(pipeline, log_of(600))
    asking = [Event(type=EventType.REQUEST, user_id=name, ts=BEGAN + 10**10, k=k) for name in ("u3", "nobody before")]
    slates = run(pipeline, asking).slates
    for slate in slates.values():
        assert len({item.item_id for item in slate.items}) == len(slate.items) == k
        assert [item.position for item in slate.items] == list(range(1, k + 1))
        assert all(0 < item.propensity <= 1 for item in slate.items)
        assert slate.candidates >= k
    assert [slates[at].user_id for at in (0, 1)] == ["u3", "nobody before"]


def test_a_request_without_k_gets_the_configured_number() -> None:
    pipeline = untaught(k=5)
    run(pipeline, log_of(300))
    slates = run(pipeline, [Event(type=EventType.SEARCH, user_id="u", ts=BEGAN + 10**10)]).slates
    assert len(slates[0].items) == 5


def test_a_slate_answers_its_request_and_says_so() -> None:
    pipeline = untaught()
    run(pipeline, log_of(300))
    asked = Event(
        type=EventType.REQUEST, user_id="u3", ts=BEGAN + 10**10, event_id="e9", session_id="s", scenario="cart", k=3
    )
    slate = run(pipeline, [asked], first=41).slates[41]
    assert (slate.rec_id, slate.user_id, slate.ts) == ("user-events-0-41", "u3", asked.ts)
    assert (slate.request_id, slate.session_id, slate.scenario) == ("e9", "s", "cart")
    assert slate.policy == "thompson"
    for item in slate.items:
        assert set(item.shares) <= {*pipeline.fusion.models, "item"}


def test_the_first_request_of_all_gets_an_empty_slate() -> None:
    slates = run(untaught(), [Event(type=EventType.REQUEST, user_id="u", ts=BEGAN)]).slates
    assert slates[0].items == ()


def test_a_seed_item_moves_the_context() -> None:
    pipeline = untaught(policy="greedy")
    pairs = [[view(f"w{n}", f"left{n % 5}", BEGAN + 10_000 * n), view(f"w{n}", f"right{n % 5}", BEGAN + 10_000 * n + 5_000)] for n in range(300)]  # fmt: skip  # noqa: E501
    run(pipeline, [event for pair in pairs for event in pair])
    ts = BEGAN + 3_100_000
    asking = [Event(type=EventType.REQUEST, user_id=f"new{n}", ts=ts, item_id=f"left{n}", k=3) for n in range(5)]
    asking.append(Event(type=EventType.REQUEST, user_id="new", ts=ts, k=3))
    asking.append(Event(type=EventType.REQUEST, user_id="new", ts=ts, item_id="unheard of", k=3))
    slates = run(pipeline, asking).slates
    for n in range(5):
        assert slates[n].items[0].item_id == f"right{n}"
    assert [item.item_id for item in slates[5].items] == [item.item_id for item in slates[6].items]


def test_what_was_seen_is_not_shown_again_when_so_configured() -> None:
    pipeline, touched = untaught(exclude_seen=True), {}
    events = log_of(900)
    seen = run(pipeline, events)
    checked = 0
    for offset, event in enumerate(events):
        if offset in seen.slates:
            shown = {item.item_id for item in seen.slates[offset].items}
            assert not shown & touched.get(event.user_id, set())
            checked += len(shown)
        if event.item_id is not None and event.type is not EventType.REQUEST:
            touched.setdefault(event.user_id, set()).add(event.item_id)
    assert checked > 500


def test_what_was_learned_already_is_remembered_and_not_learned_again() -> None:
    pipeline = untaught()
    run(pipeline, log_of(200))
    pipeline.learn()
    before = pipeline.state()
    views = [view("u1", f"i{n}", BEGAN + 10**10 + 40_000 * n) for n in range(40)]
    for _ in run_engine(pipeline, [LoggedEvent(event, 0, 200 + at, learned=True) for at, event in enumerate(views)]):
        pass
    pipeline.learn()
    after = pipeline.state()
    models = [part for part in before if part.startswith("model.")]
    assert not [name for name in differing(before, after) if name.startswith((*models, "fusion"))]
    row = pipeline.features.users.touch((0, "u1"))
    assert pipeline.features.history.pushed[row] >= 40


def test_with_a_tiny_item_table_it_runs_on_and_stays_bounded() -> None:
    pipeline = untaught(max_items=64)
    seen = run(pipeline, log_of(2_500, items=700), 100)
    table = pipeline.features.items
    assert len(table) <= 64
    assert max(len(slate.items) for slate in seen.slates.values()) == 20 or len(seen.slates) > 100
    for slate in seen.slates.values():
        assert "" not in {item.item_id for item in slate.items}
    history = pipeline.features.history.items
    assert history.max() < 64
    free = np.array(table._free, np.int32)
    assert not np.isin(history[history != NOTHING], free).any()
    for part, arrays in pipeline.state().items():
        for name, array in arrays.items():
            assert array.dtype.kind != "f" or not np.isnan(array).any(), f"{part}.{name}"


def test_item_eviction_does_not_depend_on_batching() -> None:
    events = log_of(1_200, items=700)
    first, second = untaught(max_items=64), untaught(max_items=64)
    assert run(first, events, 512) == run(second, events, 13)
    assert differing(first.state(), second.state()) == []


def test_the_restored_snapshot_of_a_full_table_goes_on_alike() -> None:
    events = log_of(1_200, items=700)
    first, second = untaught(max_items=64), untaught(max_items=64)
    run(first, events[:700], 100)
    second.restore(first.state())
    names = [name for _, name in first.features.users._entries]
    stored = first.features.users.take_changes(0)
    second.features.users.admit([(0, name) for name in names], [stored["user", name] for name in names], BEGAN)
    assert run(first, events[700:], 100, 700) == run(second, events[700:], 100, 700)
    assert differing(first.state(), second.state()) == []


def test_models_learn_when_the_logs_clock_moves_on_not_only_by_count() -> None:
    pipeline = untaught(micro_batch_s=10.0)
    run(pipeline, [view("u", "i1", BEGAN), view("u", "i2", BEGAN + 9_999)])
    assert not pipeline.models[0].state()["mass"].size
    run(pipeline, [view("u", "i3", BEGAN + 10_000)], first=2)
    assert pipeline.models[0].state()["mass"].size == 2


def test_lessons_of_slates_that_other_models_made_teach_nothing() -> None:
    pipeline = untaught()
    run(pipeline, log_of(200))
    pipeline.learn()
    fusion = pipeline.fusion
    before = fusion.mean.copy()
    features = np.random.default_rng(1).normal(size=(2, fusion.width)).astype(np.float32)
    reward, chances, traces = np.array([1.0, 0.0]), np.full(2, 0.5), {"clicks": np.zeros((2, 9), np.int32)}
    foreign = SlateFeedback("greedy", 0, features[:, :5], chances, reward, 2, BEGAN, items=("i1", "i2"))
    pipeline.learn([foreign])
    assert (fusion.mean == before).all()
    slate_feedback = SlateFeedback(
        "greedy", 0, features, chances, reward, 2, BEGAN, traces, fusion.schema, "u1", ("i1", "i2")
    )
    pipeline.learn([slate_feedback])
    assert (fusion.mean != before).any()


def test_what_comes_of_one_persons_slates_teaches_only_so_often() -> None:
    pipeline = untaught()
    run(pipeline, log_of(200))
    pipeline.learn()
    fusion = pipeline.fusion
    features = np.random.default_rng(1).normal(size=(2, fusion.width)).astype(np.float32)
    reward, chances, traces = np.array([0.0, 1.0]), np.full(2, 0.5), {"clicks": np.zeros((2, 9), np.int32)}
    slate_feedback = SlateFeedback(
        "greedy", 0, features, chances, reward, 2, BEGAN, traces, fusion.schema, "bot", ("i1", "i2")
    )
    pipeline.learn([slate_feedback] * 200)
    taught, offsets = fusion.mean.copy(), fusion.responses.offsets.copy()
    pipeline.learn([slate_feedback] * 200)
    assert (fusion.mean == taught).all()
    assert (fusion.responses.offsets == offsets).all()
    assert pipeline.rate_limits.held_back()["lessons: item"] > 380
    pipeline.learn([replace(slate_feedback, user_id="u1")])
    assert (fusion.mean != taught).any()


def test_refused_updates_are_named_by_who_refused_them() -> None:
    pipeline = untaught()
    assert pipeline.refused_updates() == {"fusion": 0, "residual": 0, "clicks": 0, "sequence": 0}
    pipeline.fusion.skipped = 2
    assert pipeline.refused_updates()["fusion"] == 2


# Models in danger


def test_what_no_model_should_say_reaches_neither_the_fusion_nor_a_slate() -> None:
    pipeline, log = untaught(), log_of(600)
    run(pipeline, log[:400])
    pipeline.models[2].mass[:50] = np.nan  # type: ignore[attr-defined]
    pipeline.models[0].mass[7] = np.inf  # type: ignore[attr-defined]
    seen = run(pipeline, log[400:], first=400)
    assert all(len(slate.items) == (log[offset].k or 20) for offset, slate in seen.slates.items())
    assert np.isfinite([item.score for slate in seen.slates.values() for item in slate.items]).all()
    assert all(0 < item.propensity <= 1 for slate in seen.slates.values() for item in slate.items)
    assert np.isfinite(pipeline.fusion.mean).all()
    assert pipeline.fusion.refused == 0


def test_a_model_that_is_out_counts_as_one_that_knows_nothing_and_stays_in_touch() -> None:
    pipeline, log = untaught(rollback_after=1), log_of(900)
    run(pipeline, log[:400])
    place = [model.name for model in pipeline.models].index("transitions")
    pipeline.quarantine.condemn(["model.transitions"])
    before = pipeline.models[place].state()
    run(pipeline, log[400:500], first=400)
    asked = pipeline.batch.asked
    assert np.isneginf(pipeline.batch.candidates.scores[place, :asked]).any()
    assert all((before[name] == array).all() for name, array in pipeline.models[place].state().items())
    pipeline.rollback.roll_back("model.transitions", None, None)
    run(pipeline, log[500:], first=500)
    assert pipeline.models[place].state()["mass"].sum() > 0  # on probation it learns, unheard
    assert np.isneginf(pipeline.batch.candidates.scores[place, : pipeline.batch.asked]).all()


def test_what_is_rolled_back_forgets_items_whose_places_others_have_taken() -> None:
    pipeline, log = untaught(max_items=128), log_of(1_500, items=400)
    run(pipeline, log[:300])
    then = pipeline.state()
    names = list(pipeline.features.items.ids)
    run(pipeline, log[300:420], first=300)
    taken = [at for at, (old, new) in enumerate(zip(names, pipeline.features.items.ids, strict=False)) if old != new]
    kept = [at for at, old in enumerate(names) if at not in taken and then["model.popularity"]["mass"][at] > 0]
    assert taken
    assert kept
    pipeline.rollback.roll_back("model.popularity", "0000000001-a", then)
    mass = next(model for model in pipeline.models if model.name == "popularity").state()["mass"]
    assert (mass[taken] == 0).all()
    assert (mass[kept] == then["model.popularity"]["mass"][kept]).all()


def test_every_part_can_go_back_alone() -> None:
    pipeline, log = untaught(policy="exp3"), log_of(900)
    run(pipeline, log[:500])
    then = pipeline.state()
    run(pipeline, log[500:], first=500)
    rest = pipeline.state()
    watched = [name for name in then if name == "fusion" or name.startswith(("model.", "policy."))]
    assert "policy.exp3" in watched
    for name in watched:
        pipeline.rollback.roll_back(name, "0000000001-a", then)
        now = pipeline.state()
        assert all(now[name][array].tobytes() == before.tobytes() for array, before in then[name].items())
        assert pipeline.quarantine.out(name)
    for name in ("items", "batch", "clock", "progress", "contribution"):
        assert all(now[name][array].tobytes() == before.tobytes() for array, before in rest[name].items())


def test_a_recommender_that_learned_in_peace_holds_no_suspects() -> None:
    pipeline = untaught(policy="exp3", models=tuple(models()))
    assert pipeline.rollback.suspects(pipeline.state()) == frozenset()
    run(pipeline, log_of(900))
    assert pipeline.rollback.suspects(pipeline.state()) == frozenset()
    assert not any(pipeline.quarantine.standing().values())


def test_snapshots_of_before_know_of_no_quarantine() -> None:
    pipeline, again = untaught(), untaught()
    run(pipeline, log_of(300))
    state = pipeline.state()
    del state["quarantine"]
    again.restore(state)
    assert again.quarantine.standing() == {}
    assert again.rollback.suspects(again.state()) == frozenset()
