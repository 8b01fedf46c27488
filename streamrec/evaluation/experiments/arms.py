"""A/B tests: the mean reward per slate in each arm, and whether an arm is better than the control.

Users differ more than the slates of one user do, so the user, not the slate, is the unit of randomisation and of
analysis. A user's value is the mean reward of the slates shown within a window of time that starts with the user's
first slate; it is counted once the window is over. Users were put into arms by a hash, so their values are independent,
and a value no longer changes once it is counted: a confidence sequence needs both. Values are taken in the order in
which users first appeared.

A user seen in a second arm (the arms' shares were changed meanwhile) stays in the first, and slates of the other arm
are left out. Policies that were shown one after the other, without arms, are reported and not compared: their users
came at different times. With several arms beside the control, alpha is divided among the comparisons (Bonferroni), so
that all of them hold together.

Knows nothing of topics or stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np
from numpy.typing import NDArray

from streamrec.engine.rollout.plan import CONTROL
from streamrec.engine.rollout.revisions import Mode
from streamrec.evaluation.experiments.confidence import (
    Asymptotic,
    EmpiricalBernstein,
    MeanInterval,
    MeanSequence,
    asymptotic_difference,
    asymptotic_margin,
    difference,
)
from streamrec.evaluation.experiments.significance import Significance, assess
from streamrec.evaluation.experiments.slates import SettledSlate, SettledSlates

DAY_MS = 24 * 3_600_000


class SequenceMethod(StrEnum):
    """Which confidence sequence."""

    BOUNDED = "bounded"
    ASYMPTOTIC = "asymptotic"


@dataclass(frozen=True, slots=True)
class ExperimentDesign:
    """How an experiment is analysed; to be fixed before its outcomes are seen."""

    alpha: float = 0.05  # probability that any of the comparisons is ever wrong
    window_ms: int = DAY_MS  # slates count that are shown within so long of a user's first one
    method: SequenceMethod = SequenceMethod.ASYMPTOTIC
    bound: float = 1.0  # no slate counts for more than this, up or down


@dataclass(slots=True)
class _User:
    arm: str
    ts: int
    partition: int
    slates: int = 0
    reward: float = 0.0  # of its slates, each capped
    gain: float = 0.0  # the same as it was


@dataclass(frozen=True, slots=True)
class IntervalsOverTime:
    """The interval of a mean after each value, and when that value was counted: (values,) each, `ts` in ms."""

    ts: NDArray[np.int64]
    mean: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm: users counted, users whose window is not over yet, and the mean reward per slate."""

    name: str
    policies: tuple[str, ...]
    users: int
    waiting: int
    slates: int  # of the users whose window is over
    reward_per_slate: float  # the sum over a slate's items, not capped, every slate alike: nan without any
    deviation: float  # standard deviation of the users' means
    reward: MeanInterval  # the mean of users' means, each slate capped: what is tested
    trace: IntervalsOverTime


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm compared with the control: the difference of their mean rewards per slate."""

    arm: str
    control: str
    difference: MeanInterval
    margin: Callable[[float], float]  # of the difference, once there are so many times as many users in both arms
    significance: Significance


@dataclass(frozen=True, slots=True)
class Experiment:
    """All arms of an experiment, the control first."""

    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    moved_slates: int  # left out, because their users had been met in another arm


DEFAULT_DESIGN = ExperimentDesign()


def analyse(settled: SettledSlates, design: ExperimentDesign, preferred_control: Sequence[str] = ()) -> Experiment:
    """Analyse the arms of an experiment. Interleaved slates belong to no arm and are left out.

    Args:
        settled: slates with their outcomes.
        design: how to analyse them.
        preferred_control: names, the first of which that is an arm is the control; without any, the arm called
            `control`, else the one with most users.
    """
    slates = [slate for slate in settled.slates() if not slate.teams]
    randomised = any(slate.arm is not None for slate in slates)
    users, policies, switched = _by_user(_contemporary(slates) if randomised else slates, settled, design.window_ms)
    if not users:
        return Experiment((), (), switched)
    names = _ordered(users.values(), preferred_control)
    rewards = {name: [user for user in users.values() if user.arm == name] for name in names}
    pairs = max(len(names) - 1, 1)
    found, compared = list[Arm](), list[Comparison]()
    sequences: dict[str, MeanSequence] = {}
    for name in names:
        over = [user for user in rewards[name] if user.ts + design.window_ms <= settled.newest[user.partition]]
        values = np.array([user.reward / user.slates for user in over])
        sequences[name] = _sequence(design.method, settled.bound, design.alpha / (2 * pairs))
        sequences[name].extend(values)
        found.append(_arm(name, sorted(policies[name]), over, len(rewards[name]), values, settled.bound, design))
    control = found[0]
    for arm in found[1:] if randomised else ():
        apart, margin = _difference(sequences[arm.name], sequences[control.name], design.alpha / pairs)
        said = assess(apart, 0.0, min(arm.users, control.users), arm.slates + control.slates, margin)
        compared.append(Comparison(arm.name, control.name, apart, margin, said))
    return Experiment(tuple(found), tuple(compared), switched)


def _contemporary(slates: list[SettledSlate]) -> list[SettledSlate]:
    """Slates of arms, and online slates outside any arm that were shown during the same time."""
    times = [slate.ts for slate in slates if slate.arm is not None]
    first, last = min(times), max(times)
    return [s for s in slates if s.arm is not None or (s.mode == Mode.ONLINE and first <= s.ts <= last)]


def _by_user(
    slates: list[SettledSlate], settled: SettledSlates, window_ms: int
) -> tuple[dict[str, _User], dict[str, set[str]], int]:
    """Users in the order in which they came, the policies of each arm, and the slates shown in another arm."""
    users: dict[str, _User] = {}
    policies: dict[str, set[str]] = {}
    switched = 0
    for slate in slates:
        arm = slate.arm or slate.policy
        user = users.setdefault(slate.user_id, _User(arm, slate.ts, slate.partition))
        if user.arm != arm:
            switched += 1
            continue
        policies.setdefault(arm, set()).add(slate.policy)
        if slate.ts - user.ts < window_ms:
            user.slates += 1
            user.reward += settled.reward(slate)
            user.gain += slate.gain
    return users, policies, switched


def _ordered(users: Iterable[_User], preferred: Sequence[str]) -> list[str]:
    """Names of the arms, the control first, then as they were met."""
    sizes: dict[str, int] = {}
    for user in users:
        sizes[user.arm] = sizes.get(user.arm, 0) + 1
    control = next((name for name in (*preferred, CONTROL) if name in sizes), max(sizes, key=lambda name: sizes[name]))
    return [control, *(name for name in sizes if name != control)]


def _arm(
    name: str,
    policies: list[str],
    over: list[_User],
    everybody: int,
    values: NDArray[np.float64],
    bound: float,
    design: ExperimentDesign,
) -> Arm:
    sequence = _sequence(design.method, bound, design.alpha)
    path = sequence.extend(values)
    slates = sum(user.slates for user in over)
    return Arm(
        name,
        tuple(policies),
        users=len(over),
        waiting=everybody - len(over),
        slates=slates,
        reward_per_slate=sum(user.gain for user in over) / slates if slates else float("nan"),
        deviation=sequence.deviation,
        reward=sequence.interval(),
        trace=IntervalsOverTime(np.array([user.ts + design.window_ms for user in over], np.int64), *path),
    )


def _sequence(method: SequenceMethod, bound: float, alpha: float) -> MeanSequence:
    return Asymptotic(alpha) if method is SequenceMethod.ASYMPTOTIC else EmpiricalBernstein(-bound, bound, alpha)


def _difference(
    first: MeanSequence, second: MeanSequence, alpha: float
) -> tuple[MeanInterval, Callable[[float], float]]:
    """The interval, and its margin once there are so many times as many values."""
    if isinstance(first, Asymptotic) and isinstance(second, Asymptotic):
        return asymptotic_difference(first, second, alpha), partial(asymptotic_margin, first, second, alpha)
    apart = difference(first.interval(), second.interval())
    return apart, lambda times: first.margin(times) + second.margin(times)
