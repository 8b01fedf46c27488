"""Intervals for values: the studentised bootstrap over slates, and empirical Bernstein.

The bootstrap resamples slates with replacement, the same resamples for all estimators. Of each draw it takes
t = (value* - value) / error*, and the interval is value - error * quantiles(t) (Efron, Tibshirani, "An Introduction to
the Bootstrap", 1993, chapter 12.5). Importance weighted rewards are skewed, so that the upper ends of normal and
percentile intervals are too low; t is skewed likewise, and corrects it. Errors are those of the linearised value, each
draw's own.

Empirical Bernstein (Maurer, Pontil, COLT 2009, theorem 4) assumes nothing but independent slates and a bound on what a
slate can be worth; it holds at every sample size, and is wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.evaluation.ope.estimators import Estimator
from streamrec.evaluation.ope.rounds import Float64, Int64

COUNTS_AT_ONCE = 8_000_000
"""Counts of drawn slates in memory at once: 64 MB, multiplied with the columns in one go."""
COUNTED_AT_ONCE = 100_000
"""As many are counted in one go: more would leave the cache."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval from `low` to `high`, in the unit of the value (reward per slate)."""

    low: float
    high: float

    def clipped(self, least: float, most: float) -> Interval:
        """The interval clipped to [least, most]."""
        return Interval(min(max(self.low, least), most), max(min(self.high, most), least))

    def holding(self, value: float) -> Interval:
        """The interval, made as wide as it takes to hold a value."""
        return Interval(min(self.low, value), max(self.high, value))


def bootstrap(
    estimators: Sequence[Estimator], *, draws: int, level: float, seed: int, cluster: Int64 | None = None
) -> list[Interval]:
    """One interval per estimator.

    Args:
        estimators: over the same slates.
        draws: resamples; 200 are enough for a first look, 1,000 for figures that are published.
        level: how often the interval is to hold the value, as .95.
        seed: of the draws.
        cluster: (slates,) slates of one cluster are resampled together; None resamples single slates.
    """
    parts = [_columns(estimator, cluster) for estimator in estimators]
    columns = np.hstack(parts)  # (clusters, all columns)
    ends = np.cumsum([part.shape[1] for part in parts])
    totals = np.concatenate(list(_resampled(columns, draws, np.random.default_rng(seed))))  # (draws, all columns)
    clusters = len(columns)
    found = []
    for estimator, part, of_draws in zip(estimators, parts, np.split(totals, ends[:-1], axis=1), strict=True):
        width = estimator.sums.shape[1]
        value, values = estimator.estimate, estimator.value(of_draws[:, :width])
        error = float(_error(part[:, width:].sum(axis=0), 0.0, clusters, len(estimator.sums)))
        errors = _error(of_draws[:, width:], values - value, clusters, len(estimator.sums))
        found.append(_studentised(value, error, values, errors, level))
    return found


def _columns(estimator: Estimator, cluster: Int64 | None) -> Float64:
    """The columns to sum over a resample, one row per cluster: parts of the value, then moments for its error."""
    if estimator.mass is None and cluster is None:  # of means, where the mass is 1, one moment tells all
        return np.column_stack([estimator.sums, estimator.influence**2])
    mass = np.ones(len(estimator.sums)) if estimator.mass is None else estimator.mass
    influence, mass = _clustered(estimator.influence, cluster), _clustered(mass, cluster)
    sums = np.column_stack([_clustered(part, cluster) for part in estimator.sums.T])
    return np.column_stack([sums, influence**2, influence * mass, mass**2, mass])


def _error(moments: Float64, shift: Float64 | float, clusters: int, slates: int) -> Float64:
    """The standard error from a resample whose value is off by `shift`: influences are influence - shift * mass."""
    if moments.shape[-1] == 1:
        squares, total = moments[..., 0] - slates * np.square(shift), float(slates)
    else:
        own, cross, mass, total = np.moveaxis(moments, -1, 0)
        squares = own - 2.0 * shift * cross + np.square(shift) * mass
    variance = np.maximum(squares, 0.0) * clusters / max(clusters - 1, 1)
    return np.asarray(np.sqrt(variance) / np.maximum(total, 1e-300))


def bernstein(estimator: Estimator, level: float) -> Interval | None:
    """The empirical Bernstein interval of a mean, or of a ratio of means by the union bound; None for one slate."""
    if len(estimator.sums) < 2:
        return None
    alpha = 1.0 - level
    if estimator.sums.shape[1] == 2:
        half_width = _half_width(estimator.sums[:, 0], estimator.bound[1] - estimator.bound[0], alpha)
        return Interval(estimator.estimate - half_width, estimator.estimate + half_width)
    return _ratio_interval(estimator, alpha)


def _ratio_interval(estimator: Estimator, alpha: float) -> Interval:
    """Self-normalised: at each step E[w r] / E[w] times the share of slates, all three with a part of the error."""
    seen, weight, earned = np.split(estimator.sums[:, :-1], 3, axis=1)  # (slates, steps) each
    low = high = 0.0
    for step in range(seen.shape[1]):
        part = alpha / (3 * seen.shape[1])
        span = estimator.bound[1] - estimator.bound[0]
        mass = _mean_interval(weight[:, step], float(weight.max()), part)
        worth = _mean_interval(earned[:, step], span, part)
        share = (
            _mean_interval(seen[:, step], 1.0, part).clipped(0.0, 1.0)
            if seen[:, step].min() < 1
            else Interval(1.0, 1.0)
        )
        least, most = max(mass.low, 1e-12), max(mass.high, 1e-12)
        low += min(worth.low / end * share_end for end in (least, most) for share_end in (share.low, share.high))
        high += max(worth.high / end * share_end for end in (least, most) for share_end in (share.low, share.high))
    return Interval(low, high)


def _mean_interval(values: Float64, span: float, alpha: float) -> Interval:
    half_width = _half_width(values, span, alpha)
    return Interval(float(values.mean()) - half_width, float(values.mean()) + half_width)


def _half_width(values: Float64, span: float, alpha: float) -> float:
    """Half the width of the 1 - alpha interval around the mean of values whose range is `span`."""
    log = np.log(4.0 / alpha)  # ln(2 / delta), with half of it for each side
    count = len(values)
    return float(np.sqrt(2.0 * values.var(ddof=1) * log / count) + 7.0 * span * log / (3.0 * (count - 1)))


def _studentised(value: float, error: float, values: Float64, errors: Float64, level: float) -> Interval:
    usable = errors > 0
    if error == 0.0 or not usable.any():
        return Interval(value, value)
    t = (values[usable] - value) / errors[usable]
    low, high = np.quantile(t, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(value - error * high), float(value - error * low))


def _clustered(values: Float64, cluster: Int64 | None) -> Float64:
    return values if cluster is None else np.bincount(cluster, values).astype(np.float64)


def _resampled(columns: Float64, draws: int, rng: np.random.Generator) -> Iterator[Float64]:
    """Column sums of resamples, some at a time, (some, columns)."""
    rows = len(columns)
    at_once = max(1, min(draws, COUNTS_AT_ONCE // max(rows, 1)))
    for start in range(0, draws, at_once):
        some = min(at_once, draws - start)
        counts = np.empty((some, rows))
        portion = max(1, COUNTED_AT_ONCE // rows)
        for first in range(0, some, portion):
            out = counts[first : first + portion]
            drawn = rng.integers(0, rows, out.shape) + rows * np.arange(len(out))[:, None]
            out[:] = np.bincount(drawn.ravel(), minlength=out.size).reshape(out.shape)
        yield counts @ columns
