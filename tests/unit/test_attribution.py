"""A click is owed to the slate that showed the item, within the window, and to no other."""

from __future__ import annotations

import pytest

from streamrec.arrivals import Arrival
from streamrec.attribution import REWARDS, Attribution
from streamrec.events import EVENT_TYPES, Event, EventType, Outcome, Slate, SlateItem

SHOWN = 1_700_000_000_000
WINDOW_S = 600.0


def slate(user: str = "u", rec_id: str = "0-10", items: str = "abc", ts: int = SHOWN) -> Slate:
    places = tuple(
        SlateItem(item_id=item, position=at + 1, score=1.0, propensity=0.5 / (at + 1), shares={})
        for at, item in enumerate(items)
    )
    return Slate(rec_id=rec_id, user_id=user, ts=ts, items=places, policy="thompson", version="1", candidates=9)


def answered(*slates: Slate, capacity: int = 10) -> Attribution:
    attribution = Attribution(WINDOW_S, capacity)
    for one in slates:
        attribution.shown(0, one)
    return attribution


def follow(
    attribution: Attribution,
    item: str | None = "b",
    kind: EventType = EventType.CLICK,
    *,
    user: str = "u",
    ts: int = SHOWN + 1_000,
    rec_id: str | None = None,
    partition: int = 0,
) -> Outcome | None:
    event = Event(type=kind, user_id=user, item_id=item, ts=ts, rec_id=rec_id)
    return attribution.outcome(Arrival(event, partition, 77))


def test_an_outcome_carries_the_place_and_the_propensity_of_what_was_shown() -> None:
    outcome = follow(answered(slate()))
    assert outcome == Outcome(
        outcome_id="user-events-0-77", rec_id="0-10", user_id="u", item_id="b", position=2, propensity=0.25,
        reward=REWARDS[EventType.CLICK], type=EventType.CLICK, ts=SHOWN + 1_000,
    )  # fmt: skip


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_types_with_a_reward_have_outcomes_and_others_have_none(kind: EventType) -> None:
    outcome = follow(answered(slate()), kind=kind)
    assert (outcome is not None) == (kind in REWARDS)
    assert outcome is None or outcome.reward == REWARDS[kind]


def test_rewards_are_between_nothing_and_everything() -> None:
    assert all(0 <= reward <= 1 for reward in REWARDS.values())
    assert REWARDS[EventType.PURCHASE] > REWARDS[EventType.CLICK] > REWARDS[EventType.SKIP]


@pytest.mark.parametrize(
    ("ahead_ms", "credited"), [(0, True), (600_000, True), (600_001, False), (-1, False), (-600_000, False)]
)
def test_the_window_is_measured_in_the_logs_own_time(ahead_ms: int, credited: bool) -> None:
    assert (follow(answered(slate()), ts=SHOWN + ahead_ms) is not None) is credited


@pytest.mark.parametrize(("rec_id", "credited"), [("0-10", True), ("0-9", False), (None, True)])
def test_an_event_that_names_another_slate_is_owed_to_none(rec_id: str | None, credited: bool) -> None:
    assert (follow(answered(slate()), rec_id=rec_id) is not None) is credited


def test_items_that_were_not_shown_and_people_who_were_shown_nothing_have_no_outcome() -> None:
    attribution = answered(slate())
    assert follow(attribution, "z") is None
    assert follow(attribution, user="other") is None
    assert follow(attribution, partition=1) is None
    assert follow(attribution, None, EventType.REQUEST) is None


def test_the_latest_slate_is_the_one_that_counts() -> None:
    attribution = answered(slate(), slate(rec_id="0-20", items="cd", ts=SHOWN + 500))
    assert follow(attribution, "b") is None
    outcome = follow(attribution, "c")
    assert outcome is not None
    assert (outcome.rec_id, outcome.position) == ("0-20", 1)


def test_slates_survive_the_store() -> None:
    first = answered(slate(), slate("v", "0-11"))
    stored = first.take_changes(0)
    assert set(stored) == {"u", "v"}
    assert first.take_changes(0) == {}
    assert first.take_changes(1) == {}
    second = Attribution(WINDOW_S, 10)
    users = [(0, "u"), (0, "nobody")]
    assert second.missing(users) == users
    second.admit(users, [stored["u"], None])
    assert second.missing(users) == []
    assert follow(second) == follow(first)
    assert follow(second, user="nobody") is None
    assert second.take_changes(0) == {}  # what came from the store need not go back


def test_partitions_that_went_to_somebody_else_are_forgotten() -> None:
    attribution = answered(slate())
    attribution.shown(1, slate("w", "1-3"))
    attribution.drop([0])
    assert follow(attribution) is None
    assert attribution.take_changes(0) == {}
    assert follow(attribution, user="w", partition=1) is not None


def test_memory_is_bounded_and_what_is_not_stored_yet_stays() -> None:
    attribution = Attribution(WINDOW_S, 5)
    for number in range(40):
        if attribution.crowded(1):
            assert len(attribution.take_changes(0)) <= 5
        attribution.shown(0, slate(f"u{number}", f"0-{number}"))
        assert len(attribution._slates) <= 5
    changed = attribution.changed
    assert len(attribution.take_changes(0)) == changed > 0
    assert follow(attribution, user="u39") is not None
    assert follow(attribution, user="u0") is None
