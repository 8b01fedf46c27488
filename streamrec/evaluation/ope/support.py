"""Warnings about an estimate: missing support, a small effective sample, clipping, and what reading the log found.

The weights' mean is 1 if the logging policy can choose whatever the target chooses (common support). Where it cannot,
the mean falls short of 1 by the target's probability of these choices, and only the reward model covers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from streamrec.evaluation.ope.rounds import Float64, Rounds
from streamrec.evaluation.ope.weights import StepWeights, effective_sample_size

MIN_EFFECTIVE = 50.0
"""Slates, and slates or users with weighted rewards: intervals from 20 to 50 users held 88 to 92 of 100 values."""
MIN_EFFECTIVE_SHARE = 0.01
MIN_AGREEMENT = 0.5
"""Of a few slates, the effective share below which the policies differ; above it, there are just few."""
MAX_UNIT_SHARE = 0.1
MAX_NEVER_SHOWN = 0.05
UNCERTAINTY = 0.01
"""A warning is given when the interval of the mean weight, with this error over all steps together, excludes 1."""


@dataclass(frozen=True, slots=True)
class LogOrigin:
    """Where a log comes from, and what reading it has found besides the rounds."""

    name: str
    policies: tuple[str, ...] = ()
    never_shown: float | None = None  # share of the target's choices that the log never shows
    estimated_from: int = 0  # draws that propensities are estimated from, 0: exact
    gaps: int = 0  # slates with a row whose earlier positions were not seen
    notes: tuple[str, ...] = ()


def warnings(
    rounds: Rounds, weights: Float64, steps: Sequence[StepWeights], origin: LogOrigin, clip: float
) -> list[str]:
    """Warnings as sentences, the gravest first."""
    return [
        *_support_warnings(steps, origin),
        *_sample_size_warnings(rounds, weights, steps),
        *_clipping_warnings(weights, clip),
        *_log_warnings(origin),
    ]


def rewarded_units(rounds: Rounds, weights: Float64) -> float:
    """Users, or slates where users are not known, whose weighted rewards an estimate rests on, in equal ones."""
    worth = _worth(rounds, weights)
    return effective_sample_size(worth / (worth.max(initial=0.0) or 1.0))


def _worth(rounds: Rounds, weights: Float64) -> Float64:
    return np.abs(rounds.by_cluster(weights * rounds.reward))  # (units,)


def mean_interval(step: StepWeights, error: float = UNCERTAINTY) -> tuple[float, float]:
    """The normal interval of a step's mean weight."""
    reach = float(norm.ppf(1.0 - error / 2.0)) * step.standard_error
    return step.mean - reach, step.mean + reach


def _support_warnings(steps: Sequence[StepWeights], origin: LogOrigin) -> list[str]:
    found = []
    for step in steps:
        low, high = mean_interval(step, UNCERTAINTY / len(steps))
        if low <= 1.0 <= high or step.rows < 2:
            continue
        where = f"at place {step.step}" if len(steps) > 1 else "on average"
        why = (
            "the target does what the logging policy cannot or hardly ever does, and no weight makes up for it"
            if step.mean < 1.0
            else "the propensities are not those of the policy that made the log"
        )
        found.append(f"weights are {step.mean:.3g} {where}, expected 1 ({low:.3g} to {high:.3g} by the log): {why}")
        break  # later places only repeat it
    if origin.never_shown is not None and origin.never_shown >= MAX_NEVER_SHOWN:
        found.append(f"{origin.never_shown:.1%} of what the target would show is never shown in this log")
    return found


def _sample_size_warnings(rounds: Rounds, weights: Float64, steps: Sequence[StepWeights]) -> list[str]:
    found = []
    least = min(steps, key=lambda step: step.ess)
    where = f" at place {least.step}" if len(steps) > 1 else ""
    if least.ess < MIN_EFFECTIVE and least.ess >= MIN_AGREEMENT * least.rows:
        found.append(f"there are {least.rows:,} slates{where}: every interval here is a rough one")
    elif least.ess < MIN_EFFECTIVE or least.ess < MIN_EFFECTIVE_SHARE * least.rows:
        found.append(
            f"{least.rows:,} weighted slates{where} are worth {least.ess:.0f} unweighted ones: target and logging "
            "policy have little in common"
        )
    worth, unit = _worth(rounds, weights), "slate" if rounds.cluster is None else "user"
    effective = rewarded_units(rounds, weights)
    if effective < MIN_EFFECTIVE:
        found.append(
            f"{np.count_nonzero(worth):,} {unit}s have weighted rewards, worth {effective:.0f} equal ones: every "
            "interval here is a rough one"
        )
    if worth.sum() > 0 and (share := float(worth.max() / worth.sum())) > MAX_UNIT_SHARE:
        found.append(f"one {unit} makes up {share:.0%} of the weighted reward")
    return found


def _clipping_warnings(weights: Float64, clip: float) -> list[str]:
    clipped = float((weights > clip).mean())
    return [f"clipped IPS cuts {clipped:.2%} of the weights at {clip:g}"] if clipped > 0 else []


def _log_warnings(origin: LogOrigin) -> list[str]:
    found = []
    if origin.estimated_from:
        found.append(
            f"propensities are estimated from {origin.estimated_from} draws, one of which made the slate: weights by "
            "them have no bias, but those of unlikely items vary more"
        )
    if origin.gaps:
        found.append(
            f"{origin.gaps:,} slates have places that were not seen: their choices are left out of the weights"
        )
    return [*found, *origin.notes]
