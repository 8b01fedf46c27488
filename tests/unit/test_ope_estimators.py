"""Off-policy estimates: against formulas written out by hand, and against values known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamrec.evaluation.ope import estimators
from streamrec.evaluation.ope.estimators import Estimator
from streamrec.evaluation.ope.evaluation import EvaluationOptions, TargetLog, evaluate, folds_of
from streamrec.evaluation.ope.reward_model import Actions, Features, Link, cross_fit, predictions
from streamrec.evaluation.ope.rounds import Predictions, Rounds
from streamrec.evaluation.ope.support import LogOrigin
from streamrec.evaluation.ope.synthetic import ActionWorld, SlateWorld
from streamrec.evaluation.ope.weights import Weighting, effective_sample_size, importance_weights

SLATES = [  # (reward, logged, target) of each place
    [(1.0, 0.5, 0.25), (0.0, 0.25, 0.5), (1.0, 0.5, 0.25)],
    [(0.0, 0.25, 0.5), (1.0, 0.5, 0.25)],
    [(0.0, 0.5, 0.25), (0.0, 0.5, 0.0), (1.0, 0.1, 0.9)],
    [(-1.0, 0.8, 0.4)],
]
SHOWN = [[0.3, 0.2, 0.1], [0.1, 0.4], [0.2, 0.2, 0.5], [0.6]]
WANTED = [[0.5, 0.1, 0.2], [0.3, 0.2], [0.4, 0.1, 0.1], [0.2]]


def rounds() -> Rounds:
    rows = [(n, *place) for n, slate in enumerate(SLATES) for place in slate]
    slate, reward, logged, target = (np.array(column, float) for column in zip(*rows, strict=True))
    return Rounds(slate.astype(np.int64), reward, logged, target)


def guesses() -> Predictions:
    return Predictions(np.concatenate([np.array(s) for s in SHOWN]), np.concatenate([np.array(s) for s in WANTED]))


def by_hand(weighting: Weighting) -> list[list[float]]:
    found = []
    for slate in SLATES:
        ratios = [target / logged for _, logged, target in slate]
        match weighting:
            case Weighting.PREFIX:
                found.append([math.prod(ratios[: n + 1]) for n in range(len(ratios))])
            case Weighting.POSITION:
                found.append(ratios)
            case Weighting.SLATE:
                found.append([math.prod(ratios)] * len(ratios))
    return found


@pytest.mark.parametrize("weighting", Weighting)
def test_weights_and_values_are_those_of_the_formulas(weighting: Weighting) -> None:
    data, q = rounds(), guesses()
    weights = importance_weights(data, weighting)
    w = by_hand(weighting)
    assert weights == pytest.approx([weight for slate in w for weight in slate], abs=1e-15)
    places = [(n, k) for n, slate in enumerate(SLATES) for k in range(len(slate))]
    count = len(SLATES)

    def mean(worth: object) -> float:
        assert callable(worth)
        return sum(worth(n, k, w[n][k], SLATES[n][k][0]) for n, k in places) / count

    expected = {
        "ips": mean(lambda n, k, v, r: v * r),
        "clipped_ips": mean(lambda n, k, v, r: min(v, 1.5) * r),
        "dm": mean(lambda n, k, v, r: WANTED[n][k]),
        "dr": mean(lambda n, k, v, r: v * (r - SHOWN[n][k]) + WANTED[n][k]),
        "switch_dr": mean(lambda n, k, v, r: (v if v <= 1.2 else 0) * (r - SHOWN[n][k]) + WANTED[n][k]),
        "shrunk_dr": mean(lambda n, k, v, r: 3 * v / (v * v + 3) * (r - SHOWN[n][k]) + WANTED[n][k]),
    }
    normalised = 0.0
    for step in range(3):
        here = [(w[n][k], SLATES[n][k][0]) for n, k in places if k == step]
        if (mass := sum(v for v, _ in here)) > 0:
            normalised += len(here) / count * sum(v * r for v, r in here) / mass
    found = [
        estimators.ips(data, weights),
        estimators.clipped_ips(data, weights, 1.5),
        estimators.snips(data, weights),
        estimators.direct_method(data, q),
        estimators.doubly_robust(data, weights, q),
        estimators.switch_dr(data, weights, q, 1.2),
        estimators.shrunk_dr(data, weights, q, 3.0),
    ]
    for estimator in found:
        truth = normalised if estimator.name == "snips" else expected[estimator.name]
        assert estimator.estimate == pytest.approx(truth, abs=1e-12), estimator.name


def test_single_actions_are_valued_as_the_open_bandit_pipeline_does() -> None:
    """obp's `_estimate_round_rewards`, written out with its own arrays: (rounds, actions, positions)."""
    rng = np.random.default_rng(3)
    rows, actions, positions = 500, 6, 3
    action, position = rng.integers(0, actions, rows), rng.integers(0, positions, rows)
    reward, pscore = (rng.random(rows) < 0.2).astype(float), rng.uniform(0.05, 1.0, rows)
    pi = rng.dirichlet(np.ones(actions), positions).T  # (actions, positions)
    q_hat = rng.random((rows, actions, positions))
    at = np.arange(rows)
    iw = pi[action, position] / pscore
    baseline = np.average(q_hat[at, :, position], weights=pi[:, position].T, axis=1)
    residual = reward - q_hat[at, action, position]
    data = Rounds(at, reward, pscore, pi[action, position])
    weights, q = importance_weights(data), Predictions(q_hat[at, action, position], baseline)
    pairs: list[tuple[Estimator, float]] = [
        (estimators.ips(data, weights), (reward * iw).mean()),
        (estimators.snips(data, weights), (reward * iw / iw.mean()).mean()),
        (estimators.direct_method(data, q), baseline.mean()),
        (estimators.doubly_robust(data, weights, q), (baseline + iw * residual).mean()),
        (estimators.switch_dr(data, weights, q, 2.0), (baseline + (iw <= 2.0) * iw * residual).mean()),
        (estimators.shrunk_dr(data, weights, q, 9.0), (baseline + 9 * iw / (iw**2 + 9) * residual).mean()),
    ]
    for estimator, theirs in pairs:
        assert abs(estimator.estimate - theirs) < 1e-9, estimator.name


def test_influences_say_what_leaving_a_slate_out_does() -> None:
    world = SlateWorld.drawn(5)
    data, _, _ = world.log(400, np.random.default_rng(0))
    estimator = estimators.snips(data, importance_weights(data))
    whole = estimator.sums.sum(axis=0)
    without = np.array([float(estimator.value(whole - slate)) for slate in estimator.sums])
    moved = (estimator.estimate - without) * (len(without) - 1)
    assert np.corrcoef(moved, estimator.influence)[0, 1] > 0.999
    assert np.abs(estimator.influence.mean()) < 1e-12


@pytest.mark.parametrize("world", [ActionWorld.drawn(2, spread=0.7), SlateWorld.drawn(2)])
def test_a_long_log_leads_to_the_true_value(world: ActionWorld | SlateWorld) -> None:
    data, shown, target_features = world.log(200_000, np.random.default_rng(1))
    weights = importance_weights(data)
    q = predictions(shown, data.reward, folds_of(data, 3, 0), target_features)
    for estimator in (
        estimators.ips(data, weights),
        estimators.snips(data, weights),
        estimators.doubly_robust(data, weights, q),
    ):
        error = float(estimator.influence.std()) / len(estimator.influence) ** 0.5
        assert abs(estimator.estimate - world.value) < 4 * error, estimator.name
    assert abs(estimators.direct_method(data, q).estimate - world.value) > 4 * error  # the model cannot be right here
    logging_policy = estimators.ips(data, np.ones(len(data)))
    assert abs(logging_policy.estimate - world.value) > 4 * error  # and the two policies do not earn the same


def test_each_weighting_is_right_where_its_assumption_holds() -> None:
    world = SlateWorld.drawn(4, spread=0.8)  # a reward depends on the item above: places are not independent
    data, _, _ = world.log(300_000, np.random.default_rng(2))
    off = {}
    for weighting in Weighting:
        estimator = estimators.ips(data, importance_weights(data, weighting))
        off[weighting] = (estimator.estimate - world.value) / (estimator.influence.std() / data.slates**0.5)
    assert abs(off[Weighting.PREFIX]) < 4
    assert abs(off[Weighting.SLATE]) < 4
    assert abs(off[Weighting.POSITION]) > 8


def test_a_good_reward_model_makes_doubly_robust_estimates_steadier_than_ips() -> None:
    data, shown, target_features = SlateWorld.drawn(2).log(20_000, np.random.default_rng(0))
    weights = importance_weights(data)
    q = predictions(shown, data.reward, folds_of(data, 5, 0), target_features)
    assert (
        estimators.doubly_robust(data, weights, q).influence.std() < 0.9 * estimators.ips(data, weights).influence.std()
    )


def test_switch_and_shrinkage_lead_from_the_direct_method_to_doubly_robust() -> None:
    data, q = rounds(), guesses()
    weights = importance_weights(data)
    dm, dr = estimators.direct_method(data, q).estimate, estimators.doubly_robust(data, weights, q).estimate
    assert (
        estimators.switch_dr(data, weights, q, 1e9).estimate
        == estimators.shrunk_dr(data, weights, q, np.inf).estimate
        == dr
    )
    assert estimators.shrunk_dr(data, weights, q, 0.0).estimate == dm
    assert estimators.switch_dr(data, weights, q, -1.0).estimate == dm
    assert estimators.switch_dr(data, weights, q).tuned is not None


def test_the_effective_sample_size_counts_equal_weights_whole_and_one_weight_as_one() -> None:
    assert effective_sample_size(np.full(70, 3.0)) == pytest.approx(70)
    assert effective_sample_size(np.array([1.0, 0.0, 0.0])) == 1.0
    assert effective_sample_size(np.zeros(4)) == 0.0


def test_the_reward_model_finds_effects_and_averages_over_the_targets_actions() -> None:
    rng = np.random.default_rng(0)
    rows = 60_000
    codes = np.column_stack([rng.integers(0, 5, rows), rng.integers(0, 3, rows)])
    effect = np.array([-2.0, -1.0, 0.0, 0.5, 1.0])[codes[:, 0]] + np.array([0.0, -0.5, 0.7])[codes[:, 1]] - 0.5
    chance = 1 / (1 + np.exp(-effect))
    reward = (rng.random(rows) < chance).astype(float)
    features = Features(np.empty((rows, 0)), codes, (5, 3))
    fold = np.arange(rows) % 2
    model = cross_fit(features, reward, fold)
    assert model.link is Link.LOGISTIC
    assert np.abs(model.predict(features, fold) - chance).max() < 0.03
    probability = np.tile([0.1, 0.2, 0.3, 0.4, 0.0], (3, 1))
    each = [
        model.predict(Features(features.dense, np.column_stack([np.full(rows, item), codes[:, 1]]), (5, 3)), fold)
        for item in range(5)
    ]
    assert model.expect(features, fold, Actions(probability, codes[:, 1])) == pytest.approx(
        sum(p * q for p, q in zip(probability[0], each, strict=True)), abs=1e-12
    )


@pytest.mark.parametrize("link", Link)
def test_rows_that_look_alike_are_fitted_as_one_without_a_difference(link: Link) -> None:
    rng = np.random.default_rng(1)
    codes = np.column_stack([rng.integers(0, 4, 900), rng.integers(0, 2, 900)])
    reward, fold = (rng.random(900) < 0.3).astype(float), np.arange(900) % 3
    kind = cross_fit(Features(np.empty((900, 0)), codes, (4, 2)), reward, fold, link)
    alone = cross_fit(Features(np.zeros((900, 1)), codes, (4, 2)), reward, fold, link)  # a number that says nothing
    assert np.delete(alone.coefficients, 1, axis=1) == pytest.approx(kind.coefficients, abs=1e-6)


def test_a_slate_is_predicted_by_models_that_have_not_seen_it() -> None:
    data, shown, target_features = SlateWorld.drawn(2).log(60, np.random.default_rng(0))
    fold = folds_of(data, 3, 0)
    assert all(len(set(fold[data.slate == slate])) == 1 for slate in range(data.slates))
    before = predictions(shown, data.reward, fold, target_features)
    changed = data.reward.copy()
    changed[fold == 1] = 1 - changed[fold == 1]
    after = predictions(shown, changed, fold, target_features)
    assert after.shown[fold == 1] == pytest.approx(before.shown[fold == 1], abs=1e-12)
    assert np.abs(after.shown[fold == 0] - before.shown[fold == 0]).max() > 0.01


def found_warnings(data: Rounds, origin: LogOrigin) -> str:
    return "; ".join(evaluate(TargetLog("t", data, origin), EvaluationOptions(draws=20)).warnings)


def test_missing_support_is_told_in_words() -> None:
    rng = np.random.default_rng(0)
    item = rng.integers(0, 3, 4_000)  # a fourth item is never shown, and the target shows it half of the time
    reward = (rng.random(4_000) < 0.3).astype(float)
    target = np.array([0.2, 0.2, 0.1])[item]
    told = found_warnings(
        Rounds(np.arange(4_000), reward, np.full(4_000, 1 / 3), target), LogOrigin("log", never_shown=0.5)
    )
    assert "expected 1" in told
    assert "weights are 0.499 on average" in told
    assert "50.0% of what the target would show is never shown" in told
    covered = Rounds(np.arange(4_000), reward, np.full(4_000, 1 / 3), np.array([0.5, 0.3, 0.2])[item])
    assert found_warnings(covered, LogOrigin("log")) == ""


def test_a_few_slates_that_all_agree_are_few_and_not_of_two_policies_with_little_in_common() -> None:
    def told(slates: int, target: float) -> str:
        logged = np.full(slates, 0.5)
        logged[0] = 0.001
        return found_warnings(
            Rounds(np.arange(slates), np.ones(slates), logged, np.where(logged < 0.5, target, 0.5)), LogOrigin("log")
        )

    assert told(40, 0.001).startswith("there are 40 slates: every interval here is a rough one")
    assert "40 weighted slates are worth 1 unweighted ones" in told(40, 1.0)
    assert told(60, 0.001) == ""


def test_other_doubts_are_told_in_words() -> None:
    rng = np.random.default_rng(1)
    logged = np.where(rng.random(2_000) < 0.01, 0.001, 0.9)
    reward = np.zeros(2_000)
    reward[:5] = 1.0
    told = found_warnings(
        Rounds(np.arange(2_000), reward, logged, np.full(2_000, 0.5)), LogOrigin("log", estimated_from=64, gaps=3)
    )
    for words in (
        "the propensities are not those",
        "are worth",
        "5 slates have weighted rewards, worth 5 equal ones",
        "estimated from 64",
        "3 slates",
    ):
        assert words in told
    assert "clipped IPS cuts" in told
