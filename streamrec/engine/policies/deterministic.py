"""Policies that rank in one way and learn nothing by it: greedy, one model alone, and chance."""

from __future__ import annotations

import numpy as np

from streamrec.engine.arrays.batch import Float64
from streamrec.engine.policies import Components, PolicyInput, PolicyParts, Posterior
from streamrec.engine.policies.stateless import Unlearned

BEHIND = 1e3
"""Far below every log mass: there, what a model does not know follows."""


class Greedy(Unlearned):
    """The best by the fusion's mean first, always."""

    estimated_from = 0

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def build(cls, parts: PolicyParts) -> Greedy:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name)

    def components(self, asked: PolicyInput, posterior: Posterior) -> Components:
        return ranking(asked.utility)


class ModelAlone(Unlearned):
    """The best by one model first; what it does not know follows in the order of another, `fill`.

    `model` and `fill` are their places among the models.
    """

    estimated_from = 0

    def __init__(self, name: str, model: int, fill: int) -> None:
        self.name = name
        self._model = model
        self._fill = fill

    def components(self, asked: PolicyInput, posterior: Posterior) -> Components:
        own, fill = (
            asked.scores[model].astype(np.float64) for model in (self._model, self._fill)
        )  # (rows, candidates)
        behind = np.where(np.isfinite(fill), fill - BEHIND, -2 * BEHIND)
        scores = np.where(np.isfinite(own), own, behind) + asked.boost
        return ranking(np.where(np.isfinite(asked.utility), scores, -np.inf))


class Uniform(Unlearned):
    """Every order of the candidates is as likely as any other, whatever is raised by rule."""

    estimated_from = 0

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def build(cls, parts: PolicyParts) -> Uniform:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name)

    def components(self, asked: PolicyInput, posterior: Posterior) -> Components:
        even = np.where(np.isfinite(asked.utility), 0.0, -np.inf)[:, :, None]
        return Components(np.ones((len(even), 1)), even, scale=0.0)


def ranking(scores: Float64, explore: float = 0.0) -> Components:
    """One hard order for each row, from scores (rows, candidates), -inf where there is no item."""
    return Components(np.ones((len(scores), 1)), scores[:, :, None], hard=True, explore=explore)
