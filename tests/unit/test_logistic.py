"""The few lines that learn logistic regression, and the test for drift, say what river's do, number for number."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from river import drift, linear_model, optim

from streamrec.engine.arrays.logistic import Feature, learn_one
from streamrec.engine.learning.page_hinkley import PageHinkley


@pytest.mark.parametrize(
    "make",
    [lambda: optim.AdaGrad(0.1), lambda: optim.FTRLProximal(alpha=0.3, beta=1.0, l1=0.0, l2=0.0)],
    ids=["AdaGrad", "FTRL"],
)
def test_learning_is_rivers_logistic_regression_without_an_intercept(make: Callable[[], optim.Optimizer]) -> None:
    draw = np.random.default_rng(3)
    theirs, ours = make(), make()
    model = linear_model.LogisticRegression(theirs, intercept_lr=0.0, clip_gradient=1.0)
    weights: dict[Feature, float] = defaultdict(float)
    for _ in range(2_000):
        features: dict[Feature, float] = {int(feature): 1.0 for feature in draw.integers(0, 200, 6)}
        features |= {"far": float(draw.normal(0, 9)), f"ad{draw.integers(20)}": 1.0}
        wanted, weight = bool(draw.random() < 0.3), float(draw.choice([0.3, 1.0, 7.0]))
        model.learn_one(features, wanted, weight)
        learn_one(weights, ours, features, wanted, weight)
    assert dict(weights) == model.weights
    assert ours.n_iterations == theirs.n_iterations


@pytest.mark.parametrize("seed", range(5))
def test_the_test_for_drift_is_rivers(seed: int) -> None:
    draw = np.random.default_rng(seed)
    theirs, ours = drift.PageHinkley(40, alpha=1.0), PageHinkley()
    alarms = 0
    for number, x in enumerate((draw.normal(0, 1, 3_000) + 2.0 * (np.arange(3_000) // 500 % 2)).tolist()):
        theirs.delta, theirs.threshold = 0.1 + number % 7 / 10, 15.0
        theirs.update(x)
        ours.update(x, delta=0.1 + number % 7 / 10, threshold=15.0, least_count=40)
        assert ours.alarm == theirs.drift_detected
        alarms += ours.alarm
    assert alarms > 2


def test_a_number_that_is_none_gives_no_alarm() -> None:
    test = PageHinkley()
    for _ in range(100):
        test.update(math.nan, delta=0.1, threshold=1.0, least_count=10)
    assert not test.alarm
