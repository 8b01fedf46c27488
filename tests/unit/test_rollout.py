"""Who gets which policy: even, steady and independent splits, and plans that fit together."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from streamrec.engine.rollout.plan import CANARY, CONTROL, Decision, Plan, place
from streamrec.engine.rollout.revisions import Mode, Revision
from streamrec.errors import ConfigError

USERS = [f"user-{number}" for number in range(20_000)]
UNLIKELY = 1e-4  # the hashes are fixed, so a test passes or fails for ever


def test_places_are_spread_evenly_and_stay() -> None:
    counts, _ = np.histogram([place("streamrec", user) for user in USERS], bins=50, range=(0, 1))
    assert stats.chisquare(counts).pvalue > UNLIKELY
    assert counts.sum() == len(USERS)
    assert place("streamrec", "user-7") == pytest.approx(0.5308376, abs=1e-7)  # on every machine, in every version


def test_places_by_different_salts_have_nothing_to_do_with_each_other() -> None:
    pairs = [(int(place("spring", user) * 6), int(place("summer", user) * 6)) for user in USERS]
    table = np.zeros((6, 6))
    np.add.at(table, tuple(np.array(pairs).T), 1)
    assert stats.chi2_contingency(table).pvalue > UNLIKELY


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_place_is_a_place(salt: str, user: str) -> None:
    assert 0 <= place(salt, user) < 1


@pytest.mark.parametrize(
    "shares",
    [
        [0.2],
        [0.2, 0.3],
        [0.6, 0.4],
        [0.6, 0.1, 0.1],
        [0.3, 0.3, 0.3],
        [0.33, 0.33, 0.34],
        [0.05] * 19,
        [0.9, 0.01, 0.08],
    ],
    ids=str,
)
def test_arms_get_their_shares(shares: list[float]) -> None:
    plan = Plan("greedy", arms=tuple((f"model:m{number}", share) for number, share in enumerate(shares)))
    arms = [plan.decide(user).arm for user in USERS]
    counts = [arms.count(name) for name in (*(name for name, _ in plan.arms), None)]
    expected = np.array([*shares, 1 - sum(shares)]) * len(USERS)
    some = expected > 0.5
    assert stats.chisquare(np.array(counts)[some], expected[some]).pvalue > UNLIKELY
    assert not np.array(counts)[~some].any()


def test_raising_the_share_of_a_canary_moves_users_into_it_and_none_out() -> None:
    before = {share: _arm_of(Plan("greedy", Mode.CANARY, share=share), CANARY) for share in (0.0, 0.05, 0.2, 0.6, 1.0)}
    sets = list(before.values())
    assert all(smaller < larger for smaller, larger in pairwise(sets))
    assert sets[0] == set()
    assert sets[-1] == set(USERS)


@st.composite
def changed_arms(draw: st.DrawFn) -> tuple[dict[str, float], dict[str, float], str]:
    """Arms that have room, the same with one that is larger, smaller, new or gone, and which one."""
    count = draw(st.integers(1, 8))
    room = 10_000 if count == 1 else 5_000 >> (count - 1).bit_length() - 1  # the even part of 2, 4 or 8
    parts = draw(st.lists(st.integers(0, room), min_size=count, max_size=count))
    if count == 2:  # they need no even part, only each other's rest
        parts[0] = draw(st.integers(0, 10_000 - parts[1]))
    before = {f"model:m{number}": part / 10_000 for number, part in enumerate(parts)}
    name = draw(st.sampled_from(list(before)))
    most = 10_000 - parts[1 - list(before).index(name)] if count == 2 else room
    after = {**before, name: draw(st.integers(0, most)) / 10_000}
    if after[name] == 0 and name == list(before)[-1] and draw(st.booleans()):
        del after[name]  # the last arm may go; an arm before it that is to end gets a share of 0
    return (after, before, name) if draw(st.booleans()) else (before, after, name)


@given(changed_arms())
def test_a_changed_arm_moves_users_between_it_and_those_in_none_alone(
    change: tuple[dict[str, float], dict[str, float], str],
) -> None:
    before, after, changed = change
    first, second = (Plan("greedy", arms=tuple(arms.items())) for arms in (before, after))
    moves = {(first.decide(user).arm, second.decide(user).arm) for user in USERS[:1_000]}
    moves = {(one, other) for one, other in moves if one != other}
    assert moves <= {(changed, None), (None, changed)}
    grows = after.get(changed, 0.0) > before.get(changed, 0.0)
    assert not moves & {(changed, None) if grows else (None, changed)}


def test_the_winner_of_three_takes_all_that_are_in_no_arm_and_nobody_else() -> None:
    small = Plan("greedy", arms=(("linucb", 0.1), ("uniform", 0.1), ("exp3", 0.1)))
    large = Plan("greedy", arms=(("linucb", 0.8), ("uniform", 0.1), ("exp3", 0.1)))
    assert _arm_of(small, "linucb") < _arm_of(large, "linucb")
    for other in ("uniform", "exp3"):
        assert _arm_of(small, other) == _arm_of(large, other)


def test_an_arm_of_no_share_keeps_its_place_and_is_not_asked() -> None:
    ended = Plan("greedy", arms=(("linucb", 0.0), ("uniform", 0.2)))
    assert ended.policies() == ("greedy", "uniform")
    assert _arm_of(ended, "uniform") == _arm_of(Plan("greedy", arms=(("linucb", 0.3), ("uniform", 0.2))), "uniform")
    assert _arm_of(ended, "linucb") == set()


def _arm_of(plan: Plan, arm: str) -> set[str]:
    return {user for user in USERS if plan.decide(user).arm == arm}


def test_online_everybody_gets_the_policy() -> None:
    plan = Plan("greedy", evaluate=("uniform", "greedy"))
    assert plan.decide("ann") == Decision("greedy", Mode.ONLINE, beside=("uniform",))
    assert plan.policies() == ("greedy", "uniform")


def test_in_an_experiment_an_arm_gets_its_policy_and_the_rest_the_usual_one() -> None:
    plan = Plan("greedy", arms=(("uniform", 0.5),), evaluate=("uniform",))
    decisions = {plan.decide(user) for user in USERS[:50]}
    assert decisions == {
        Decision("uniform", Mode.ONLINE, arm="uniform"),
        Decision("greedy", Mode.ONLINE, beside=("uniform",)),
    }


def test_interleaved_everybody_gets_both() -> None:
    plan = Plan("greedy", interleave=("linucb", "uniform"), evaluate=("linucb", "greedy"))
    decision = plan.decide("ann")
    assert decision == Decision("linucb+uniform", Mode.ONLINE, None, ("linucb", "uniform"), ("greedy",))
    assert plan.policies() == ("linucb", "uniform", "greedy")


def test_a_canary_and_its_control_are_told_apart_and_what_the_policy_would_have_done_is_logged() -> None:
    plan = Plan("greedy", Mode.CANARY, "uniform", share=0.5)
    assert {plan.decide(user) for user in USERS[:50]} == {
        Decision("greedy", Mode.CANARY, CANARY),
        Decision("uniform", Mode.CANARY, CONTROL, beside=("greedy",)),
    }


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.APPRENTICE])
def test_in_the_shadow_the_baseline_answers_and_the_policy_is_logged(mode: Mode) -> None:
    plan = Plan("greedy", mode, "uniform", evaluate=("linucb", "uniform"))
    assert plan.decide("ann") == Decision("uniform", mode, beside=("greedy", "linucb"))
    assert set(plan.policies()) == {"greedy", "uniform", "linucb"}


@pytest.mark.parametrize(
    "plan",
    [
        Plan("greedy", evaluate=("uniform",)),
        Plan("greedy", arms=(("uniform", 0.3), ("linucb", 0.3)), evaluate=("exp3",)),
        Plan("greedy", interleave=("exp3", "uniform"), evaluate=("linucb",)),
        *(Plan("greedy", mode, "uniform", 0.5, evaluate=("exp3",)) for mode in Mode),
    ],
)
def test_every_policy_that_is_asked_is_listed_once_and_none_is_logged_beside_itself(plan: Plan) -> None:
    listed = plan.policies()
    for user in USERS[:200]:
        decision = plan.decide(user)
        making = decision.interleaved or (decision.publish,)
        assert {*making, *decision.beside} <= set(listed)
        assert not set(making) & set(decision.beside)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"arms": (("uniform", 0.6), ("linucb", 0.6))}, r"arms are 1.2 together \(uniform 0.6, linucb 0.6\)"),
        ({"arms": (("uniform", -0.1),)}, r"rollout.arms.uniform is -0.1, expected 0 to 1"),
        ({"arms": (("uniform", 0.00002),)}, "rollout.arms.uniform is 2e-05, expected 0 or at least 0.0001"),
        ({"share": 1.5}, "rollout.share is 1.5, expected 0 to 1"),
        ({"interleave": ("uniform",)}, "interleave is uniform, expected two different policies"),
        ({"interleave": ("uniform", "uniform")}, "expected two different policies"),
        ({"interleave": ("a", "b", "c")}, "interleave is a, b, c, expected two"),
        ({"interleave": ("uniform", "linucb"), "arms": (("uniform", 0.1),)}, "are both set"),
        ({"mode": Mode.CANARY, "arms": (("uniform", 0.1),)}, "arms is set and rollout.mode is 'canary'"),
        ({"mode": Mode.SHADOW, "baseline": "greedy"}, "both 'greedy' and rollout.mode is 'shadow'"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Plan("greedy", **wrong)


def test_ten_arms_of_a_tenth_are_everybody() -> None:
    assert Plan("greedy", arms=tuple((f"model:m{number}", 0.1) for number in range(10))).decide("ann").arm


def test_a_plan_is_made_from_a_revision() -> None:
    revision = Revision(
        number=3, ts=0, mode=Mode.ONLINE, policy="greedy", baseline="uniform", share=0.2, arms={"exp3": 0.3}, salt="x"
    )
    made = Plan("greedy", Mode.ONLINE, "uniform", 0.2, (("exp3", 0.3),), (), "x", ("linucb",))
    assert Plan.of(revision, ("linucb",)) == made
