"""Statistics of a contest: rewards over time, the standings, paired differences, recovery from drift, and attacks.

Intervals are Student's t over seeds, 95 %. Differences are paired by seed: contenders met the same shoppers, so what
varies between seeds alone cancels.

What was shown changes shoppers, so regret is measured in a contender's own world: against the best slate for shoppers
as its own slates have left them. Reward and regret therefore do not add up to what the oracle earns, whose slates leave
them otherwise; `behind_oracle` is the difference to the oracle's own run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from streamrec.evaluation.simulation.draws import Float64, Int64
from streamrec.evaluation.simulation.loop import Episode

ORACLE = "oracle"
"""The contender that shows the best slate there is."""
POINTS = 60
"""Of each line over time."""
WINDOW = 300
"""Requests that each point of a curve is the mean of, unless the episode is too short for that."""
QUARTER = 4
RECOVERED = 0.95
"""Of the share of the best reward before the drift."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds and half the width of its interval, NaN with fewer than two seeds."""

    mean: float
    margin: float

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if np.isnan(self.margin) else f"{self.mean:.4f} ± {self.margin:.4f}"


@dataclass(frozen=True, slots=True)
class Standing:
    """How one contender did; rewards are per slate and expected, `realised` is what shoppers happened to give."""

    name: str
    reward: Estimate
    last_quarter: Estimate
    share_of_best: Estimate  # in the last quarter, of the best in its own world
    regret: Estimate  # beside the best in its own world
    realised: Estimate
    behind_first: Estimate  # last quarter, the first contender's reward less this one's
    behind_oracle: Estimate | None  # the oracle's reward, in a world of its own, less this one's; None without one


@dataclass(frozen=True, slots=True)
class AttackEffect:
    """Effect of an attack since it began: exposure of the target in shoppers' slates, and what these slates earned."""

    name: str
    first: Estimate  # share of the slates with the target in the first place
    shown: Estimate  # share of the slates with the target anywhere
    reward: Estimate


@dataclass(frozen=True, slots=True)
class IntervalCurve:
    """A curve over time with an interval around it, all (points,)."""

    at: Int64  # requests so far
    mean: Float64
    low: Float64
    high: Float64


@dataclass(frozen=True, slots=True)
class Recovery:
    """Share of the best reward around a drift, and how long until it was back at `RECOVERED` of what it had been."""

    name: str
    before: Estimate
    lowest: Estimate
    requests: Sequence[int | None]  # per seed; None where it had not come back by the end


def standings(episodes: Mapping[str, Sequence[Episode]]) -> list[Standing]:
    """One row per contender, in the order given."""
    first, oracle = next(iter(episodes.values())), episodes.get(ORACLE)
    found = []
    for name, runs in episodes.items():
        pairs = zip(first, runs, strict=True)
        apart = [best.expected.mean() - run.expected.mean() for best, run in zip(oracle or runs, runs, strict=True)]
        found.append(
            Standing(
                name,
                estimate([run.expected.mean() for run in runs]),
                estimate([_last(run.expected) for run in runs]),
                estimate([_last(run.expected) / _last(run.best) for run in runs]),
                estimate([run.regret.mean() for run in runs]),
                estimate([run.realised.mean() for run in runs]),
                estimate([_last(mine.expected) - _last(run.expected) for mine, run in pairs]),
                None if oracle is None else estimate(apart),
            )
        )
    return found


def ranked(episodes: Mapping[str, Sequence[Episode]]) -> dict[str, Sequence[Episode]]:
    """The contenders by their reward, best first; the oracle, who takes no part, last."""
    order = sorted(
        episodes, key=lambda name: (name == ORACLE, -np.mean([run.expected.mean() for run in episodes[name]]))
    )
    return {name: episodes[name] for name in order}


def verdict(episodes: Mapping[str, Sequence[Episode]]) -> str:
    """Who won, and how certain that is, in a sentence."""
    first, *others = (name for name in ranked(episodes) if name != ORACLE) if set(episodes) != {ORACLE} else (ORACLE,)
    reward = estimate([run.expected.mean() for run in episodes[first]])
    if not others:
        return f"{first} was alone: it earned {reward} per slate."
    pairs = zip(episodes[first], episodes[others[0]], strict=True)
    apart = estimate([mine.expected.mean() - its.expected.mean() for mine, its in pairs])
    known = "95%, certain" if apart.mean > apart.margin else "95%, not certain"
    if len(episodes[first]) < 2:
        known = "one seed: how much of it is chance is not known"
    return f"{first} won with {reward.mean:.4f} per slate, {apart} more than {others[0]} ({known})."


def reward_curves(episodes: Mapping[str, Sequence[Episode]]) -> dict[str, IntervalCurve]:
    """Expected reward per slate over time."""
    return {name: interval_curve([run.expected for run in runs]) for name, runs in episodes.items()}


def regret_curves(episodes: Mapping[str, Sequence[Episode]]) -> dict[str, IntervalCurve]:
    """Regret summed up since the start."""
    return {name: interval_curve([np.cumsum(run.regret) for run in runs], window=1) for name, runs in episodes.items()}


def share_curves(episodes: Mapping[str, Sequence[Episode]]) -> dict[str, IntervalCurve]:
    """Share of the best slates' expected reward over time."""
    return {name: _shares(runs) for name, runs in episodes.items()}


def recoveries(episodes: Mapping[str, Sequence[Episode]], drift_ms: int) -> list[Recovery]:
    """How each contender recovered from the drift at `drift_ms`."""
    return [_recovery(name, runs, drift_ms) for name, runs in episodes.items()]


def attack_effects(episodes: Mapping[str, Sequence[Episode]], attack_ms: int) -> list[AttackEffect]:
    """How often each contender showed what bots push, in the requests of people since `attack_ms`."""
    found = []
    for name, runs in episodes.items():
        since = [run.ts >= attack_ms for run in runs]
        places = [run.target[late] for run, late in zip(runs, since, strict=True)]
        found.append(
            AttackEffect(
                name,
                estimate([float((place == 1).mean()) for place in places]),
                estimate([float((place > 0).mean()) for place in places]),
                estimate([float(run.expected[late].mean()) for run, late in zip(runs, since, strict=True)]),
            )
        )
    return found


def estimate(values: Sequence[float]) -> Estimate:
    """The mean over seeds, with its interval."""
    numbers = np.array(values, np.float64)
    if len(numbers) < 2:
        return Estimate(float(numbers.mean()), float("nan"))
    error = numbers.std(ddof=1) / np.sqrt(len(numbers))
    return Estimate(float(numbers.mean()), float(student.ppf(0.975, len(numbers) - 1) * error))


def interval_curve(runs: Sequence[Float64], window: int | None = None) -> IntervalCurve:
    """Rolling means of several runs of (requests,) numbers, and the interval around their mean."""
    length = min(len(run) for run in runs)
    window = _window(length) if window is None else window
    at = np.unique(np.linspace(window, length, POINTS).astype(np.int64))
    return _curve(at, np.array([_rolling(run[:length], at, window) for run in runs]))


def _shares(runs: Sequence[Episode]) -> IntervalCurve:
    length = min(len(run.ts) for run in runs)
    window = _window(length)
    at = np.unique(np.linspace(window, length, POINTS).astype(np.int64))
    return _curve(at, np.array([_rolling(run.expected, at, window) / _rolling(run.best, at, window) for run in runs]))


def _curve(at: Int64, lines: Float64) -> IntervalCurve:
    """The mean of the runs' lines, (runs, points), with its interval at each point."""
    estimates = [estimate(column) for column in lines.T]
    mean = np.array([e.mean for e in estimates])
    margin = np.nan_to_num(np.array([e.margin for e in estimates]))
    return IntervalCurve(at, mean, mean - margin, mean + margin)


def _recovery(name: str, runs: Sequence[Episode], drift_ms: int) -> Recovery:
    before, lowest, requests = [], [], list[int | None]()
    for run in runs:
        drift = int(np.searchsorted(run.ts, drift_ms))
        window = min(_window(len(run.ts)), max(1, drift // 2), max(1, (len(run.ts) - drift) // 2))
        usual = run.expected[drift - window : drift].sum() / run.best[drift - window : drift].sum()
        ends = np.arange(drift + window, len(run.ts) + 1)  # windows that lie wholly after the drift
        shares = _rolling(run.expected, ends, window) / _rolling(run.best, ends, window)
        low = int(np.argmin(shares))
        back = np.flatnonzero(shares >= RECOVERED * usual)
        before.append(float(usual))
        lowest.append(float(shares[low]))
        requests.append(int(ends[back[0]] - drift) if len(back) else None)
    return Recovery(name, estimate(before), estimate(lowest), requests)


def _window(length: int) -> int:
    return max(1, min(WINDOW, length // 5))


def _rolling(values: Float64, at: Int64, window: int) -> Float64:
    """Means of the `window` values before each place."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means: Float64 = (sums[at] - sums[at - window]) / window
    return means


def _last(values: Float64) -> float:
    """The mean of the last quarter."""
    return float(values[-max(1, len(values) // QUARTER) :].mean())
