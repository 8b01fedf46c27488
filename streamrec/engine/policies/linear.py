"""Two classic linear bandits over the fusion's posterior N(m, L^-1): Thompson sampling, and upper confidence bounds."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from streamrec.engine.arrays.batch import Float64
from streamrec.engine.arrays.compiled import standard_normal
from streamrec.engine.policies import Components, PolicyInput, PolicyParts, Posterior
from streamrec.engine.policies.deterministic import ranking
from streamrec.engine.policies.stateless import Unlearned

WEIGHTS = 1_000_000
"""Where the counters of a slate's weight draws begin, far from those of `drawing`."""


class _Factored:
    """The Cholesky factor of the precision, made once per version of the posterior."""

    def __init__(self) -> None:
        self._of: Posterior | None = None
        self._lower: Float64 = np.empty((0, 0))

    def whitened(self, posterior: Posterior, vectors: Float64, transposed: bool) -> Float64:
        """L^-1 vectors, or L^-T vectors; vectors are (features, any)."""
        if self._of is None or self._of.precision is not posterior.precision:
            self._lower = scipy.linalg.cholesky(posterior.precision, lower=True)
            self._of = posterior
        solved: Float64 = scipy.linalg.solve_triangular(
            self._lower, vectors, trans="T" if transposed else "N", lower=True, check_finite=False
        )
        return solved


class Thompson(Unlearned):
    """Ranks by weights drawn afresh for every slate, in Plackett and Luce's order.

    (Agrawal, Goyal: Thompson sampling for contextual bandits with linear payoffs, ICML 2013.)

    The probability of a slate is an integral over all weights. It is estimated: `draws` weight vectors are drawn, the
    slate takes one of them, and its propensities are the average over all. Given the vectors they are exact, so values
    weighted by them are unbiased.
    """

    def __init__(self, name: str, temperature: float, explore: float, draws: int = 64) -> None:
        self.name = name
        self.temperature = temperature
        self.explore = explore
        self.estimated_from = draws
        self._factor = _Factored()

    @classmethod
    def build(cls, parts: PolicyParts) -> Thompson:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.temperature, parts.explore)

    def components(self, asked: PolicyInput, posterior: Posterior) -> Components:
        rows, draws, width = len(asked.seeds), self.estimated_from, len(posterior.mean)
        scores = np.empty((*asked.utility.shape, draws), np.float64)  # (rows, candidates, draws)
        for row in range(rows):  # one product per query: its bits do not depend on how many came with it
            noise = standard_normal(int(asked.seeds[row]) % 2**62, WEIGHTS, draws, width)  # (draws, features)
            weights = posterior.mean + self._factor.whitened(posterior, noise.T, transposed=True).T
            scores[row] = asked.features[row].astype(np.float64) @ weights.T + asked.boost[row, :, None]
        scores /= self.temperature
        scores = np.where(np.isfinite(asked.utility)[:, :, None], scores, -np.inf)
        return Components(
            np.full((rows, draws), 1.0 / draws), scores, explore=self.explore, scale=1.0 / self.temperature
        )


class UpperConfidence(Unlearned):
    """LinUCB: ranks by mean plus `width` standard deviations, with every place given to chance now and then.

    (Li, Chu, Langford, Schapire: A contextual-bandit approach to personalized news article recommendation, WWW 2010.)
    The order itself is certain, so `explore` is what makes every item possible. Deviations are of the difference to the
    average candidate: only differences within one query count.
    """

    estimated_from = 0

    def __init__(self, name: str, explore: float, width: float = 1.0) -> None:
        self.name = name
        self.explore = explore
        self.width = width
        self._factor = _Factored()

    @classmethod
    def build(cls, parts: PolicyParts) -> UpperConfidence:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.explore)

    def components(self, asked: PolicyInput, posterior: Posterior) -> Components:
        bounds = np.full(asked.utility.shape, -np.inf)
        for row in range(len(bounds)):
            there = np.isfinite(asked.utility[row])
            if not there.any():
                continue
            x = asked.features[row, there].astype(np.float64)  # (used, features)
            deviations = self._factor.whitened(posterior, (x - x.mean(0)).T, transposed=False)  # (features, used)
            bounds[row, there] = asked.utility[row, there] + self.width * np.sqrt((deviations**2).sum(0))
        return ranking(bounds, self.explore)
