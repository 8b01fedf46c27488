"""Intervals for values: the studentised bootstrap, and empirical Bernstein, over users or else over slates.

What a user's slates earn is alike, so users are the independent units; slates are, where no user comes twice. The
bootstrap resamples units with replacement, the same resamples for all estimators. Of each draw it takes
t = (value* - value) / error*, and the interval is value - error * quantiles(t) (Efron, Tibshirani, "An Introduction to
the Bootstrap", 1993, chapter 12.5). Importance weighted rewards are skewed, so that the upper ends of normal and
percentile intervals are too low; t is skewed likewise, and corrects it. Errors are those of the linearised value, each
draw's own.

Empirical Bernstein (Maurer, Pontil, COLT 2009, theorem 4) assumes nothing but independent units and a bound on what a
slate can be worth; it holds at every sample size, and is wide. A ratio v of means, E[a] / E[b], is the one at which
a - v b has the mean 0 (Fieller, 1954): the interval holds each v of which the inequality does not exclude that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.evaluation.ope.estimators import Estimator
from streamrec.evaluation.ope.rounds import Float64, Int64, clustered

COUNTS_AT_ONCE = 8_000_000
"""Counts of drawn slates in memory at once: 64 MB, multiplied with the columns in one go."""
COUNTED_AT_ONCE = 100_000
"""As many are counted in one go: more would leave the cache."""
ROUNDING = 1e-9


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
) -> list[Interval | None]:
    """One interval per estimator; None where no unit moves the value, as if there is but one, or none has a reward.

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
    found: list[Interval | None] = []
    for estimator, part, of_draws in zip(estimators, parts, np.split(totals, ends[:-1], axis=1), strict=True):
        width = estimator.sums.shape[1]
        value, values = estimator.estimate, estimator.value(of_draws[:, :width])
        error = float(_error(part[:, width:].sum(axis=0), 0.0, clusters, len(estimator.sums)))
        if error <= ROUNDING * abs(value):
            found.append(None)
            continue
        errors = _error(of_draws[:, width:], values - value, clusters, len(estimator.sums))
        found.append(_studentised(value, error, values, errors, level))
    return found


def _columns(estimator: Estimator, cluster: Int64 | None) -> Float64:
    """The columns to sum over a resample, one row per cluster: parts of the value, then moments for its error."""
    if estimator.mass is None and cluster is None:  # of means, where the mass is 1, one moment tells all
        return np.column_stack([estimator.sums, estimator.influence**2])
    mass = np.ones(len(estimator.sums)) if estimator.mass is None else estimator.mass
    influence, mass = clustered(estimator.influence, cluster), clustered(mass, cluster)
    sums = np.column_stack([clustered(part, cluster) for part in estimator.sums.T])
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


def bernstein(estimator: Estimator, level: float, cluster: Int64 | None = None) -> Interval | None:
    """The empirical Bernstein interval of a mean, or of a sum of ratios by the union bound.

    None for a single unit, and without any reward: it tells nothing of what a slate can be worth.
    """
    sums = np.column_stack([clustered(part, cluster) for part in estimator.sums.T])
    if len(sums) < 2 or estimator.bound[0] == estimator.bound[1]:
        return None
    slates = sums[:, -1]
    if sums.shape[1] == 2:
        return _ratio_interval(sums[:, 0], slates, estimator.bound, 1.0 - level)
    seen, weight, earned = np.split(sums[:, :-1], 3, axis=1)  # (units, steps) each
    part = (1.0 - level) / (2 * seen.shape[1])
    low = high = 0.0
    for step in range(seen.shape[1]):  # self-normalised: E[w r] / E[w], times the share of slates with such a row
        worth = _ratio_interval(earned[:, step], weight[:, step], estimator.bound, part)
        share = Interval(1.0, 1.0)
        if (seen[:, step] < slates).any():
            share = _ratio_interval(seen[:, step], slates, (0.0, 1.0), part)
        low += min(worth.low * share.low, worth.low * share.high)
        high += max(worth.high * share.low, worth.high * share.high)
    return Interval(low, high)


def _ratio_interval(above: Float64, below: Float64, bound: tuple[float, float], alpha: float) -> Interval:
    """The 1 - alpha interval of E[above] / E[below], of which each unit's own ratio lies within the bound."""
    units, (least, most), scale = len(above), bound, float(below.max())
    if scale == 0.0:
        return Interval(least, most)
    above, below = above / scale, below / scale  # squares of the largest weights would be infinite
    log = float(np.log(4.0 / alpha))  # ln(2 / delta), with half of it for each side
    reach = 7.0 * (most - least) * log / (3.0 * (units - 1))
    spread = 2.0 * log / units * np.cov(above, below)
    middle, mass = float(above.mean()), float(below.mean())
    square = mass**2 - spread[1, 1]
    if square <= 0.0:  # the mean of what stands below may be 0
        return Interval(least, most)
    ends = []
    for side in (-1.0, 1.0):  # (mass v - middle - side reach)^2 = the variance of above - v below, times 2 log / units
        linear = mass * (middle + side * reach) - spread[0, 1]
        constant = (middle + side * reach) ** 2 - spread[0, 0]
        ends.append((linear + side * float(np.sqrt(max(linear**2 - square * constant, 0.0)))) / square)
    return Interval(ends[0], ends[1]).clipped(least, most)


def _studentised(value: float, error: float, values: Float64, errors: Float64, level: float) -> Interval | None:
    usable = errors > ROUNDING * error
    if not usable.any():
        return None
    t = (values[usable] - value) / errors[usable]
    low, high = np.quantile(t, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(value - error * high), float(value - error * low))


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
