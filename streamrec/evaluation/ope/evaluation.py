"""One evaluation from rounds to figures: weights, predictions, estimators, intervals, warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamrec.errors import TableError
from streamrec.evaluation.ope import estimators
from streamrec.evaluation.ope.estimators import Estimator
from streamrec.evaluation.ope.intervals import ROUNDING, Interval, bernstein, bootstrap
from streamrec.evaluation.ope.reward_model import Actions, Features, predictions
from streamrec.evaluation.ope.rounds import Float64, Int64, Predictions, Rounds
from streamrec.evaluation.ope.support import LogOrigin, rewarded_units, warnings
from streamrec.evaluation.ope.weights import StepWeights, Weighting, by_step, effective_sample_size, importance_weights
from streamrec.events import LARGEST_NUMBER


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
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
class TargetLog:
    """A log prepared for one target policy. The reward model needs both `shown_features` and `target_features`."""

    target: str
    rounds: Rounds
    origin: LogOrigin
    shown_features: Features | None = None  # (rows,) what was shown
    target_features: Features | Actions | None = None  # (rows,) a draw from the target, or all of its distribution


@dataclass(frozen=True, slots=True)
class PolicyValue:
    """The result of one estimator, its intervals holding its value.

    One that is `biased` has none: where rewards are rare, resamples held 0 to 37 of 100 values. With `impossible`, no
    slate can be worth the value, by the rewards seen.
    """

    name: str
    value: float
    interval: Interval | None
    bernstein: Interval | None
    biased: bool
    impossible: bool = False
    tuned: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evaluation of one target; `logged` is the mean reward per slate of the policy that made the log."""

    target: str
    options: EvaluationOptions
    rounds: Rounds
    origin: LogOrigin
    logged: PolicyValue
    values: tuple[PolicyValue, ...]
    weights: Float64  # (rows,)
    steps: tuple[StepWeights, ...]
    warnings: tuple[str, ...]
    rewarded: float  # users, or slates, whose weighted rewards the values rest on, in equal ones
    without_model: str | None = None

    @property
    def ess(self) -> float:
        """Effective sample size by the weights of all rows together, in slates."""
        return effective_sample_size(self.weights) * self.rounds.slates / max(len(self.rounds), 1)


MIN_REWARDED = 20.0
"""Users, or slates, with a weighted reward, in equal ones: of fewer, resamples held 83 to 92 of 100 values."""


def evaluate(logged: TargetLog, options: EvaluationOptions) -> Evaluation:
    """Estimate the target's value by every estimator that the log allows.

    Raises:
        TableError: a reward is so large that its square could not be told.
    """
    rounds = logged.rounds
    largest = float(np.abs(rounds.reward).max())
    if not largest <= LARGEST_NUMBER:
        raise TableError(f"{logged.origin.name}: a reward is {largest:g} from 0, expected at most 2^63 - 1; correct it")
    weights = importance_weights(rounds, options.weighting)
    fitted, why_not = _fitted(logged, options)
    logging_policy = replace(estimators.ips(rounds, np.ones(len(rounds))), name="logged")
    found = [logging_policy, *_estimators(rounds, weights, fitted, options)]
    rewarded = rewarded_units(rounds, weights)
    told = [estimator for estimator in found[1:] if not estimator.biased] if rewarded >= MIN_REWARDED else []
    if rewarded_units(rounds, np.ones(len(rounds))) >= MIN_REWARDED:
        told.append(logging_policy)
    intervals = _resampled(told, rounds, options)
    values = [_value(estimator, intervals.get(estimator.name), rounds, options.level) for estimator in found]
    steps = by_step(rounds, weights)
    found_warnings = [
        *_range_warnings(values, rounds),
        *warnings(rounds, weights, steps, logged.origin, options.clip),
    ]
    return Evaluation(
        target=logged.target,
        options=options,
        rounds=rounds,
        origin=logged.origin,
        logged=values[0],
        values=tuple(values[1:]),
        weights=weights,
        steps=tuple(steps),
        warnings=tuple(found_warnings),
        rewarded=rewarded,
        without_model=why_not,
    )


def folds_of(rounds: Rounds, folds: int, seed: int) -> Int64:
    """A random fold for each row, (rows,); the rows of a slate, and of a cluster, share one."""
    units = rounds.slates if rounds.users is None else rounds.users
    dealt = np.random.default_rng(seed).permutation(units) % max(min(folds, units), 2)
    by_slate = dealt if rounds.cluster is None else dealt[rounds.cluster]
    return np.asarray(by_slate[rounds.slate])


def _fitted(logged: TargetLog, options: EvaluationOptions) -> tuple[Predictions | None, str | None]:
    if logged.shown_features is None or logged.target_features is None:
        return None, "the log does not say what the target would have shown itself"
    if logged.rounds.slates < 2:
        return None, "a single slate cannot be predicted from others"
    fold = folds_of(logged.rounds, options.folds, options.seed)
    return predictions(logged.shown_features, logged.rounds.reward, fold, logged.target_features), None


def _estimators(
    rounds: Rounds, weights: Float64, fitted: Predictions | None, options: EvaluationOptions
) -> list[Estimator]:
    found = [
        estimators.ips(rounds, weights),
        estimators.clipped_ips(rounds, weights, options.clip),
        estimators.snips(rounds, weights),
    ]
    if fitted is not None:
        found += [
            estimators.direct_method(rounds, fitted),
            estimators.doubly_robust(rounds, weights, fitted),
            estimators.switch_dr(rounds, weights, fitted, options.switch),
            estimators.shrunk_dr(rounds, weights, fitted, options.shrinkage),
        ]
    return found


def _resampled(told: Sequence[Estimator], rounds: Rounds, options: EvaluationOptions) -> dict[str, Interval | None]:
    """Bootstrap intervals by the estimator's name."""
    if not told:
        return {}
    drawn = bootstrap(told, draws=options.draws, level=options.level, seed=options.seed, cluster=rounds.cluster)
    return {estimator.name: interval for estimator, interval in zip(told, drawn, strict=True)}


def _value(estimator: Estimator, interval: Interval | None, rounds: Rounds, level: float) -> PolicyValue:
    """The estimate with its intervals, which are clipped to the values that a slate can have by the rewards seen."""
    value, (least, most) = estimator.estimate, _worth(rounds)
    exact = None if estimator.biased else bernstein(estimator, level, rounds.cluster)
    return PolicyValue(
        name=estimator.name,
        value=value,
        interval=_possible(interval, value, least, most),
        bernstein=_possible(exact, value, least, most),
        biased=estimator.biased,
        impossible=not least - ROUNDING <= value <= most + ROUNDING,
        tuned=estimator.tuned,
    )


def _possible(interval: Interval | None, value: float, least: float, most: float) -> Interval | None:
    if interval is None or interval.low > most or interval.high < least:
        return None
    return interval.clipped(least, most).holding(value)


def _worth(rounds: Rounds) -> tuple[float, float]:
    """The least and the most that a slate can be worth, by the rewards seen."""
    least, most = min(0.0, float(rounds.reward.min())), max(0.0, float(rounds.reward.max()))
    return least * rounds.steps, most * rounds.steps


def _range_warnings(values: Sequence[PolicyValue], rounds: Rounds) -> list[str]:
    impossible = [estimators.TITLES[value.name] for value in values if value.impossible]
    if not impossible:
        return []
    least, most = _worth(rounds)
    return [
        f"{', '.join(impossible)}: not from {least:g} to {most:g}, which is what a slate of this log can be worth; "
        "too few slates weigh too much, and these figures say nothing"
    ]
