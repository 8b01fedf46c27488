"""What a shadow is worth by its baseline's slates: right where the log can tell, and said where it cannot."""

from __future__ import annotations

import random

import msgspec
import pytest

from streamrec.cli.shared.appraisal import appraise
from streamrec.evaluation.experiments.gates import Thresholds, shadow_gate
from streamrec.events import Counterfactual, EventType, Outcome, Proposal

WORTH = {"good": 0.5, "fair": 0.2, "poor": 0.1}


def logged(baseline: dict[str, float], policy: dict[str, float], slates: int, seed: int = 1) -> list[Outcome]:
    """Slates of two places, the first drawn by the baseline; a reward of 1 comes as often as the item is worth."""
    draw, outcomes = random.Random(seed), []
    for number in range(slates):
        first = draw.choices(list(baseline), list(baseline.values()))[0]
        for position, item in ((1, first), (2, "other")):
            reward = float(draw.random() < WORTH.get(item, 0.9))
            chance = policy.get(item, 0.0) if position == 1 else 1.0
            proposal = Proposal(item_id="good", score=1.0)
            outcomes.append(
                Outcome(
                    outcome_id=f"t-0-{number}-{position}",
                    rec_id=f"t-0-{number}",
                    user_id=f"u{number % 400}",
                    item_id=item,
                    position=position,
                    propensity=baseline.get(item, 1.0),
                    reward=reward,
                    ts=number,
                    type=EventType.CLICK if reward else None,
                    shown_ts=1 + number,
                    mode="shadow",
                    alternatives={"greedy": Counterfactual(propensity=chance, proposal=proposal)},
                )
            )
    return outcomes


def test_the_value_of_the_first_place_is_found_from_the_slates_of_another() -> None:
    baseline, policy = {"good": 0.2, "fair": 0.4, "poor": 0.4}, {"good": 0.8, "fair": 0.1, "poor": 0.1}
    found = appraise(logged(baseline, policy, 4_000), "greedy")
    assert found is not None
    true = sum(policy[item] * WORTH[item] for item in policy)
    assert found.estimate == pytest.approx(true, abs=0.04)
    assert found.lower < true
    assert found.baseline == pytest.approx(sum(baseline[item] * WORTH[item] for item in baseline), abs=0.03)
    assert found.support == pytest.approx(1.0, abs=0.05)
    assert 200 < found.rewarded <= 400  # users
    assert found.slates == 4_000
    assert shadow_gate(found, Thresholds()).passed


def test_a_policy_that_does_what_the_baseline_never_does_stays_in_the_shadow() -> None:
    found = appraise(logged({"fair": 0.5, "poor": 0.5}, {"good": 0.9, "fair": 0.1}, 2_000), "greedy")
    assert found is not None
    assert found.support == pytest.approx(0.1, abs=0.03)
    gate = shadow_gate(found, Thresholds())
    assert not gate.passed
    assert "support" in {check.name for check in gate.refusals}


def test_many_slates_of_which_hardly_any_was_rewarded_are_few() -> None:
    baseline, policy = {"good": 0.2, "fair": 0.4, "poor": 0.4}, {"good": 0.4, "fair": 0.3, "poor": 0.3}
    outcomes = logged(baseline, policy, 4_000)
    kept = {outcome.rec_id for outcome in outcomes if outcome.position == 1 and outcome.reward}
    last_paid = {rec_id for rec_id in kept if int(rec_id.rpartition("-")[2]) < 200}
    rare = [msgspec.structs.replace(one, reward=one.reward * (one.rec_id in last_paid)) for one in outcomes]
    found = appraise(rare, "greedy")
    assert found is not None
    assert found.slates == 4_000
    assert 20 < len(last_paid) < 50
    assert found.rewarded < len(last_paid)
    assert "rewarded" in {check.name for check in shadow_gate(found, Thresholds(tolerance=9.0)).refusals}


def test_a_worse_policy_stays_in_the_shadow_and_an_unknown_one_too() -> None:
    baseline = {"good": 0.6, "fair": 0.2, "poor": 0.2}
    worse = appraise(logged(baseline, {"good": 0.1, "fair": 0.1, "poor": 0.8}, 3_000), "greedy")
    assert worse is not None
    assert {check.name for check in shadow_gate(worse, Thresholds()).refusals} == {"value_lower"}
    assert appraise(logged(baseline, baseline, 50), "linucb") is None
    assert appraise([], "greedy") is None
    assert not shadow_gate(None, Thresholds()).passed
