"""Logistic regression on named features, one example at a time, by an optimiser of river's.

    P(wanted) = 1 / (1 + exp(-w . x))        g = clip(weight dLoss/d(w . x))        w moves by the optimiser along g x

What `river.linear_model.LogisticRegression` does without an intercept, bit for bit (a test holds it to that). Written
out because that one keeps its weights to itself, so that they could be neither saved nor mirrored but through its
private fields, and because its package loads scipy.stats, a second that these lines do not need.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from river.optim import Optimizer

Feature: TypeAlias = Hashable
CLIP = 1.0
"""The largest slope that an example may have, whatever it counts."""
STEEP = 18.0
"""Beyond this the curve is straight, or flat, as far as a double can tell."""


def learn_one(
    weights: dict[Feature, float],
    optimizer: Optimizer,
    features: Mapping[Feature, float],
    wanted: bool,
    weight: float = 1.0,
) -> None:
    """Move the weights of these features towards what came of them.

    Args:
        weights: 0 where they are missing: a defaultdict.
        optimizer: what is remembered of the gradients so far.
        features: their values.
        wanted: what came of them.
        weight: how much the example counts.
    """
    score = 0.0
    for feature, value in features.items():
        score += weights[feature] * value
    label = 1 if wanted else -1
    margin = score * label
    if margin > STEEP:
        slope = math.exp(-margin) * -label
    elif margin < -STEEP:
        slope = float(-label)
    else:
        slope = -label / (math.exp(margin) + 1.0)
    slope = max(min(slope * weight, CLIP), -CLIP)
    optimizer.step(weights, {feature: value * slope for feature, value in features.items()})
