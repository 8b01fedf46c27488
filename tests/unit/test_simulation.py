"""The made-up shop: repeatable to the bit, fair between policies, and with a best slate that nobody beats."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from streamrec.codec import MSGPACK, encode_event
from streamrec.evaluation.simulation.calendar import EntryKind, calendar
from streamrec.evaluation.simulation.draws import Purpose, normals, uniforms
from streamrec.evaluation.simulation.loop import GROUP, Episode, ShownSlate, System, simulate
from streamrec.evaluation.simulation.shopper import FIRST_LOOK_MS, CalendarEntry, Shoppers
from streamrec.evaluation.simulation.systems import Oracle, Shuffle
from streamrec.evaluation.simulation.world import (
    AnswerSettings,
    AssortmentSettings,
    CrowdSettings,
    DriftKind,
    DriftSettings,
    TrafficSettings,
    World,
    WorldSettings,
)
from streamrec.events import Event, EventType

SMALL = WorldSettings(
    seed=7,
    assortment=AssortmentSettings(items=120, categories=12),
    crowd=CrowdSettings(shoppers=60),
    traffic=TrafficSettings(requests=400, hours=6.0),
)


class Fixed:
    """Shows everybody the same items, those with the largest expected reward over all shoppers."""

    def __init__(self, world: World) -> None:
        pulls = [world.pull(shopper, -1, world.end_ms, []) for shopper in range(world.settings.crowd.shoppers)]
        self._items = world.best(np.mean([world.value(pull) for pull in pulls], axis=0))

    def handle(
        self, events: Sequence[Event], asked: Sequence[CalendarEntry], shoppers: Shoppers
    ) -> Sequence[ShownSlate]:
        from streamrec.evaluation.simulation.loop import ShownItem

        places = tuple(ShownItem(shoppers.world.item_ids[item]) for item in self._items)
        return [ShownSlate(f"rec-{entry.event_id}", entry.event_id, places) for entry in asked]

    def close(self) -> None:
        pass


def log_of(world: World, system: System, group: int = GROUP) -> tuple[list[Event], Episode]:
    log: list[Event] = []
    episode = simulate(world, system, group=group, on_events=log.extend)
    return log, episode


def digest(log: Sequence[Event]) -> str:
    return hashlib.sha256(b"".join(encode_event(event, MSGPACK) for event in log)).hexdigest()


# Draws


def test_a_draw_depends_on_its_key_alone() -> None:
    together = uniforms(3, Purpose.ITEM, np.arange(50)[:, None], np.arange(4))
    assert together.shape == (50, 4)
    assert together[17, 2] == uniforms(3, Purpose.ITEM, 17, 2)[0]
    assert len(np.unique(together)) == 200
    assert not np.intersect1d(together, uniforms(4, Purpose.ITEM, np.arange(50)[:, None], np.arange(4))).size
    assert not np.intersect1d(together, uniforms(3, Purpose.TASTE, np.arange(50)[:, None], np.arange(4))).size


def test_draws_are_spread_as_they_should_be() -> None:
    numbers = normals(1, Purpose.ITEM, np.arange(300)[:, None], np.arange(100))
    assert numbers.mean() == pytest.approx(0, abs=0.02)
    assert numbers.std() == pytest.approx(1, abs=0.02)
    assert np.abs(np.corrcoef(numbers[:, :8].T) - np.eye(8)).max() < 0.25


# The world


def test_equal_settings_make_equal_worlds_and_equal_logs_to_the_bit() -> None:
    first, again = (log_of(World(SMALL), Fixed(World(SMALL))) for _ in range(2))
    assert digest(first[0]) == digest(again[0])
    assert (first[1].expected == again[1].expected).all()
    other = replace(SMALL, seed=8)
    assert digest(log_of(World(other), Fixed(World(other)))[0]) != digest(first[0])


def test_a_later_start_moves_the_log_and_changes_nothing_else() -> None:
    day_ms = 86_400_000
    later = replace(SMALL, traffic=replace(SMALL.traffic, start_ms=SMALL.traffic.start_ms + day_ms))
    log, moved = (log_of(World(settings), Shuffle())[0] for settings in (SMALL, later))
    assert [event.ts + day_ms for event in log] == [event.ts for event in moved]
    assert [(e.type, e.user_id, e.item_id) for e in log] == [(e.type, e.user_id, e.item_id) for e in moved]


@pytest.mark.parametrize("group", [1, 3, 50])
def test_the_log_is_the_same_however_it_is_cut_into_groups(group: int) -> None:
    whole = log_of(World(SMALL), Fixed(World(SMALL)))[0]
    assert digest(log_of(World(SMALL), Fixed(World(SMALL)), group)[0]) == digest(whole)


def test_every_policy_meets_the_same_shoppers() -> None:
    logs = [log_of(World(SMALL), system)[0] for system in (Oracle(), Shuffle())]
    requests = [[event for event in log if event.type is EventType.REQUEST] for log in logs]
    assert requests[0] == requests[1]
    assert [event.ts for event in requests[0]] == sorted(event.ts for event in requests[0])


def test_an_item_is_answered_alike_wherever_it_is_shown_as_long_as_it_is_looked_at() -> None:
    world = World(replace(SMALL, manners=AnswerSettings(patience=1.0)))
    entry = CalendarEntry(world.end_ms, 3, 0, 11, 2, False)
    ids = list(world.item_ids[:10])
    told = [Shoppers(world).answer(entry, "r", order, entry.ts) for order in (ids, ids[::-1])]
    answers = [Counter((event.type, event.item_id) for event in answer.events) for answer in told]
    assert answers[0] == answers[1]
    assert told[0].looked == 10
    assert told[0].realised == told[1].realised


def test_the_oracle_has_no_regret_and_nobody_exceeds_it() -> None:
    for system in (Oracle(), Shuffle(), Fixed(World(SMALL))):
        episode = simulate(World(SMALL), system)
        assert (episode.regret >= -1e-12).all()
        if isinstance(system, Oracle):
            assert episode.regret == pytest.approx(0)


def test_chance_earns_less_than_popularity_and_popularity_less_than_the_truth() -> None:
    shuffle, fixed, oracle = (
        simulate(World(SMALL), system).expected.mean() for system in (Shuffle(), Fixed(World(SMALL)), Oracle())
    )
    assert 2 * shuffle < fixed < oracle / 1.5


def test_what_shoppers_give_is_what_was_expected_on_average() -> None:
    many = replace(SMALL, traffic=TrafficSettings(requests=1_200, hours=20.0))
    episode = simulate(World(many), Oracle())
    error = (episode.realised - episode.expected).std() / np.sqrt(len(episode.ts))
    assert abs(episode.realised.mean() - episode.expected.mean()) < 4 * error
    assert 0 < error < 0.08


def test_decent_items_are_clicked_by_some_and_the_very_best_by_many() -> None:
    world = World(WorldSettings(seed=3))
    pulls = np.array([world.pull(shopper, -1, world.end_ms, []) for shopper in range(500)])
    clicked = 1 / (1 + np.exp(-pulls))
    popular = np.argsort(-clicked.mean(0))[:10]
    assert 0.05 < clicked[:, popular].mean() < 0.15
    assert clicked.mean() < 0.04


# Looking and answering


def clicks_by_position(log: Sequence[Event], kind: EventType) -> list[int]:
    counts = Counter(event.position for event in log if event.type is kind and event.rec_id is not None)
    return [counts[position] for position in range(1, 11)]


def test_places_are_looked_at_from_the_top_with_constant_patience() -> None:
    log, episode = log_of(
        World(replace(SMALL, traffic=TrafficSettings(requests=1_500, hours=20.0, lost=0.0))), Shuffle()
    )
    looks = clicks_by_position(log, EventType.IMPRESSION)
    assert looks[0] == 1_500
    expected = 1_500 * 0.85 ** np.arange(10)
    assert np.abs(looks - expected).max() < 4 * np.sqrt(1_500 * 0.25)
    assert sum(looks) == episode.looked.sum()
    clicks = clicks_by_position(log, EventType.CLICK)
    assert sum(clicks[:3]) > 1.5 * sum(clicks[7:])  # evenly shown, so only the place makes the difference


def test_answers_name_the_slate_and_come_after_it() -> None:
    log, _ = log_of(World(SMALL), Oracle())
    asked = {f"slate-{event.event_id}": event for event in log if event.type is EventType.REQUEST}
    answers = [event for event in log if event.rec_id is not None]
    assert {event.type for event in answers} >= {
        EventType.IMPRESSION,
        EventType.CLICK,
        EventType.ADD_TO_CART,
        EventType.PURCHASE,
        EventType.SKIP,
    }
    for event in answers:
        request = asked[event.rec_id or ""]
        assert event.ts >= request.ts + FIRST_LOOK_MS
        assert (event.user_id, event.session_id) == (request.user_id, request.session_id)
    assert len({event.event_id for event in log}) == len(log)
    assert [event.ts for event in log] == sorted(event.ts for event in log)
    assert all((event.context or {}).get("category") for event in log if event.item_id is not None)


def test_purchases_come_minutes_later_but_within_the_hour() -> None:
    log, _ = log_of(World(replace(SMALL, traffic=TrafficSettings(requests=800, hours=12.0))), Oracle())
    clicked = {(event.rec_id, event.item_id): event.ts for event in log if event.type is EventType.CLICK}
    waits_s = [
        (event.ts - clicked[event.rec_id, event.item_id]) / 1000 for event in log if event.type is EventType.PURCHASE
    ]
    assert len(waits_s) > 60
    assert min(waits_s) >= 120
    assert max(waits_s) <= 3_000
    assert 120 + 480 < np.mean(waits_s) < 120 + 850


def test_without_impressions_only_answers_tell_of_a_look() -> None:
    told, _ = log_of(World(SMALL), Oracle())
    untold, _ = log_of(World(replace(SMALL, manners=AnswerSettings(impressions=False))), Oracle())
    assert [event for event in told if event.type is not EventType.IMPRESSION] == untold


def test_a_silent_session_sends_requests_and_nothing_else_from_then_on() -> None:
    lost = replace(SMALL, traffic=TrafficSettings(requests=400, hours=6.0, lost=1.0))
    log, episode = log_of(World(lost), Oracle())
    full, _ = log_of(World(SMALL), Oracle())
    assert len(log) < 0.7 * len(full)
    assert episode.answered.all()
    entries = calendar(World(lost))
    asked = entries.kind == EntryKind.REQUEST
    silent = {f"{s}-{t}" for s, t in zip(entries.shopper[asked], entries.step[asked], strict=True)} - {
        f"{s}-{t}"
        for s, t, quiet in zip(entries.shopper[asked], entries.step[asked], entries.silent[asked], strict=True)
        if not quiet
    }
    assert silent
    assert not [event for event in log if event.rec_id is not None and event.rec_id.removeprefix("slate-") in silent]


def test_what_was_bought_is_wanted_less() -> None:
    world = World(SMALL)
    before, after = (world.pull(5, 1, world.end_ms, bought) for bought in ([], [17]))
    assert before[17] - after[17] == pytest.approx(world.settings.pull.sated)
    assert (np.delete(before, 17) == np.delete(after, 17)).all()


# Time


def test_new_items_are_not_on_sale_before_their_time() -> None:
    world = World(SMALL)
    late = world.released_ms > world.start_ms
    assert 0.05 < late.mean() < 0.4
    assert np.isneginf(world.pull(0, 0, world.start_ms, [])[late]).all()
    log, _ = log_of(world, Shuffle())
    assert all(world.released_ms[world.index[event.item_id]] <= event.ts for event in log if event.item_id is not None)


@pytest.mark.parametrize("kind", DriftKind)
def test_a_drift_changes_what_it_says_and_only_then(kind: DriftKind) -> None:
    still, moved = World(SMALL), World(replace(SMALL, drift=DriftSettings(kind, 0.5)))
    assert moved.drift_ms is not None
    before, after = moved.drift_ms - 1, moved.drift_ms
    assert (moved.pull(4, 0, before, []) == still.pull(4, 0, before, [])).all()
    assert not np.allclose(
        moved.pull(4, 0, after, [])[moved.released_ms <= after], still.pull(4, 0, after, [])[moved.released_ms <= after]
    )
    turned = np.abs((moved.taste * moved.later_taste).sum(1))
    assert (turned < 1e-9).all() == (kind is not DriftKind.POPULARITY)
    shifted = (moved.appeal != moved.later_appeal).mean()
    assert (0.3 < shifted < 0.7) == (kind is not DriftKind.TASTES)


def test_sessions_of_a_shopper_do_not_overlap_and_requests_are_as_many_as_asked_for() -> None:
    entries = calendar(World(WorldSettings(seed=2)))
    asked = entries.kind == EntryKind.REQUEST
    assert asked.sum() == 6_000
    hours = (entries.ts[-1] - entries.ts[0]) / 3_600_000
    assert 40 < hours < 56
    order = np.lexsort((entries.ts, entries.shopper))
    sessions, shoppers = entries.session[order], entries.shopper[order]
    assert (np.diff(sessions)[np.diff(shoppers) == 0] >= 0).all()
    per_session = asked.sum() / len(
        {*zip(entries.shopper[asked].tolist(), entries.session[asked].tolist(), strict=True)}
    )
    assert 2.5 < per_session < 3.2


def test_bots_hammer_a_few_items_and_never_ask() -> None:
    log, _ = log_of(World(replace(SMALL, crowd=CrowdSettings(shoppers=60, bots=2))), Shuffle())
    bots = [event for event in log if event.user_id.startswith("bot-")]
    assert len(bots) > 500
    assert {event.type for event in bots} == {EventType.CLICK}
    assert len({event.item_id for event in bots}) <= 6
    honest = [event for event in log if not event.user_id.startswith("bot-")]
    assert digest(honest) == digest(log_of(World(SMALL), Shuffle())[0])
