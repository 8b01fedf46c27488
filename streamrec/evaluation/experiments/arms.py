"""Arms of an experiment, and a canary beside its control: what a slate is worth in each, and which is better.

People differ more than the slates of one person do, so these must not count as so many witnesses. A user counts once:
with the mean reward of the slates shown in a window of time that starts with the first one, when the window is over.
Users were put into arms by a hash, so they are independent witnesses, and what one is worth is settled when it is
counted: that is what a confidence sequence needs. They are taken in the order in which they came.

A user who is met in a second arm (shares were changed meanwhile) stays with the first one, and the other slates are
left out. Policies that were shown one after the other, to nobody's arm, are told and not compared: another time is
another world. With more than one arm to compare to the control, each difference gets its part of alpha, so that all
verdicts hold together.

Knows nothing of topics or stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from streamrec.engine.rollout.plan import CONTROL
from streamrec.engine.rollout.revisions import Mode
from streamrec.evaluation.experiments.confidence import (
    Asymptotic,
    EmpiricalBernstein,
    Interval,
    MeanSequence,
    asymptotic_difference,
    difference,
)
from streamrec.evaluation.experiments.significance import Significance, verdict
from streamrec.evaluation.experiments.slates import SettledSlate, Settlement

DAY_MS = 24 * 3_600_000


class Method(StrEnum):
    """Which confidence sequence."""

    BOUNDED = "bounded"
    ASYMPTOTIC = "asymptotic"


@dataclass(frozen=True, slots=True)
class SignificanceTerms:
    """How an experiment is judged: settled before it is looked at."""

    alpha: float = 0.05  # the chance that any of its verdicts is ever wrong
    window_ms: int = DAY_MS  # of a user's slates, from the first on
    method: Method = Method.BOUNDED


@dataclass(slots=True)
class _User:
    arm: str
    ts: int
    partition: int
    slates: int = 0
    reward: float = 0.0


@dataclass(frozen=True, slots=True)
class Trace:
    """An interval as it was over time, (values,) each; `ts` in ms."""

    ts: NDArray[np.int64]
    mean: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm: users whose window is over, those whose is not, and what a slate is worth to a user of it."""

    name: str
    policies: tuple[str, ...]
    users: int
    waiting: int
    slates: int  # of the users whose window is over
    reward_per_slate: float  # plain, every slate alike: nan without any
    deviation: float  # of users' means
    reward: Interval  # the mean of users' means
    trace: Trace


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm beside the control: how much more a slate is worth in it."""

    arm: str
    control: str
    difference: Interval
    verdict: Significance


@dataclass(frozen=True, slots=True)
class Experiment:
    """All arms of an experiment, the control first."""

    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    moved_slates: int  # left out, because their users had been met in another arm


DEFAULT_TERMS = SignificanceTerms()


def judge(settlement: Settlement, terms: SignificanceTerms, preferred_control: Sequence[str] = ()) -> Experiment:
    """Judge the arms that slates were shown in; interleaved slates belong to none.

    Args:
        settlement: slates with their outcomes.
        terms: of the judgement.
        preferred_control: names, the first of which that is an arm is the control; without any, the arm called
            `control`, else the one with most users.
    """
    slates = [slate for slate in settlement.slates() if not slate.teams]
    by_chance = any(slate.arm is not None for slate in slates)
    users, policies, moved = _by_user(_contemporary(slates) if by_chance else slates, settlement, terms.window_ms)
    if not users:
        return Experiment((), (), moved)
    names = _ordered(users.values(), preferred_control)
    rewards = {name: [user for user in users.values() if user.arm == name] for name in names}
    pairs = max(len(names) - 1, 1)
    found, compared = list[Arm](), list[Comparison]()
    sequences: dict[str, MeanSequence] = {}
    for name in names:
        over = [user for user in rewards[name] if user.ts + terms.window_ms <= settlement.newest[user.partition]]
        values = np.array([user.reward / user.slates for user in over])
        sequences[name] = _sequence(terms.method, settlement.bound, terms.alpha / (2 * pairs))
        sequences[name].extend(values)
        found.append(_arm(name, sorted(policies[name]), over, len(rewards[name]), values, settlement.bound, terms))
    control = found[0]
    for arm in found[1:] if by_chance else ():
        apart = _difference(sequences[arm.name], sequences[control.name], terms.alpha / pairs)
        said = verdict(apart, 0.0, min(arm.users, control.users), arm.slates + control.slates)
        compared.append(Comparison(arm.name, control.name, apart, said))
    return Experiment(tuple(found), tuple(compared), moved)


def _contemporary(slates: list[SettledSlate]) -> list[SettledSlate]:
    """Who is in no arm counts while slates of some arm were shown."""
    times = [slate.ts for slate in slates if slate.arm is not None]
    first, last = min(times), max(times)
    return [s for s in slates if s.arm is not None or (s.mode == Mode.ONLINE and first <= s.ts <= last)]


def _by_user(
    slates: list[SettledSlate], settlement: Settlement, window_ms: int
) -> tuple[dict[str, _User], dict[str, set[str]], int]:
    """Users in the order in which they came, the policies of each arm, and the slates shown in another arm."""
    users: dict[str, _User] = {}
    policies: dict[str, set[str]] = {}
    moved = 0
    for slate in slates:
        arm = slate.arm or slate.policy
        user = users.setdefault(slate.user_id, _User(arm, slate.ts, slate.partition))
        if user.arm != arm:
            moved += 1
            continue
        policies.setdefault(arm, set()).add(slate.policy)
        if slate.ts - user.ts < window_ms:
            user.slates += 1
            user.reward += settlement.reward(slate)
    return users, policies, moved


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
    terms: SignificanceTerms,
) -> Arm:
    sequence = _sequence(terms.method, bound, terms.alpha)
    path = sequence.extend(values)
    slates = sum(user.slates for user in over)
    return Arm(
        name,
        tuple(policies),
        users=len(over),
        waiting=everybody - len(over),
        slates=slates,
        reward_per_slate=sum(user.reward for user in over) / slates if slates else float("nan"),
        deviation=sequence.deviation,
        reward=sequence.interval(),
        trace=Trace(np.array([user.ts + terms.window_ms for user in over], np.int64), *path),
    )


def _sequence(method: Method, bound: float, alpha: float) -> MeanSequence:
    return Asymptotic(alpha) if method is Method.ASYMPTOTIC else EmpiricalBernstein(-bound, bound, alpha)


def _difference(first: MeanSequence, second: MeanSequence, alpha: float) -> Interval:
    if isinstance(first, Asymptotic) and isinstance(second, Asymptotic):
        return asymptotic_difference(first, second, alpha)
    return difference(first.interval(), second.interval())
