"""The policy by default: a weight vector drawn from the posterior, and Plackett and Luce's order by its scores.

Ensemble sampling (Lu, Van Roy, NeurIPS 2017): a few weight vectors are drawn after every update and a slate takes one
of them, so that slates differ as much as the posterior is unsure. Since they are few, propensities are summed over all.
"""

from __future__ import annotations

import numpy as np

from streamrec.engine.policies import Components, PolicyInput, PolicyParts, Posterior
from streamrec.engine.policies.stateless import Unlearned


class PlackettLuce(Unlearned):
    """Scores are divided by `temperature`: the lower, the closer to each vector's plain order."""

    estimated_from = 0

    def __init__(self, name: str, temperature: float, explore: float) -> None:
        self.name = name
        self.temperature = temperature
        self.explore = explore

    @classmethod
    def build(cls, parts: PolicyParts) -> PlackettLuce:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.temperature, parts.explore)

    def components(self, asked: PolicyInput, posterior: Posterior) -> Components:
        scores = asked.features @ posterior.particles.T.astype(np.float32)  # (rows, candidates, particles)
        scores = scores + asked.boost.astype(np.float32)[:, :, None]
        scores = np.where(np.isfinite(asked.utility)[:, :, None], scores / self.temperature, -np.inf)
        weights = np.full((len(asked.seeds), len(posterior.particles)), 1.0 / len(posterior.particles))
        return Components(weights, scores.astype(np.float64), explore=self.explore, scale=1.0 / self.temperature)
