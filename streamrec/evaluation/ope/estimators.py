"""The estimators, each as sums over slates, so that a bootstrap resample needs no pass over the rows.

With w the importance weight, r the reward, q(shown) and q(target) the reward model's predictions, a slate's value is

    IPS           sum_l w r                                          Horvitz, Thompson, 1952; Strehl et al., 2010
    clipped IPS   sum_l min(w, M) r                                  Ionides, 2008; Bottou et al., 2013
    SNIPS         sum_l share_l (sum_i w r) / (sum_i w)              Swaminathan, Joachims, NIPS 2015; step by step
    DM            sum_l q(target)                                    Beygelzimer, Langford, 2009
    DR            sum_l w (r - q(shown)) + q(target)                 Dudik et al., 2014; Kiyohara et al., WSDM 2022
    switch-DR     sum_l w 1[w <= T] (r - q(shown)) + q(target)       Wang, Agarwal, Dudik, ICML 2017
    shrunk DR     sum_l L w / (w^2 + L) (r - q(shown)) + q(target)   Su et al., ICML 2020

and the estimate is the mean over slates. `share_l` is the share of slates that have a row l.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamrec.evaluation.ope.rounds import Float64, Predictions, Rounds

TITLES = {
    "ips": "IPS",
    "clipped_ips": "clipped IPS",
    "snips": "SNIPS",
    "dm": "DM",
    "dr": "DR",
    "switch_dr": "switch-DR",
    "shrunk_dr": "shrunk DR",
}
"""Display name of each estimator."""

SWITCH_QUANTILES = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
SHRINKAGES = (0.0, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, np.inf)


@dataclass(frozen=True, slots=True)
class Estimator:
    """One estimate of the target's value, in a form that can be resampled.

    `value` maps sums over any collection of slates, (..., parts), to the value, (...). `influence` is how far each
    slate moves the value, (slates,), mean zero: exact for means, to first order for ratios. `mass` is how much that
    falls as the value rises, (slates,), mean one; None stands for ones, as means have them. `bound` holds the least
    and the largest value that a slate can have, of SNIPS a row's reward. `tuned` is the clip, switch or shrinkage used.
    What is `biased` may lie off the value by an amount that nothing in the log tells.
    """

    name: str
    sums: Float64  # (slates, parts), the last part is 1: it counts slates
    value: Callable[[Float64], Float64]
    influence: Float64  # (slates,)
    bound: tuple[float, float]
    tuned: float | None = None
    mass: Float64 | None = None
    biased: bool = False

    @property
    def estimate(self) -> float:
        """The value by all slates."""
        return float(self.value(self.sums.sum(axis=0)))


def ips(rounds: Rounds, weights: Float64) -> Estimator:
    """Inverse propensity scores."""
    bound = _reward_bound(rounds, float(weights.max(initial=0.0)))
    return _mean("ips", rounds, weights * rounds.reward, bound)


def clipped_ips(rounds: Rounds, weights: Float64, clip: float) -> Estimator:
    """IPS with no weight above `clip`: less variance, and too low where large weights meet rewards."""
    worth = np.minimum(weights, clip) * rounds.reward
    bound = _reward_bound(rounds, min(clip, float(weights.max(initial=0.0))))
    return _mean("clipped_ips", rounds, worth, bound, clip, biased=bool((weights > clip).any()))


def snips(rounds: Rounds, weights: Float64) -> Estimator:
    """Self-normalised IPS: at each step the weights are divided by their mean."""
    steps, slates = rounds.steps, rounds.slates
    seen = rounds.by_step(np.ones(len(rounds)))  # (slates, steps)
    weight = rounds.by_step(weights)
    earned = rounds.by_step(weights * rounds.reward)

    def value(sums: Float64) -> Float64:
        rows, mass, worth = (sums[..., part * steps : (part + 1) * steps] for part in range(3))
        ratio = np.divide(worth, mass, out=np.zeros_like(worth), where=mass > 0)
        return np.asarray((rows * ratio).sum(axis=-1) / sums[..., -1])

    share, mass = seen.mean(axis=0), weight.mean(axis=0)  # (steps,)
    ratio = np.divide(earned.mean(axis=0), mass, out=np.zeros(steps), where=mass > 0)
    pull = np.divide(share, mass, out=np.zeros(steps), where=mass > 0)
    influence = ((seen - share) * ratio + pull * (earned - ratio * weight)).sum(axis=1)
    masses = (weight @ pull) / max(float(share.sum()), 1e-300)  # as if the rewards of all steps rose alike
    sums = np.hstack([seen, weight, earned, np.ones((slates, 1))])
    return Estimator("snips", sums, value, influence, _span(rounds.reward), mass=masses)


def direct_method(rounds: Rounds, predictions: Predictions) -> Estimator:
    """The reward model's prediction for the target (the direct method)."""
    return _mean("dm", rounds, predictions.target, _prediction_bound(rounds, predictions), biased=True)


def doubly_robust(rounds: Rounds, weights: Float64, predictions: Predictions) -> Estimator:
    """The direct method, corrected by weighted residuals: consistent when either the weights or the model are right."""
    return _corrected("dr", rounds, weights, weights, predictions)


def switch_dr(rounds: Rounds, weights: Float64, predictions: Predictions, switch: float | None = None) -> Estimator:
    """DR that trusts the reward model alone where a weight exceeds `switch`; None takes the best one by `_tuned`."""
    grid = (0.0, *np.quantile(weights, SWITCH_QUANTILES).tolist()) if switch is None else (switch,)
    kept = [(float(t), np.where(weights <= t, weights, 0.0)) for t in grid]
    chosen, used = _tuned(rounds, weights, predictions, kept)
    return _corrected("switch_dr", rounds, weights, used, predictions, chosen)


def shrunk_dr(rounds: Rounds, weights: Float64, predictions: Predictions, shrinkage: float | None = None) -> Estimator:
    """DR with every weight w shrunk to L w / (w^2 + L); L infinite is DR, 0 the direct method; None takes the best."""
    grid = SHRINKAGES if shrinkage is None else (shrinkage,)
    kept = [(level, shrunk(weights, level)) for level in grid]
    chosen, used = _tuned(rounds, weights, predictions, kept)
    return _corrected("shrunk_dr", rounds, weights, used, predictions, chosen)


def shrunk(weights: Float64, shrinkage: float) -> Float64:
    """The weights as shrunk_dr uses them, (rows,)."""
    if np.isinf(shrinkage):
        return weights
    return np.divide(shrinkage * weights, weights**2 + shrinkage, out=np.zeros_like(weights), where=weights > 0)


def _mean(
    name: str,
    rounds: Rounds,
    worth: Float64,
    bound: tuple[float, float],
    tuned: float | None = None,
    *,
    biased: bool = False,
) -> Estimator:
    """An estimator that is the mean over slates of the sum of what its rows are worth."""
    total = rounds.by_slate(worth)
    sums = np.column_stack([total, np.ones(rounds.slates)])
    return Estimator(name, sums, _mean_value, total - total.mean(), bound, tuned, biased=biased)


def _mean_value(sums: Float64) -> Float64:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _corrected(
    name: str,
    rounds: Rounds,
    weights: Float64,
    used: Float64,
    predictions: Predictions,
    tuned: float | None = None,
) -> Estimator:
    worth = used * (rounds.reward - predictions.shown) + predictions.target
    residual = _span(rounds.reward)
    gap = max(residual[1] - float(predictions.shown.min()), float(predictions.shown.max()) - residual[0])
    low, high = _prediction_bound(rounds, predictions)
    room = float(used.max(initial=0.0)) * gap * rounds.steps
    return _mean(name, rounds, worth, (low - room, high + room), tuned, biased=tuned is not None)


def _tuned(
    rounds: Rounds, weights: Float64, predictions: Predictions, grid: list[tuple[float, Float64]]
) -> tuple[float, Float64]:
    """The setting, and its weights, of least estimated mean squared error: variance plus squared bias.

    The bias is estimated by what is lost of the correction, mean((w' - w)(r - q)), so its square is too large by that
    estimate's variance, and what is nearly unbiased is preferred (Su et al., 2020, section 5).
    """
    if len(grid) == 1:
        return grid[0]
    residual = rounds.reward - predictions.shown

    def error(used: Float64) -> float:
        worth = rounds.by_slate(used * residual + predictions.target)
        bias = float(((used - weights) * residual).sum()) / rounds.slates  # at most LARGEST_WEIGHT: squares are finite
        return float(worth.var()) / rounds.slates + bias**2

    return min(grid, key=lambda setting: error(setting[1]))


def _span(reward: Float64) -> tuple[float, float]:
    """The least and largest reward there can be: as seen, and 0."""
    return min(0.0, float(reward.min(initial=0.0))), max(0.0, float(reward.max(initial=0.0)))


def _reward_bound(rounds: Rounds, top: float) -> tuple[float, float]:
    low, high = _span(rounds.reward)
    return low * top * rounds.steps, high * top * rounds.steps


def _prediction_bound(rounds: Rounds, predictions: Predictions) -> tuple[float, float]:
    low, high = float(predictions.target.min(initial=0.0)), float(predictions.target.max(initial=0.0))
    return min(0.0, low) * rounds.steps, max(0.0, high) * rounds.steps
