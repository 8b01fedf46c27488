"""Exp3 over the models, one set of weights per context: which model to listen to, learned from rewards alone.

    P(model m) = (1 - g) w_m / sum w + g / M          w_m <- w_m exp(rate * r p_m(item) / p(item))

A slate takes one model, and Plackett and Luce's order by that model's shares of its mass. Every shown item pays all
models that would have put it there, by its reward over its propensity (Auer, Cesa-Bianchi, Freund, Schapire: The
nonstochastic multiarmed bandit problem, SIAM J. Comput. 2002; models as experts, section 7).

Contexts are how much is known of the user. Weights are kept as logarithms and pulled back to equality slowly, so that
a model can come back after a drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from streamrec.engine.arrays.batch import Array, Float32, Float64
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.arrays.log_shares import FLOOR, log_shares
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.policies import CONTEXTS, Components, PolicyInput, PolicyParts, Posterior

MIXING = 0.1
"""Share of slates whose model is drawn evenly (gamma)."""
RATE = 0.02
LARGEST_RATIO = 20.0
"""Of a model's probability of an item to the policy's: one lucky click must not decide."""
MEMORY = 0.9995
"""What a slate leaves of the log weights."""


class Exp3:
    """Over the first `models` features, each the log of a model's share."""

    estimated_from = 0
    by_model: ClassVar[Mapping[str, int]] = {"logs": 1}

    def __init__(self, name: str, models: int, explore: float) -> None:
        self.name = name
        self.explore = explore
        self._logs = np.zeros((CONTEXTS, models))
        self.refused = 0  # feedback with a number in it that is not finite

    def weights(self) -> Float64:
        """The probability of each model in each context, (contexts, models)."""
        logs = np.where(np.isfinite(self._logs), self._logs, 0.0)
        raised = np.exp(logs - logs.max(1, keepdims=True))
        weights: Float64 = (1 - MIXING) * raised / raised.sum(1, keepdims=True) + MIXING / self._logs.shape[1]
        return weights

    @classmethod
    def build(cls, parts: PolicyParts) -> Exp3:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, len(parts.models), parts.explore)

    def components(self, asked: PolicyInput, posterior: Posterior) -> Components:
        shares = self._floored(asked.features) + asked.boost[:, :, None]  # (rows, candidates, models)
        scores = np.where(np.isfinite(asked.utility)[:, :, None], shares, -np.inf)
        return Components(self.weights()[asked.context], scores, explore=self.explore)

    def learn(self, feedback: Sequence[SlateFeedback]) -> None:
        for slate_feedback in feedback:
            shares = np.exp(self._floored(slate_feedback.features))  # (seen, models)
            left = np.maximum(1.0 - (np.cumsum(shares, 0) - shares), 1e-3)  # of a model's mass, when its turn came
            ratio = np.minimum(shares / left, 1.0) / np.maximum(slate_feedback.propensity, 1e-9)[:, None]
            gain = (slate_feedback.reward[:, None] * np.minimum(ratio, LARGEST_RATIO)).sum(0)  # (models,)
            if not (np.isfinite(gain).all() and np.isfinite(slate_feedback.features).all()):
                self.refused += 1
                continue
            self._logs[slate_feedback.context] = MEMORY * self._logs[slate_feedback.context] + RATE * gain

    def served(self) -> dict[str, Rows]:
        return {"logs": self._logs}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self._logs = arrays["logs"]

    def state(self) -> dict[str, Array]:
        return {"logs": self._logs.copy()}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self._logs[:] = arrays["logs"]

    def _floored(self, features: Float32) -> Float64:
        """Log share by model, FLOOR where the model knows nothing, (..., models)."""
        shares: Float64 = np.maximum(log_shares(features.astype(np.float64), self._logs.shape[1]), FLOOR)
        return shares
