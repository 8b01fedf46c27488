"""Confidence sequences: intervals for a mean that hold at all times at once, however often they are looked at.

A 95% interval for a sample of fixed size is wrong far more often than once in twenty for anyone who looks daily and
stops at a favourable result. A confidence sequence has P(L_t <= mean <= U_t at every t) >= 1 - alpha.

Two of them, each a few sums:

- `EmpiricalBernstein`, for bounded values, at any sample size. Let x_i be in [0, 1], m_i = (1/2 + the sum of x before
  i) / i a guess of it, V_t the sum of (x_i - m_i)^2, and S_t the sum of the x_i minus their means. For l in [0, 1),
  exp(l S_t - (-log(1 - l) - l) V_t) is a supermartingale. Mixed over l by a gamma density it is

      M(s, v) = C G(v + r) P(v + r, s + v + r) e^(s + v) / (s + v + r)^(v + r),   M(0, 0) = 1

  (P the regularised incomplete gamma function), and |S_t| < u(V_t) with M(u(v), v) = 2 / alpha holds at every t
  (Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of
  Statistics 2021, theorem 4 and proposition 9). Means may differ from value to value, in ways that depend on the past:
  what is covered then is the average of the values' means, each given the past.
- `Asymptotic`, for independent values with a variance, once there are many: narrower, and wrong more often while there
  are few (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence
  sequences", Annals of Statistics 2024).

Knows nothing of what the values are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TIGHT_AT = 10.0
"""The V at which a sequence is narrowest: some 1,000 rewards that deviate by 0.2 on a scale from -1 to 1.

Elsewhere it is a little wider: 5% at five times as much, 10% at a fifth. To be chosen before the values are seen.
"""
TIGHT_AT_VALUES = 2_000
"""Likewise for the asymptotic sequence, in values."""
MANY = 100
"""With fewer values, or values that are all equal, the asymptotic interval is unbounded."""
GRID_RATIO = 1.01
LARGEST_V = 1e8
"""Boundaries are looked up in a table over V, each point so many times the one before."""
CHORD = 1 + 1e-5
"""A boundary is concave: between two points of the table the line lies below it, by less than this (3e-6)."""


class MeanInterval(NamedTuple):
    """The mean of the values so far, and the interval that holds the true mean."""

    mean: float
    lower: float
    upper: float


class MeanIntervals(NamedTuple):
    """An interval after each value, (values,) each."""

    mean: Floats
    lower: Floats
    upper: Floats


class MeanSequence(Protocol):
    """A confidence sequence for a mean."""

    @property
    def values(self) -> int:
        """How many values were taken."""

    @property
    def deviation(self) -> float:
        """The values' standard deviation, 0 for fewer than two."""

    def extend(self, values: Floats) -> MeanIntervals:
        """Take values, in order, and return the interval after each."""

    def interval(self) -> MeanInterval:
        """The interval as of now; before the first value everything is possible and the mean is nan."""

    def margin(self, times: float = 1.0) -> float:
        """From the mean to either end, once so many times as many values have deviated as those so far did."""


@dataclass(slots=True)
class EmpiricalBernstein:
    """The empirical-Bernstein confidence sequence for values in [low, high], valid at any sample size.

    >>> sequence = EmpiricalBernstein(0.0, 1.0)
    >>> _ = sequence.extend(np.tile([0.0, 1.0], 500))
    >>> [round(number, 2) for number in sequence.interval()]
    [0.5, 0.44, 0.56]
    """

    low: float = -1.0
    high: float = 1.0
    alpha: float = 0.05
    tight_at: float = TIGHT_AT
    values: int = 0
    _total: float = 0.0  # of the values, scaled to [0, 1]
    _squares: float = 0.0  # likewise
    _v: float = 0.0

    @property
    def deviation(self) -> float:
        if self.values < 2:
            return 0.0
        mean = self._total / self.values
        return math.sqrt(max(self._squares / self.values - mean * mean, 0.0)) * (self.high - self.low)

    def extend(self, values: Floats) -> MeanIntervals:
        """Take values, in order, and return the interval after each.

        Raises:
            ValueError: a value is outside [low, high] or is no number; none was taken.
        """
        x = (np.asarray(values, np.float64) - self.low) / (self.high - self.low)  # (values,)
        if not bool(np.all((x >= -1e-9) & (x <= 1 + 1e-9))):
            raise ValueError(f"a value is outside [{self.low}, {self.high}], for which the sequence was made")
        count = self.values + np.arange(1, len(x) + 1)
        total = self._total + np.cumsum(x)
        guess = (0.5 + total - x) / count  # of each value, from those before it
        v = self._v + np.cumsum((x - guess) ** 2)
        if len(x):
            self.values, self._total, self._v = int(count[-1]), float(total[-1]), float(v[-1])
            self._squares += float(x @ x)
        return self._scaled(total / count, boundary(v, self.alpha / 2, self.tight_at) / count)

    def interval(self) -> MeanInterval:
        if self.values == 0:
            return MeanInterval(math.nan, self.low, self.high)
        margin = np.array([self.margin() / (self.high - self.low)])
        path = self._scaled(np.array([self._total / self.values]), margin)
        return MeanInterval(*(float(part[0]) for part in path))

    def margin(self, times: float = 1.0) -> float:
        """From the mean to either end, were it not for the bounds; infinite before the first value."""
        if self.values == 0:
            return math.inf
        v = np.minimum([self._v * times], LARGEST_V / GRID_RATIO)  # beyond, a forecast is nobody's
        passed = float(boundary(v, self.alpha / 2, self.tight_at)[0])
        return (self.high - self.low) * passed / (self.values * times)

    def _scaled(self, mean: Floats, margin: Floats) -> MeanIntervals:
        span = self.high - self.low
        lower, upper = np.maximum(mean - margin, 0.0), np.minimum(mean + margin, 1.0)
        return MeanIntervals(self.low + span * mean, self.low + span * lower, self.low + span * upper)


@dataclass(slots=True)
class Asymptotic:
    """The asymptotic confidence sequence: mean +- s sqrt(2 (t r^2 + 1) / (t r)^2 log(sqrt(t r^2 + 1) / alpha))."""

    alpha: float = 0.05
    values: int = 0
    _total: float = 0.0
    _squares: float = 0.0

    @property
    def variance(self) -> float:
        """Of the values, 0 for fewer than two."""
        if self.values < 2:
            return 0.0
        return max(self._squares - self._total**2 / self.values, 0.0) / (self.values - 1)

    @property
    def deviation(self) -> float:
        return math.sqrt(self.variance)

    def extend(self, values: Floats) -> MeanIntervals:
        """Take values, in order, and return the interval after each."""
        x = np.asarray(values, np.float64)
        count = self.values + np.arange(1, len(x) + 1)
        total = self._total + np.cumsum(x)
        squares = self._squares + np.cumsum(x * x)
        if len(x):
            self.values, self._total, self._squares = int(count[-1]), float(total[-1]), float(squares[-1])
        variance = np.maximum(squares - total**2 / count, 0.0) / np.maximum(count - 1, 1)
        silent = (count < MANY) | (variance <= 0)
        margin = np.where(silent, np.inf, np.sqrt(variance) * _asymptotic_width(count, self.alpha))
        mean = total / count
        return MeanIntervals(mean, mean - margin, mean + margin)

    def interval(self) -> MeanInterval:
        if self.values == 0:
            return MeanInterval(math.nan, -math.inf, math.inf)
        mean, margin = self._total / self.values, self.margin()
        return MeanInterval(mean, mean - margin, mean + margin)

    def margin(self, times: float = 1.0) -> float:
        """From the mean to either end; infinite while values are few or all equal."""
        if self.values < MANY or self.variance <= 0:
            return math.inf
        return self.deviation * float(_asymptotic_width(np.array([self.values * times]), self.alpha)[0])


def difference(first: MeanInterval, second: MeanInterval) -> MeanInterval:
    """For the first mean minus the second: it misses only where one of the two does, so their alphas add up."""
    return MeanInterval(first.mean - second.mean, first.lower - second.upper, first.upper - second.lower)


def asymptotic_difference(first: Asymptotic, second: Asymptotic, alpha: float) -> MeanInterval:
    """For the first mean minus the second, of independent values: one sequence over both, narrower than `difference`.

    Their alphas do not matter: the variances of the two means are added, and `alpha` spent once.
    """
    mean, margin = first.interval().mean - second.interval().mean, asymptotic_margin(first, second, alpha)
    return MeanInterval(mean, mean - margin, mean + margin)


def asymptotic_margin(first: Asymptotic, second: Asymptotic, alpha: float, times: float = 1.0) -> float:
    """The margin of `asymptotic_difference`, once so many times as many values have deviated as those so far did."""
    if min(first.values, second.values) < MANY or min(first.variance, second.variance) <= 0:
        return math.inf
    both = first.values + second.values
    variance = both * (first.variance / first.values + second.variance / second.values)
    return math.sqrt(variance) * float(_asymptotic_width(np.array([both * times]), alpha)[0])


def boundary(v: Floats, alpha: float, tight_at: float = TIGHT_AT) -> Floats:
    """The u(v) that a sum of centred values in [0, 1] with variance sum v ever passes with P <= alpha, (values,)."""
    grid, at_grid = _table(alpha, tight_at)
    if v.max(initial=0.0) > grid[-1]:
        raise ValueError(f"a variance sum above {LARGEST_V:g} is more than the boundary was computed for")
    passed: Floats = np.interp(v, grid, at_grid) * CHORD
    return passed


def log_mixture(s: Floats, v: Floats, alpha: float, tight_at: float = TIGHT_AT) -> Floats:
    """The logarithm of M(s, v), tuned for a level `alpha` at V = `tight_at`."""
    from scipy import special  # slow to load, and most that import this module come to it late or never

    r = _tuning(alpha, tight_at)
    constant = r * math.log(r) - special.gammaln(r) - math.log(special.gammainc(r, r))
    a, y = v + r, s + v + r
    mixed: Floats = constant + special.gammaln(a) + np.log(special.gammainc(a, y)) - a * np.log(y) + (s + v)
    return mixed


@lru_cache(maxsize=64)
def _table(alpha: float, tight_at: float) -> tuple[Floats, Floats]:
    """Values of v, and the boundary at each."""
    from scipy import special

    v = np.concatenate([[0.0], np.exp(np.arange(math.log(1e-3), math.log(LARGEST_V), math.log(GRID_RATIO)))])
    r, wanted = _tuning(alpha, tight_at), math.log(1 / alpha)
    slack = wanted + np.log1p(v / r) + 2.0
    s = np.sqrt(2 * (v + r) * slack) + 2 * slack  # far enough: log M is convex in s, so Newton's steps come down to u
    for _ in range(60):
        a, y = v + r, s + v + r
        excess = log_mixture(s, v, alpha, tight_at) - wanted
        log_density = (a - 1) * np.log(y) - y - special.gammaln(a) - np.log(special.gammainc(a, y))
        step = excess / (np.exp(log_density) - a / y + 1.0)
        s = s - step
        if float(np.abs(step / s).max()) < 1e-9:
            break
    return v, s


def _tuning(alpha: float, tight_at: float) -> float:
    """The mixture's r that makes the boundary narrowest at `tight_at` (Howard et al., section 3.5, one-sided)."""
    spent = 2 * math.log(1 / (2 * alpha))
    return tight_at / (spent + math.log1p(spent))


def _asymptotic_width(count: NDArray[np.number], alpha: float) -> Floats:
    """What a standard deviation is multiplied by, (values,)."""
    spent = -2 * math.log(alpha)
    r2 = (spent + math.log(spent) + 1) / TIGHT_AT_VALUES
    t = count.astype(np.float64)
    width: Floats = np.sqrt(2 * (t * r2 + 1) / (t**2 * r2) * np.log(np.sqrt(t * r2 + 1) / alpha))
    return width
