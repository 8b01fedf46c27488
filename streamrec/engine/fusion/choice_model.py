"""What an answered slate says of the fusion's weights: which of the items seen was answered, if any.

    P(item i) = exp(w . x_i + a_i + b) / (1 + sum over the items seen of the same)        E[reward of i] = P(item i)

    x_i   the candidate's features when the slate was made      a_i   what a place is worth (less, further down)
    b     how often slates are answered at all: leaving them all alone is a choice too

A multinomial logit with an outside option (McFadden 1974; Agrawal et al.: MNL-bandit, Operations Research 2019), with
rewards as fractions of an answer (Papke, Wooldridge: Econometric methods for fractional response variables, J. Applied
Econometrics 1996): the equations ask only that the mean is right, so a reward may be any number in [-1, 1]. Given what
was seen, nothing depends on how likely it was to be shown, so slates need no weights; they may be asked for, when the
model itself is doubted. Places that were not seen say nothing.

`a` and `b` are learned beside the weights, each by a Newton step of its own, and are no part of any score: places
differ in worth, items do not for having been there. Features are taken as differences to their usual values, so that
how often slates are answered is b's alone to say. Knows nothing of events, of where slates came from, or of posteriors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.engine.arrays.batch import Array, Float64
from streamrec.engine.arrays.feedback import SlateFeedback

PLACES = 100
"""Places of a slate at most; each has a worth of its own."""
FIRST_OUTSIDE = -3.0
"""b before anything is learned: one slate in twenty is answered."""
KEPT = 0.9998
"""Decay of what is known of places, by each slate of feedback: half is gone after 3,500."""
USUAL_RATE = 0.01
"""How fast the usual features follow."""


@dataclass(frozen=True, slots=True)
class LearningStep:
    """What feedback asks of the weights: the gradient of the log-likelihood, and its curvature."""

    gradient: Float64  # (features,)
    curvature: Float64  # (features, features)
    feedback: int


class ChoiceModel:
    """The worth of places, and the steps that slates ask for."""

    def __init__(self, weighted: bool = False) -> None:
        """`weighted`: an item counts by how unlikely it was to be where it was, as `SlateFeedback.importance`."""
        self.weighted = weighted
        self.offsets = np.zeros(1 + PLACES)  # b, then a of each place; the first place's stays 0
        self.offsets[0] = FIRST_OUTSIDE
        self._certainty = np.ones(1 + PLACES)  # curvature met so far, a little of it forgotten
        self._usual: Float64 = np.empty(0)  # (features,) the mean over slates of late

    def step(self, feedback: Sequence[SlateFeedback], mean: Float64) -> LearningStep:
        """The sum over the feedback at these weights, (features,); the worths of places move by it."""
        gradient, curvature = np.zeros(len(mean)), np.zeros((len(mean), len(mean)))
        for slate_feedback in feedback:
            x = self._unusual(slate_feedback.features.astype(np.float64))  # (seen, features)
            chance = self._chances(x @ mean)  # (seen,)
            weight = slate_feedback.importance if self.weighted else np.ones(len(x))
            missed = weight * (slate_feedback.reward - chance)  # (seen,)
            gradient += missed @ x
            scaled = x * np.sqrt(weight)[:, None]
            pulled = chance @ scaled
            curvature += (scaled * chance[:, None]).T @ scaled - np.outer(pulled, pulled)
            if np.isfinite(missed @ x).all():  # else the fusion refuses the step, and counts it
                self._move(slate_feedback.reward - chance, chance)
        return LearningStep(gradient, curvature, len(feedback))

    def _unusual(self, features: Float64) -> Float64:
        """Features as differences to the usual ones, which follow."""
        mean = features.mean(0)
        if not len(self._usual):
            self._usual = np.where(np.isfinite(mean), mean, 0.0)
        difference: Float64 = features - self._usual
        if np.isfinite(mean).all():
            self._usual = self._usual + USUAL_RATE * (mean - self._usual)
        return difference

    def _chances(self, utility: Float64) -> Float64:
        """Expected reward of each item seen, from its score."""
        logits = utility + self.offsets[0] + self.offsets[1 : 1 + len(utility)]
        top = max(float(logits.max()), 0.0)
        raised = np.exp(logits - top)
        chances: Float64 = raised / (np.exp(-top) + raised.sum())
        return chances

    def _move(self, missed: Float64, chance: Float64) -> None:
        seen, answered = len(missed), float(chance.sum())
        self._certainty *= KEPT
        self._certainty[0] += answered * (1 - answered)
        self._certainty[2 : 1 + seen] += (chance * (1 - chance))[1:]
        self.offsets[0] += missed.sum() / max(self._certainty[0], 1.0)
        self.offsets[2 : 1 + seen] += missed[1:] / np.maximum(self._certainty[2 : 1 + seen], 1.0)

    def state(self) -> dict[str, Array]:
        """What a snapshot holds."""
        return {"offsets": self.offsets.copy(), "certainty": self._certainty.copy(), "usual": self._usual.copy()}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""
        self.offsets[:] = arrays["offsets"]
        self._certainty[:] = arrays["certainty"]
        self._usual = np.array(arrays["usual"])
