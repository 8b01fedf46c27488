"""What later events say of a slate: credits, what was seen, and one outcome for each item that was."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.config.groups import Attribution
from streamrec.engine.attribution.attribution import (
    AttributionRules,
    OpenSlate,
    RewardRule,
    SeenRule,
    ServedSlate,
    closed,
)
from streamrec.events import (
    EVENT_TYPES,
    Alternative,
    Counterfactual,
    Event,
    EventType,
    Evidence,
    Proposal,
    Slate,
    SlateItem,
)

SHOWN = 1_700_000_000_000
WINDOW_MS = 600_000
VALUES = Attribution().values


def rules(seen: SeenRule = SeenRule.ALL, reward: RewardRule = RewardRule.MAX) -> AttributionRules:
    return AttributionRules(WINDOW_MS, seen, reward, VALUES)


def slate(user: str = "u", rec_id: str = "0-10", items: str = "abcd", ts: int = SHOWN, **more: object) -> Slate:
    places = tuple(
        SlateItem(
            item_id=item,
            position=at,
            score=float(-at),
            propensity=0.5 / at,
            shares={"covisit": 1.0},
            scores={"covisit": -at / 10},
            rank=at,
            team="greedy" if at % 2 else None,
        )
        for at, item in enumerate(items, 1)
    )
    given = {"policy": "plackett-luce", "version": "7", "candidates": 9} | more
    return Slate(rec_id=rec_id, user_id=user, ts=ts, items=places, **given)  # type: ignore[arg-type]


def served(items: int, context: int = 1) -> ServedSlate:
    features = np.arange(items * 3, dtype=np.float32).reshape(items, 3) / 8
    return ServedSlate(context, 7, features, {"clicks": np.arange(items * 2, dtype=np.int32).reshape(items, 2)})


def waiting(one: Slate | None = None) -> OpenSlate:
    shown = one or slate()
    return OpenSlate.of(shown, served(len(shown.items)))


def event(
    kind: EventType = EventType.CLICK,
    item: str = "b",
    after_ms: int = 1_000,
    rec_id: str | None = None,
    position: int | None = None,
) -> Event:
    return Event(type=kind, user_id="u", item_id=item, ts=SHOWN + after_ms, rec_id=rec_id, position=position)


def test_an_outcome_says_what_was_shown_where_how_likely_and_what_came() -> None:
    other = Alternative(
        propensities=(0.1, 0.2, 0.3, 0.4), proposals=(Proposal(item_id="z", score=1.0, scores={"covisit": -2.0}),)
    )
    open_slate = waiting(
        slate(scenario="cart", mode="canary", arm="control", estimated_from=64, alternatives={"greedy": other})
    )
    assert open_slate.credit(event(), rules())
    first, second, third, fourth = closed(open_slate, rules()).outcomes
    assert (second.outcome_id, second.rec_id, second.item_id, second.position) == ("0-10-2", "0-10", "b", 2)
    assert (second.propensity, second.score, second.scores) == (0.25, -2.0, {"covisit": -0.2})
    assert (second.reward, second.type, second.ts, second.shown_ts) == (0.2, EventType.CLICK, SHOWN + 1_000, SHOWN)
    assert (second.policy, second.version, second.scenario, second.candidates) == ("plackett-luce", "7", "cart", 9)
    assert (second.mode, second.arm, second.estimated_from) == ("canary", "control", 64)
    assert (first.team, second.team) == ("greedy", None)
    assert first.alternatives == {"greedy": Counterfactual(propensity=0.1, proposal=other.proposals[0])}
    assert fourth.alternatives == {"greedy": Counterfactual(propensity=0.4)}
    assert (first.reward, first.type, first.ts) == (third.reward, third.type, third.ts) == (0.0, None, SHOWN)


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_what_an_event_is_worth_is_configured_and_other_types_say_nothing(kind: EventType) -> None:
    open_slate = waiting()
    credited = open_slate.credit(event(kind), rules())
    assert credited == (kind in VALUES or kind is EventType.IMPRESSION)
    rewards = [outcome.reward for outcome in closed(open_slate, rules()).outcomes]
    assert rewards[:2] == [0.0, VALUES.get(kind, 0.0)]
    assert not any(rewards[2:])


def test_more_telling_events_are_worth_more_and_refusals_less_than_nothing() -> None:
    order = (EventType.VIEW, EventType.CLICK, EventType.ADD_TO_CART, EventType.PURCHASE)
    worth = [VALUES[kind] for kind in order]
    assert worth == sorted(worth)
    assert VALUES[EventType.DISLIKE] < VALUES[EventType.SKIP] < 0
    assert all(-1 <= value <= 1 for value in VALUES.values())


@pytest.mark.parametrize(
    ("after_ms", "concerned"), [(0, True), (WINDOW_MS, True), (WINDOW_MS + 1, False), (-1, False), (-WINDOW_MS, False)]
)
def test_the_window_is_measured_in_the_logs_own_time(after_ms: int, concerned: bool) -> None:
    assert waiting().concerned(event(after_ms=after_ms), rules()) is concerned


@pytest.mark.parametrize(("rec_id", "concerned"), [("0-10", True), ("0-9", False), (None, True)])
def test_an_event_that_names_another_slate_is_not_owed_to_this_one(rec_id: str | None, concerned: bool) -> None:
    assert waiting().concerned(event(rec_id=rec_id), rules()) is concerned


def test_an_item_that_was_not_shown_does_not_concern_a_slate() -> None:
    assert not waiting().concerned(event(item="z"), rules())
    assert not waiting().concerned(event(item="z", rec_id="0-10"), rules())


# Rewards


FOLLOWED = [
    event(EventType.CLICK, after_ms=2_000),
    event(EventType.PURCHASE, after_ms=9_000),
    event(EventType.VIEW, after_ms=1_000),
    event(EventType.DISLIKE, after_ms=12_000),
]


@pytest.mark.parametrize(
    ("reward", "worth", "kind"),
    [
        (RewardRule.FIRST, 0.1, EventType.VIEW),
        (RewardRule.MAX, 1.0, EventType.PURCHASE),
        (RewardRule.SUM, 0.8, EventType.PURCHASE),
    ],
)
def test_a_reward_does_not_depend_on_the_order_in_which_events_came(
    reward: RewardRule, worth: float, kind: EventType
) -> None:
    for order in permutations(FOLLOWED):
        open_slate = waiting()
        for one in order:
            assert open_slate.credit(one, rules(reward=reward))
        outcome = closed(open_slate, rules(reward=reward)).outcomes[1]
        assert (outcome.reward, outcome.type) == (worth, kind)


def test_a_sum_stays_within_bounds_and_a_refusal_counts_for_more_than_a_click() -> None:
    rich, poor, torn = waiting(), waiting(), waiting()
    for after_ms in range(5):
        rich.credit(event(EventType.PURCHASE, after_ms=after_ms), rules())
        poor.credit(event(EventType.DISLIKE, after_ms=after_ms), rules())
    torn.credit(event(EventType.CLICK), rules())
    torn.credit(event(EventType.DISLIKE), rules())
    assert closed(rich, rules(reward=RewardRule.SUM)).outcomes[1].reward == 1.0
    assert closed(poor, rules(reward=RewardRule.SUM)).outcomes[1].reward == -1.0
    assert closed(torn, rules()).outcomes[1].reward == VALUES[EventType.DISLIKE]


# What was seen


def depth(seen: SeenRule, *events: Event) -> int:
    open_slate = waiting()
    for one in events:
        open_slate.credit(one, rules(seen))
    return len(closed(open_slate, rules(seen)).outcomes)


@pytest.mark.parametrize(
    ("seen", "nothing", "clicked"), [(SeenRule.ALL, 4, 4), (SeenRule.RESPONSES, 0, 2), (SeenRule.IMPRESSIONS, 0, 0)]
)
def test_without_impressions_a_stated_rule_says_what_was_seen(seen: SeenRule, nothing: int, clicked: int) -> None:
    assert depth(seen) == nothing
    assert depth(seen, event()) == clicked


@pytest.mark.parametrize("seen", SeenRule)
def test_impressions_say_what_was_seen_whatever_the_rule(seen: SeenRule) -> None:
    impression = event(EventType.IMPRESSION, "c")
    assert depth(seen, impression) == 3
    assert depth(seen, event(EventType.IMPRESSION, "a", position=2)) == 2
    assert depth(seen, event(EventType.IMPRESSION, "a", position=99)) == 4
    assert depth(seen, impression, event(item="d")) == 4  # who answers has seen it
    assert depth(seen, event(EventType.IMPRESSION, "a"), impression, event(EventType.IMPRESSION, "b")) == 3


def test_outcomes_say_how_it_is_known_that_an_item_was_seen() -> None:
    open_slate = waiting()
    assert {outcome.seen for outcome in closed(open_slate, rules()).outcomes} == {Evidence.ASSUMED}
    open_slate.credit(event(EventType.CLICK, "c"), rules())
    known = [outcome.seen for outcome in closed(open_slate, rules()).outcomes]
    assert known == [Evidence.RESPONSE] * 3 + [Evidence.ASSUMED]
    open_slate.credit(event(EventType.IMPRESSION, "b"), rules())
    known = [outcome.seen for outcome in closed(open_slate, rules()).outcomes]
    assert known == [Evidence.IMPRESSION, Evidence.IMPRESSION, Evidence.RESPONSE]


def test_a_slate_that_nobody_saw_gives_no_outcome_and_teaches_nothing() -> None:
    came = closed(waiting(), rules(SeenRule.IMPRESSIONS))
    assert came.outcomes == ()
    assert came.slate_feedback is None


def test_a_lesson_holds_what_was_known_of_what_was_seen() -> None:
    open_slate = waiting()
    open_slate.credit(event(EventType.IMPRESSION, "c"), rules())
    open_slate.credit(event(EventType.PURCHASE, "a"), rules())
    came = closed(open_slate, rules()).slate_feedback
    assert came is not None
    assert (came.policy, came.context, came.schema) == ("plackett-luce", 1, 7)
    assert (came.candidates, came.ts) == (9, SHOWN)
    assert came.features.tolist() == served(4).features[:3].tolist()
    assert came.traces["clicks"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert came.reward.tolist() == [1.0, 0.0, 0.0]
    assert came.propensity.tolist() == [0.5, 0.25, 0.5 / 3]


kinds = st.sampled_from([*VALUES, EventType.IMPRESSION, EventType.RATING])
followers = st.lists(
    st.tuples(kinds, st.sampled_from("abcdz"), st.integers(-1_000, WINDOW_MS + 1_000), st.sampled_from([None, "0-10"])),
    max_size=12,
)


@given(
    events=followers,
    order=st.randoms(use_true_random=False),
    seen=st.sampled_from(SeenRule),
    how=st.sampled_from(RewardRule),
)
def test_each_item_seen_gives_one_outcome_the_same_in_any_order(
    events: list[tuple[EventType, str, int, str | None]], order: object, seen: SeenRule, how: RewardRule
) -> None:
    def judged(some: list[tuple[EventType, str, int, str | None]]) -> object:
        open_slate = waiting()
        for kind, item, after_ms, rec_id in some:
            one = event(kind, item, after_ms, rec_id)
            if open_slate.concerned(one, rules(seen, how)):
                open_slate.credit(one, rules(seen, how))
        came = closed(open_slate, rules(seen, how))
        assert [outcome.position for outcome in came.outcomes] == list(range(1, len(came.outcomes) + 1))
        assert (came.slate_feedback is None) == (not came.outcomes)
        return came.outcomes

    shuffled = list(events)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert judged(events) == judged(shuffled)
