"""One evaluation from rounds to figures: weights, predictions, estimators, intervals, doubts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamrec.evaluation.ope import estimators as family
from streamrec.evaluation.ope.estimators import Estimator
from streamrec.evaluation.ope.intervals import Interval, bernstein, bootstrap
from streamrec.evaluation.ope.reward_model import Actions, Features, predictions
from streamrec.evaluation.ope.rounds import Float64, Int64, Predictions, Rounds
from streamrec.evaluation.ope.support import Origin, warnings
from streamrec.evaluation.ope.weights import StepWeights, Weighting, by_step, effective_sample_size, importance_weights


@dataclass(frozen=True, slots=True)
class Options:
    """How to evaluate. `switch` and `shrinkage` are chosen by the log where they are None."""

    weighting: Weighting = Weighting.PREFIX
    clip: float = 100.0
    switch: float | None = None
    shrinkage: float | None = None
    draws: int = 1_000
    level: float = 0.95
    folds: int = 5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Logged:
    """A log as one target sees it. Without `described` or `wanted` there is nothing to fit a reward model to."""

    target: str
    rounds: Rounds
    origin: Origin
    described: Features | None = None  # (rows,) what was shown
    wanted: Features | Actions | None = None  # (rows,) a draw from the target, or all of its distribution


@dataclass(frozen=True, slots=True)
class Value:
    """What one estimator says. `variance_only`: the interval knows nothing of the estimator's bias."""

    name: str
    value: float
    interval: Interval
    bernstein: Interval | None
    variance_only: bool
    tuned: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is known of a target; `logged` is the mean reward per slate of the policy that made the log."""

    target: str
    options: Options
    rounds: Rounds
    origin: Origin
    logged: Value
    values: tuple[Value, ...]
    weights: Float64  # (rows,)
    steps: tuple[StepWeights, ...]
    warnings: tuple[str, ...]
    without_model: str | None = None

    @property
    def ess(self) -> float:
        """Slates that the weighted slates are worth, by the weights of all rows together, in slates."""
        return effective_sample_size(self.weights) * self.rounds.slates / max(len(self.rounds), 1)


UNBIASED = frozenset({"logged", "ips", "snips", "dr"})
"""Whose interval is one for the target's value; the others' bias is unknown."""


def evaluate(logged: Logged, options: Options) -> Evaluation:
    """Value the target by every estimator that the log has the means for."""
    rounds = logged.rounds
    weights = importance_weights(rounds, options.weighting)
    fitted, why_not = _fitted(logged, options)
    own = family.ips(rounds, np.ones(len(rounds)))
    found = [own, *_estimators(rounds, weights, fitted, options)]
    intervals = bootstrap(found, draws=options.draws, level=options.level, seed=options.seed, cluster=rounds.cluster)
    names = ["logged", *(estimator.name for estimator in found[1:])]
    values = [_value(*each, rounds, options) for each in zip(names, found, intervals, strict=True)]
    steps = by_step(rounds, weights)
    doubts = warnings(rounds, weights, steps, logged.origin, options.clip)
    return Evaluation(
        target=logged.target,
        options=options,
        rounds=rounds,
        origin=logged.origin,
        logged=values[0],
        values=tuple(values[1:]),
        weights=weights,
        steps=tuple(steps),
        warnings=tuple(doubts),
        without_model=why_not,
    )


def folds_of(rounds: Rounds, folds: int, seed: int) -> Int64:
    """A fold for each row, (rows,): whole slates, and whole clusters, drawn evenly."""
    units = rounds.slates if rounds.cluster is None else int(rounds.cluster.max()) + 1
    dealt = np.random.default_rng(seed).permutation(units) % max(min(folds, units), 2)
    by_slate = dealt if rounds.cluster is None else dealt[rounds.cluster]
    return np.asarray(by_slate[rounds.slate])


def _fitted(logged: Logged, options: Options) -> tuple[Predictions | None, str | None]:
    if logged.described is None or logged.wanted is None:
        return None, "the log does not say what the target would have shown itself"
    if logged.rounds.slates < 2:
        return None, "a single slate cannot be predicted from others"
    fold = folds_of(logged.rounds, options.folds, options.seed)
    return predictions(logged.described, logged.rounds.reward, fold, logged.wanted), None


def _estimators(rounds: Rounds, weights: Float64, fitted: Predictions | None, options: Options) -> list[Estimator]:
    found = [
        family.ips(rounds, weights),
        family.clipped_ips(rounds, weights, options.clip),
        family.snips(rounds, weights),
    ]
    if fitted is not None:
        found += [
            family.direct_method(rounds, fitted),
            family.doubly_robust(rounds, weights, fitted),
            family.switch_dr(rounds, weights, fitted, options.switch),
            family.shrunk_dr(rounds, weights, fitted, options.shrinkage),
        ]
    return found


def _value(name: str, estimator: Estimator, interval: Interval, rounds: Rounds, options: Options) -> Value:
    """Intervals are cut to what a slate can be worth by the least and the largest reward seen."""
    least = min(0.0, float(rounds.reward.min())) * rounds.steps
    most = max(0.0, float(rounds.reward.max())) * rounds.steps
    exact = bernstein(estimator, options.level)
    return Value(
        name=name,
        value=estimator.estimate,
        interval=interval.within(least, most),
        bernstein=None if exact is None else exact.within(least, most),
        variance_only=name not in UNBIASED,
        tuned=estimator.tuned,
    )
