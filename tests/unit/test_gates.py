"""Gates open on what was shown, and say what fell short of what."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from streamrec.evaluation.experiments.arms import (
    DAY_MS,
    DEFAULT_DESIGN,
    Arm,
    Comparison,
    Experiment,
    ExperimentDesign,
    IntervalsOverTime,
    SequenceMethod,
    analyse,
)
from streamrec.evaluation.experiments.confidence import MeanInterval
from streamrec.evaluation.experiments.gates import (
    OffPolicyEstimate,
    Thresholds,
    apprentice_gate,
    canary_gate,
    larger_canary_gate,
    shadow_gate,
)
from streamrec.evaluation.experiments.imitation import Imitation
from streamrec.evaluation.experiments.significance import Significance, Verdict
from streamrec.evaluation.experiments.slates import SettledSlates
from streamrec.events import Outcome

ASKED = Thresholds()
NOTHING = np.zeros(0)
GOOD = OffPolicyEstimate("greedy", estimate=0.12, lower=0.097, baseline=0.1, rewarded=900, support=0.99, slates=4_000)


def alike(rate: float, slates: int) -> Imitation:
    return Imitation("greedy", slates, MeanInterval(rate, rate - 0.05, rate + 0.05), 0.9, 10)


def experiment(lower: float, upper: float, canary: int = 600, control: int = 9_000) -> Experiment:
    came = np.arange(100) * DAY_MS // 25  # 25 a day in each arm
    trace = IntervalsOverTime(came, NOTHING, NOTHING, NOTHING)
    arms = tuple(
        Arm(name, ("greedy",), users, 0, 3 * users, 0.1, 0.2, MeanInterval(0.1, 0.0, 0.2), trace)
        for name, users in (("control", control), ("canary", canary))
    )
    apart = MeanInterval((lower + upper) / 2, lower, upper)

    def margin(times: float) -> float:
        return (upper - lower) / 2 / math.sqrt(times)

    return Experiment(arms, (Comparison("canary", "control", apart, margin, Significance(Verdict.UNKNOWN)),), 0)


def test_an_apprentice_passes_when_it_does_as_it_is_shown_often_enough() -> None:
    gate = apprentice_gate(alike(0.85, 500), ASKED)
    assert gate.passed
    assert gate.figures == {"slates": 500, "match_rate": 0.85}


@pytest.mark.parametrize(
    ("rate", "slates", "reason"),
    [
        (0.7, 600, "the share of slates that greedy would have begun alike is 0.7, expected at least 0.8"),
        (0.9, 499, "the number of slates to compare is 499, expected at least 500"),
        (math.nan, 0, "would have begun alike is unknown, expected at least 0.8"),
    ],
)
def test_an_apprentice_that_falls_short_is_told_where(rate: float, slates: int, reason: str) -> None:
    gate = apprentice_gate(alike(rate, slates), ASKED)
    assert not gate.passed
    assert reason in "; ".join(map(str, gate.refusals))


def test_a_shadow_passes_when_it_is_surely_not_much_below_the_baseline() -> None:
    assert shadow_gate(GOOD, ASKED).passed
    assert shadow_gate(replace(GOOD, lower=0.095), ASKED).passed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lower": 0.094}, r"greedy's value (estimate 0.12, baseline 0.1) is 0.094, expected at least 0.095"),
        ({"rewarded": 46}, "users whose rewards the estimate rests on, in equal ones, is 46, expected at least 50"),
        ({"support": 0.4}, "greedy's choices that the baseline makes at times is 0.4, expected at least 0.9"),
        ({"slates": 20}, "the estimate is from is 20, expected at least 500"),
        ({"lower": math.nan}, "is unknown, expected at least 0.095"),
    ],
)
def test_a_shadow_that_falls_short_is_told_where(change: dict[str, float], reason: str) -> None:
    gate = shadow_gate(replace(GOOD, **change), ASKED)  # type: ignore[arg-type]
    assert len(gate.refusals) == 1
    assert reason in str(gate.refusals[0])


def test_the_tolerance_of_a_baseline_below_nothing_still_is_a_tolerance() -> None:
    value = replace(GOOD, baseline=-0.1, lower=-0.104)
    assert shadow_gate(value, ASKED).passed
    assert not shadow_gate(replace(value, lower=-0.106), ASKED).passed


def test_without_an_estimate_a_shadow_stays_one() -> None:
    gate = shadow_gate(None, ASKED)
    assert not gate.passed
    assert "is unknown" in str(gate.refusals[-1])
    assert all(math.isfinite(value) for value in gate.figures.values())


@pytest.mark.parametrize(("lower", "passes"), [(-0.009, True), (0.02, True), (-0.01, False), (-0.3, False)])
def test_a_canary_goes_online_when_it_is_surely_not_worse_by_the_margin(lower: float, passes: bool) -> None:
    assert canary_gate(experiment(lower, 0.3), ASKED).passed is passes


def test_a_canary_needs_users_in_both_arms() -> None:
    gate = canary_gate(experiment(0.01, 0.1, canary=499), ASKED)
    assert [str(check) for check in gate.refusals] == [
        "the number of users of arm canary whose window is over is 499, expected at least 500"
    ]
    nobody = canary_gate(Experiment((), (), 0), ASKED)
    assert len(nobody.refusals) == 3
    assert nobody.figures == {"canary_users": 0, "control_users": 0}
    assert nobody.needs == ()


def test_a_canary_may_grow_unless_it_is_known_to_be_worse() -> None:
    assert larger_canary_gate(experiment(-0.3, 0.01), ASKED).passed
    gate = larger_canary_gate(experiment(-0.3, -0.01), ASKED)
    assert "upper bound of canary minus control, in capped reward per slate, is -0.01, expected at least 0" in str(
        gate.refusals[0]
    )


def test_thresholds_can_be_changed() -> None:
    asked = ASKED.with_changes({"match_rate": 0.6, "min_slates": 10})
    assert apprentice_gate(alike(0.61, 10), asked).passed


def test_a_shut_gate_says_how_many_users_and_days_it_takes() -> None:
    gate = canary_gate(experiment(-0.02, 0.04, canary=1_000, control=1_040), ASKED)
    # To shrink from 0.03 to 0.02 takes 2.25 times as many as now, to 0.01 nine times.
    assert [str(need) for need in gate.needs] == [
        "if the difference stays +0.01: about 2,600 more users in both arms, 52 days at the last day's rate",
        "if there is no difference: about 17,000 more users in both arms, 340 days at the last day's rate",
    ]
    worse = canary_gate(experiment(-0.05, 0.01, canary=1_000, control=1_000), ASKED)
    assert str(worse.needs[0]) == "if the difference stays -0.02: no number of users is enough"
    few = canary_gate(experiment(-0.02, 0.3, canary=100, control=100), ASKED)
    assert few.needs[0].users == 800  # the least that are asked for; the interval needs fewer
    unbounded = canary_gate(experiment(-math.inf, math.inf, canary=50, control=200), ASKED)
    assert [str(need) for need in unbounded.needs] == [
        "before anything can be said: about 2,300 more users in both arms, 46 days at the last day's rate"
    ]
    assert canary_gate(experiment(-0.005, 0.3), ASKED).needs == ()


Simulated = Callable[[int], Experiment]


def simulated(seed: int, lift: float, design: ExperimentDesign = DEFAULT_DESIGN) -> Simulated:
    """Users of two arms, one slate each, a tenth of which are rewarded, or times `lift` in the canary; by how many."""
    draw = np.random.default_rng(seed)
    users = [(arm, draw.random(20_000) < 0.1 * times) for arm, times in (("control", 1.0), ("canary", lift))]

    def first(count: int) -> Experiment:
        settled = SettledSlates(design.bound)
        for arm, rewarded in users:
            for number, reward in enumerate(rewarded[:count].tolist()):
                settled.add(shown(f"{arm}-{number}", arm, float(reward), number * 60_000))
        settled.newest[0] += design.window_ms  # everybody's window is over
        return analyse(settled, design, ("control",))

    return first


def shown(name: str, arm: str, reward: float, ts: int) -> Outcome:
    return Outcome(
        outcome_id=name,
        rec_id=name,
        user_id=name,
        item_id="a",
        position=1,
        propensity=1.0,
        reward=reward,
        ts=ts,
        shown_ts=ts,
        mode="canary",
        arm=arm,
        policy="greedy",
    )


def test_a_canary_twice_as_good_goes_online_and_one_that_is_the_same_is_not_called_better() -> None:
    opened = [canary_gate(simulated(seed, 2.0)(800), ASKED).passed for seed in range(20)]
    assert sum(opened) >= 19
    same = [simulated(100 + seed, 1.0)(800) for seed in range(100)]
    assert not any(canary_gate(one, ASKED).passed for one in same)
    assert all(one.comparisons[0].significance.decision is Verdict.UNKNOWN for one in same)


@pytest.mark.parametrize(("method", "least", "most"), [("asymptotic", 4_000, 6_500), ("bounded", 10_000, 18_000)])
def test_as_many_users_as_were_asked_for_are_about_enough(method: str, least: int, most: int) -> None:
    users = simulated(7, 1.0, ExperimentDesign(method=SequenceMethod(method)))
    asked = ASKED.with_changes({"margin": 0.02})
    alike = canary_gate(users(1_000), asked).needs[1]
    assert alike.users is not None
    needed = 1_000 + alike.users // 2
    assert least < needed < most
    (compared,) = users(needed).comparisons
    assert compared.margin(1.0) == pytest.approx(0.02, rel=0.1)
