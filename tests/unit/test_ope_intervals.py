"""Intervals of off-policy estimates hold the true value as often as they say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from streamrec.errors import TableError
from streamrec.evaluation.ope import estimators
from streamrec.evaluation.ope.evaluation import EvaluationOptions, TargetLog, evaluate
from streamrec.evaluation.ope.intervals import bernstein, bootstrap
from streamrec.evaluation.ope.report import figures
from streamrec.evaluation.ope.reward_model import Features
from streamrec.evaluation.ope.rounds import Rounds
from streamrec.evaluation.ope.support import LogOrigin
from streamrec.evaluation.ope.synthetic import ActionWorld, SlateWorld
from streamrec.evaluation.ope.weights import importance_weights
from tools.benchmarks.coverage import coverage


@pytest.mark.parametrize("world", [ActionWorld.drawn(2, spread=0.7), SlateWorld.drawn(2)])
def test_an_interval_of_95_percent_holds_the_value_in_95_of_100_logs(world: ActionWorld | SlateWorld) -> None:
    found = coverage(world, slates=400, logs=500, draws=300)
    for name in ("ips", "snips", "dr"):
        assert 0.93 <= found[name].bootstrap <= 0.97, name
        assert found[name].bernstein >= 0.95, name
    assert found["dm"].bootstrap < 0.93  # its interval leaves out its bias, and says so


def log_of(rewards: np.ndarray, cluster: np.ndarray | None = None) -> Rounds:
    rows = len(rewards)
    return Rounds(np.arange(rows), rewards.astype(float), np.full(rows, 0.5), np.full(rows, 0.5), cluster)


def test_slates_of_a_user_that_are_drawn_together_make_the_interval_as_wide_as_users_differ() -> None:
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(100), 20)
    reward = (rng.random(2_000) < rng.choice([0.1, 0.9], 100)[user]).astype(float)
    widths = []
    for cluster in (None, user):
        data = log_of(reward, cluster)
        found = bootstrap(
            [estimators.snips(data, importance_weights(data)), estimators.ips(data, np.ones(2_000))],
            draws=500, level=0.95, seed=0, cluster=cluster,
        )  # fmt: skip
        widths.append([interval.high - interval.low for interval in found])
    by_slate, by_user = np.array(widths)
    of_means = 2 * 1.96 * reward.reshape(100, 20).mean(axis=1).std(ddof=1) / 10
    assert by_user == pytest.approx(of_means, rel=0.15)
    assert (by_user > 2 * by_slate).all()


def test_equal_seeds_give_equal_intervals_and_more_slates_narrower_ones() -> None:
    world = ActionWorld.drawn(2)
    data, _, _ = world.log(4_000, np.random.default_rng(0))
    few, _, _ = world.log(400, np.random.default_rng(0))

    def interval(rounds: Rounds, seed: int = 0) -> tuple[float, float]:
        found = bootstrap([estimators.ips(rounds, importance_weights(rounds))], draws=200, level=0.95, seed=seed)[0]
        return found.low, found.high

    assert interval(data) == interval(data)
    assert interval(data) != interval(data, seed=1)
    assert interval(data)[1] - interval(data)[0] < 0.5 * (interval(few)[1] - interval(few)[0])


def test_empirical_bernstein_is_the_published_formula() -> None:
    rewards = np.random.default_rng(0).random(200)
    data = log_of(rewards)
    estimator = estimators.ips(data, np.ones(200))
    log = np.log(2 / 0.025)  # half of 5% for each side
    span = rewards.max()  # from 0 to the largest reward seen
    half_width = np.sqrt(2 * rewards.var(ddof=1) * log / 200) + 7 * span * log / (3 * 199)
    found = bernstein(estimator, 0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(
        (rewards.mean() - half_width, rewards.mean() + half_width), abs=1e-12
    )


@pytest.mark.parametrize("propensity", [1e-5, 1e-20, 1e-38, 1e-300, 5e-324])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.filterwarnings("error")
def test_a_propensity_of_next_to_nothing_gives_estimates_that_are_named_as_impossible(
    propensity: float, steps: int
) -> None:
    rows = 40 * steps
    logged = np.full(rows, 0.5)
    logged[:steps] = propensity
    reward = np.tile([1.0, 0.0, 0.0, 0.0], rows // 4)
    code = np.column_stack([np.arange(rows) % 3])
    features = Features(np.empty((rows, 0)), code, (3,))
    rounds = Rounds(np.arange(rows) // steps, reward, logged, np.full(rows, 1 / 3))
    found = evaluate(TargetLog("t", rounds, LogOrigin("log"), features, features), EvaluationOptions(draws=50))
    values = {value.name: value for value in (found.logged, *found.values)}
    assert values["ips"].impossible
    assert values["dr"].impossible
    assert not values["logged"].impossible
    for value in values.values():
        assert value.impossible == (not 0.0 <= value.value <= steps)
        assert value.interval.low <= value.value <= value.interval.high
        assert value.bernstein is not None
        assert value.bernstein.low <= value.value <= value.bernstein.high
    json.dumps(figures(found), allow_nan=False)
    assert found.warnings[0].startswith("IPS, clipped IPS, ")
    assert f"not from 0 to {steps}, which is what a slate of this log can be worth" in found.warnings[0]


def test_a_reward_whose_square_is_no_number_is_refused() -> None:
    data = TargetLog("t", log_of(np.array([1e200, 0.0])), LogOrigin("log.csv"))
    with pytest.raises(TableError, match=r"log.csv: a reward is 1e\+200 from 0, expected at most 2\^63 - 1"):
        evaluate(data, EvaluationOptions(draws=20))


def test_a_log_without_rewards_has_an_interval_of_no_width_from_resampling_and_a_wide_one_from_bernstein() -> None:
    data = log_of(np.zeros(50))
    estimator = estimators.snips(data, importance_weights(data))
    found = bootstrap([estimator], draws=50, level=0.95, seed=0)[0]
    assert (found.low, found.high) == (0.0, 0.0)
