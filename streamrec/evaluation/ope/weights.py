"""Importance weights: how much likelier the logged choices are under the target than under the logging policy.

The weighting says which choices of the slate go into a row's weight:

    prefix     w_l = prod_{j <= l} target_j / logged_j    the choices up to the row (reward interaction)
    position   w_l = target_l / logged_l                  the row's own choice (independent)
    slate      w_l = prod_j target_j / logged_j           the whole slate (standard importance sampling)

James McInerney et al., "Counterfactual Evaluation of Slate Recommendations with Sequential Reward Interactions", KDD
2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from streamrec.evaluation.ope.rounds import Float64, Rounds

LARGEST_WEIGHT = 1e100
"""Larger ones count as this much: its square is finite, and an estimate with such a weight says nothing anyway."""


class Weighting(StrEnum):
    """Which choices of a slate go into the weight of a row."""

    PREFIX = "prefix"
    POSITION = "position"
    SLATE = "slate"


def importance_weights(rounds: Rounds, weighting: Weighting = Weighting.PREFIX) -> Float64:
    """The weight of each row, (rows,), from 0 to LARGEST_WEIGHT."""
    with np.errstate(over="ignore"):
        ratio = np.minimum(rounds.target / rounds.logged, LARGEST_WEIGHT)
    if weighting is Weighting.POSITION or rounds.steps < 2:
        return ratio
    products = rounds.by_step(ratio)  # (slates, steps)
    products[rounds.by_step(np.ones(len(rounds))) == 0] = 1.0
    for step in range(1, rounds.steps):
        products[:, step] = np.minimum(products[:, step] * products[:, step - 1], LARGEST_WEIGHT)
    if weighting is Weighting.SLATE:
        return np.asarray(products[rounds.slate, -1])
    return np.asarray(products[rounds.slate, rounds.step])


def effective_sample_size(weights: Float64) -> float:
    """The number of unweighted samples with the same precision: (sum w)^2 / sum w^2 (Kong, 1992)."""
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


@dataclass(frozen=True, slots=True)
class StepWeights:
    """Statistics of the weights at one step; their mean is 1 under common support."""

    step: int
    rows: int
    mean: float
    standard_error: float
    largest: float
    ess: float


def by_step(rounds: Rounds, weights: Float64) -> list[StepWeights]:
    """What the weights look like at each step, the first one first."""
    found = []
    for step in range(rounds.steps):
        here = weights[rounds.step == step]
        error = float(here.std(ddof=1)) / len(here) ** 0.5 if len(here) > 1 else float("inf")
        ess = effective_sample_size(here)
        found.append(StepWeights(step + 1, len(here), float(here.mean()), error, float(here.max()), ess))
    return found
