"""Intervals of off-policy estimates hold the true value as often as they say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from streamrec.errors import TableError
from streamrec.evaluation.ope import estimators, plots
from streamrec.evaluation.ope.evaluation import EvaluationOptions, TargetLog, evaluate
from streamrec.evaluation.ope.intervals import bernstein, bootstrap
from streamrec.evaluation.ope.report import figures
from streamrec.evaluation.ope.reward_model import Actions, Features
from streamrec.evaluation.ope.rounds import Rounds
from streamrec.evaluation.ope.support import LogOrigin
from streamrec.evaluation.ope.synthetic import ActionWorld, SlateWorld
from streamrec.evaluation.ope.weights import importance_weights
from tools.benchmarks.coverage import WORLDS, coverage


@pytest.mark.parametrize("world", [ActionWorld.drawn(2, spread=0.7), SlateWorld.drawn(2)])
def test_an_interval_of_95_percent_holds_the_value_in_95_of_100_logs(world: ActionWorld | SlateWorld) -> None:
    found = coverage(world, slates=400, logs=500, draws=300)
    for name in ("ips", "snips", "dr"):
        assert 0.93 <= found[name].bootstrap <= 0.97, name
        assert found[name].bernstein >= 0.95, name
    assert found["dm"].bootstrap < 0.93  # resamples do not show its bias: no interval of it is shown


def test_intervals_by_user_hold_where_users_return_and_those_by_slate_are_too_narrow() -> None:
    """By user in at least 51 of 60 logs, which an interval of 95% misses once in 2,000 times."""
    world = WORLDS["users who return"]
    by_user = coverage(world, slates=1_000, logs=60, draws=100)
    by_slate = coverage(world, slates=1_000, logs=60, draws=100, by_user=False)
    for name in ("ips", "snips", "dr"):
        assert by_user[name].bootstrap >= 0.85, name
        assert by_user[name].bernstein >= 0.95, name
        assert by_slate[name].bootstrap < 0.75, name
        assert by_slate[name].bernstein < by_user[name].bernstein, name


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
        widths.append([interval.high - interval.low for interval in found if interval is not None])
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
        assert found is not None
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


def test_empirical_bernstein_by_user_is_the_published_formula_of_users_means() -> None:
    user = np.arange(600) % 60
    reward = (np.arange(600) * 7919 % 100 / 100) * (user % 2)
    data = log_of(reward, user)
    of_users = np.bincount(user, reward) / 10
    log = np.log(2 / 0.025)
    half_width = np.sqrt(2 * of_users.var(ddof=1) * log / 60) + 7 * reward.max() * log / (3 * 59)
    found = bernstein(estimators.ips(data, np.ones(600)), 0.95, user)
    assert found is not None
    ends = max(0.0, reward.mean() - half_width), min(reward.max(), reward.mean() + half_width)
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-12)


def test_empirical_bernstein_of_users_with_unlike_numbers_of_slates_ends_where_their_sums_exclude_the_value() -> None:
    rng = np.random.default_rng(0)
    user = np.unique(rng.geometric(0.01, 40_000), return_inverse=True)[1]
    data = log_of((rng.random(40_000) < 0.4).astype(float), user)
    estimator = estimators.ips(data, np.ones(40_000))
    found = bernstein(estimator, 0.95, user)
    assert found is not None
    assert 0.0 < found.low < estimator.estimate < found.high < 1.0
    earned, slates, log = np.bincount(user, data.reward), np.bincount(user), np.log(2 / 0.025)
    users = len(slates)
    for end in (found.low, found.high):
        off = earned - end * slates
        half_width = np.sqrt(2 * off.var(ddof=1) * log / users) + 7 * slates.max() * log / (3 * (users - 1))
        assert abs(off.mean()) == pytest.approx(half_width)


def rare_clicks(slates: int, rate: float) -> tuple[TargetLog, float]:
    """A log with as many clicks as the rate says, the same chance everywhere, and the true value."""
    rng = np.random.default_rng(0)
    item = rng.integers(0, 4, slates)
    reward = np.zeros(slates)
    reward[rng.choice(slates, round(rate * slates), replace=False)] = 1.0
    features = Features(np.empty((slates, 0)), item[:, None], (4,))
    target = np.array([0.1, 0.2, 0.3, 0.4])
    rounds = Rounds(np.arange(slates), reward, np.full(slates, 0.25), target[item])
    actions = Actions(target[None], np.zeros(slates, np.int64))
    return TargetLog("t", rounds, LogOrigin("log"), features, actions), rate


def test_estimates_whose_bias_nothing_tells_have_no_interval() -> None:
    log, value = rare_clicks(12_000, 0.004)
    found = evaluate(log, EvaluationOptions(draws=100))
    values = {value.name: value for value in found.values}
    for name in ("dm", "switch_dr", "shrunk_dr"):
        assert values[name].biased
        assert (values[name].interval, values[name].bernstein) == (None, None), name
    for name in ("ips", "clipped_ips", "snips", "dr"):
        interval = values[name].interval
        assert interval is not None, name
        assert interval.low < value < interval.high, name
    clipped = evaluate(log, EvaluationOptions(draws=100, clip=1.5))
    assert next(v for v in clipped.values if v.name == "clipped_ips").interval is None
    assert figures(found)["estimates"]["dm"]["bootstrap"] is None
    plots.intervals(found)


def test_many_slates_with_few_clicks_are_few() -> None:
    (told,) = evaluate(rare_clicks(12_000, 0.004)[0], EvaluationOptions(draws=20)).warnings
    assert told.startswith("48 slates have weighted rewards, worth 4")
    assert evaluate(rare_clicks(12_000, 0.01)[0], EvaluationOptions(draws=20)).warnings == ()


@pytest.mark.parametrize("users", [1, 2, 12])
def test_a_few_users_are_few_however_many_slates_they_have(users: int) -> None:
    rng = np.random.default_rng(0)
    user = rng.integers(0, users, 3_000)
    data = log_of(rng.random(3_000) < 0.2 + 0.05 * user, user)
    found = evaluate(TargetLog("t", data, LogOrigin("log")), EvaluationOptions(draws=50))
    assert found.warnings[0].startswith(f"{users} users have weighted rewards, worth ")
    assert found.logged.interval is None
    assert (found.logged.bernstein is None) == (users < 2)
    figures(found)
    plots.intervals(found)


def test_a_negative_click_rate_is_named_as_impossible() -> None:
    wanted = np.arange(200) % 10 == 0  # hardly ever shown by the log, and never clicked
    reward = (~wanted).astype(float)
    code = np.zeros((200, 1), np.int64)  # the reward model cannot tell them from the others
    features = Features(np.empty((200, 0)), code, (1,))
    rounds = Rounds(np.arange(200), reward, np.where(wanted, 0.045, 0.9), np.full(200, 0.5))
    found = evaluate(TargetLog("t", rounds, LogOrigin("log"), features, features), EvaluationOptions(draws=50))
    dr = next(value for value in found.values if value.name == "dr")
    assert dr.value < 0
    assert dr.impossible
    assert found.warnings[0].startswith("DR, switch-DR, shrunk DR: not from 0 to 1, which")


def test_an_interval_of_what_no_slate_can_be_worth_is_not_shown() -> None:
    logged = np.full(400, 0.05)  # 20 times what it was
    rounds = Rounds(np.arange(400), (np.arange(400) % 4 > 0).astype(float), logged, np.ones(400))
    found = evaluate(TargetLog("t", rounds, LogOrigin("log")), EvaluationOptions(draws=50))
    values = {value.name: value for value in found.values}
    assert values["ips"].impossible
    assert values["ips"].interval is None
    assert values["snips"].interval is not None


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
        for interval in (value.interval, value.bernstein):
            assert interval is None or interval.low <= value.value <= interval.high
    assert values["ips"].bernstein is not None
    json.dumps(figures(found), allow_nan=False)
    assert found.warnings[0].startswith("IPS, clipped IPS, ")
    assert f"not from 0 to {steps}, which is what a slate of this log can be worth" in found.warnings[0]


def test_a_reward_whose_square_is_no_number_is_refused() -> None:
    data = TargetLog("t", log_of(np.array([1e200, 0.0])), LogOrigin("log.csv"))
    with pytest.raises(TableError, match=r"log.csv: a reward is 1e\+200 from 0, expected at most 2\^63 - 1"):
        evaluate(data, EvaluationOptions(draws=20))


@pytest.mark.parametrize("expected", [8, 60])
def test_where_rewards_are_so_rare_that_resamples_know_too_little_no_interval_is_shown(expected: int) -> None:
    """Of 200 logs at most 20 show one that does not hold the value: 10 are to be expected of 95%, 21 once in 1,500."""
    rng, shown, missed = np.random.default_rng(0), 0, 0
    for number in range(200):
        world = ActionWorld.drawn(number % 20)
        chance = world.chance * (expected / 1_000 / (world.logged * world.chance).sum(axis=1).mean())
        world = replace(world, chance=chance)
        log = TargetLog("t", world.log(1_000, rng)[0], LogOrigin("log"))
        found = evaluate(log, EvaluationOptions(draws=100, seed=number))
        interval = next(value.interval for value in found.values if value.name == "snips")
        shown += interval is not None
        missed += interval is not None and not interval.low <= world.value <= interval.high
    assert missed <= 20
    assert (shown == 0) == (expected == 8)
    assert (shown > 100) == (expected == 60)


@pytest.mark.parametrize("rewards", [0, 1, 2, 19, 50])
def test_a_log_of_next_to_no_rewards_or_of_nothing_else_has_no_interval_from_resampling(rewards: int) -> None:
    data = log_of(np.where(np.arange(50) < rewards, 0.1, 0.0))
    estimator = estimators.snips(data, importance_weights(data))
    found = evaluate(TargetLog("t", data, LogOrigin("log")), EvaluationOptions(draws=50))
    assert {value.interval for value in (found.logged, *found.values)} == {None}
    wide = bernstein(estimator, 0.95)
    assert (wide is None) == (rewards == 0)  # nothing was seen of what a slate can be worth
    assert wide is None or wide.low <= estimator.estimate <= wide.high
