"""Gates: the conditions that a policy must meet before it is rolled out one step further.

    apprentice > shadow     its first item agrees with the shown one: often enough, on enough slates
    shadow > canary         the lower bound of its off-policy value is not much below the baseline's value
    canary > canary         for a larger share: it is not known to be worse than its control
    canary > online         the lower bound of canary minus control is above -margin (non-inferiority)

A gate is a list of checks, each a figure and the least that it must be. It passes when all do, and a refusal names
every figure that fell short, and of what; a canary's also about how long it takes. A canary's bounds are ends of
confidence sequences, so its gate may be asked every minute until it opens; a shadow's bound is as good as the interval
that it is from.

Knows nothing of topics or stores: figures come in as values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from streamrec.engine.rollout.plan import CANARY, CONTROL
from streamrec.engine.rollout.revisions import Mode
from streamrec.evaluation.experiments.arms import Comparison, Experiment
from streamrec.evaluation.experiments.imitation import Imitation
from streamrec.evaluation.experiments.users_needed import UsersNeeded, users_needed

LADDER = (Mode.APPRENTICE, Mode.SHADOW, Mode.CANARY, Mode.ONLINE)
"""From the least trust to the most."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The least figures that gates accept; names as `--require` takes them."""

    match_rate: float = 0.8
    """Apprentice: share of slates whose first item it would have chosen too, at least."""
    min_slates: float = 500
    """Apprentice and shadow: slates that the figures are computed from, at least."""
    tolerance: float = 0.05
    """Shadow: the lower bound of its value may lie so far below the baseline's value, as a share of that."""
    min_rewarded: float = 50
    """Shadow: users (slates where none are known) with weighted rewards, in equal ones, at least: as `ope` warns."""
    min_support: float = 0.9
    """Shadow: share of its choices that the baseline makes with a probability above 0, at least."""
    margin: float = 0.01
    """Canary: it may be worse than its control by less than this, in reward per slate."""
    min_users: float = 500
    """Canary: users in each arm whose window is over, at least."""

    def with_changes(self, changes: dict[str, float]) -> Thresholds:
        """These thresholds, some of them changed.

        Raises:
            TypeError: there is no such threshold.
        """
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class OffPolicyEstimate:
    """A policy's value per slate, estimated from the slates of another policy."""

    policy: str
    estimate: float
    lower: float  # of its interval
    baseline: float  # mean reward of those slates, under the policy that made them
    rewarded: float  # users with weighted rewards, in equal ones: (sum of the rewards)^2 / sum of their squares
    support: float  # share of the policy's choices that the logging policy makes too, in [0, 1]
    slates: int


@dataclass(frozen=True, slots=True)
class Check:
    """One figure, and the least that it must be."""

    name: str
    what: str
    found: float
    least: float

    @property
    def passed(self) -> bool:
        """An unknown figure (nan) does not pass."""
        return not math.isnan(self.found) and self.found >= self.least

    def __str__(self) -> str:
        least = f"{'' if self.passed else 'expected '}at least {_figure(self.least)}"
        return f"{self.what} is {_figure(self.found)}, {least}"


@dataclass(frozen=True, slots=True)
class Gate:
    """The checks between two modes of the rollout."""

    before: Mode
    after: Mode
    checks: tuple[Check, ...]
    needs: tuple[UsersNeeded, ...] = ()  # what more it takes to go online, while that gate is shut

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def refusals(self) -> tuple[Check, ...]:
        """The checks that fell short."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def figures(self) -> dict[str, float]:
        """The figures found, by name, to be stored with the next revision; unknown ones are left out."""
        return {check.name: check.found for check in self.checks if math.isfinite(check.found)}


def apprentice_gate(imitation: Imitation, thresholds: Thresholds) -> Gate:
    """From apprentice to shadow."""
    return Gate(
        Mode.APPRENTICE,
        Mode.SHADOW,
        (
            Check("slates", "the number of slates to compare", imitation.slates, thresholds.min_slates),
            Check(
                "match_rate",
                f"the share of slates that {imitation.policy} would have begun alike",
                imitation.match_rate.mean,
                thresholds.match_rate,
            ),
        ),
    )


def shadow_gate(value: OffPolicyEstimate | None, thresholds: Thresholds) -> Gate:
    """From shadow to canary. `value` None: there is no estimate, which passes nothing."""
    nothing = math.nan
    found = value or OffPolicyEstimate("the policy", nothing, nothing, nothing, nothing, nothing, 0)
    least = found.baseline - thresholds.tolerance * abs(found.baseline)
    return Gate(
        Mode.SHADOW,
        Mode.CANARY,
        (
            Check("slates", "the number of slates that the estimate is from", found.slates, thresholds.min_slates),
            Check(
                "rewarded",
                "the number of users whose rewards the estimate rests on, in equal ones,",
                found.rewarded,
                thresholds.min_rewarded,
            ),
            Check(
                "support",
                f"the share of {found.policy}'s choices that the baseline makes at times",
                found.support,
                thresholds.min_support,
            ),
            Check(
                "value_lower",
                f"the lower bound of {found.policy}'s value (estimate {_figure(found.estimate)}, baseline "
                f"{_figure(found.baseline)})",
                found.lower,
                least,
            ),
        ),
    )


def canary_gate(experiment: Experiment, thresholds: Thresholds) -> Gate:
    """From canary to online: the canary is not worse than the control by the margin or more (non-inferiority)."""
    compared = _canary_beside_control(experiment)
    lower = compared.difference.lower if compared else math.nan
    name = "the lower bound of canary minus control, in capped reward per slate,"
    worst = math.nextafter(-thresholds.margin, math.inf)  # above -margin, not at it
    checks = (*_enough_users(experiment, thresholds), Check("difference_lower", name, lower, worst))
    gate = Gate(Mode.CANARY, Mode.ONLINE, checks)
    if gate.passed or compared is None:
        return gate
    return replace(gate, needs=users_needed(experiment, compared, thresholds.min_users, thresholds.margin))


def larger_canary_gate(experiment: Experiment, thresholds: Thresholds) -> Gate:
    """From a canary to a larger share: the canary is not significantly worse than the control."""
    compared = _canary_beside_control(experiment)
    upper = compared.difference.upper if compared else math.nan
    name = "the upper bound of canary minus control, in capped reward per slate,"
    return Gate(
        Mode.CANARY,
        Mode.CANARY,
        (*_enough_users(experiment, thresholds), Check("difference_upper", name, upper, 0.0)),
    )


def _enough_users(experiment: Experiment, thresholds: Thresholds) -> tuple[Check, ...]:
    users = {arm.name: arm.users for arm in experiment.arms}
    return tuple(
        Check(
            f"{arm}_users",
            f"the number of users of arm {arm} whose window is over",
            users.get(arm, 0),
            thresholds.min_users,
        )
        for arm in (CANARY, CONTROL)
    )


def _canary_beside_control(experiment: Experiment) -> Comparison | None:
    return next((c for c in experiment.comparisons if (c.arm, c.control) == (CANARY, CONTROL)), None)


def _figure(number: float) -> str:
    if math.isnan(number):
        return "unknown"
    return f"{number:,.0f}" if float(number).is_integer() and abs(number) >= 10 else f"{number:.4g}"
