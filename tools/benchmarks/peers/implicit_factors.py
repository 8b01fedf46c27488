"""Matrix factorisation by the library implicit: users and items as vectors, their products as scores.

ALS: Hu, Koren, Volinsky: Collaborative filtering for implicit feedback datasets, ICDM 2008. A user's vector is solved
for from the past as of now, so those who came after the training have one too.
BPR: Rendle et al.: BPR: Bayesian personalized ranking from implicit feedback, UAI 2009. Users have the vectors of the
training; of who came later it knows nothing.

Neither knows an order, and both find nothing as close to a user as the item just touched; it is left out.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Float32, Int32
from streamrec.errors import ConfigError
from tools.benchmarks.peers import Past, Wanted


class Library:
    """A model of the library, made anew for every training: one thread, one seed."""

    def __init__(self, module: str, name: str, seed: int, **options: float) -> None:
        """`options` as the library names them.

        Raises:
            ConfigError: the library is not installed.
        """
        self._untrained = partial(getattr(_library(module), name), num_threads=1, random_state=seed, **options)

    def fit(self, wanted: Wanted) -> None:
        self._model = self._untrained()
        self._model.fit(wanted.matrix(), show_progress=False)


class AlternatingLeastSquares(Library):
    """Weighted least squares over all pairs of user and item."""

    def __init__(
        self, seed: int, factors: int = 128, regularization: float = 100.0, alpha: float = 40.0, iterations: int = 15
    ) -> None:
        """`alpha` is how much more a wanted pair weighs than another one.

        Raises:
            ConfigError: the library is not installed.
        """
        options = {"factors": factors, "regularization": regularization, "alpha": alpha, "iterations": iterations}
        super().__init__("implicit.cpu.als", "AlternatingLeastSquares", seed, **options)

    def scores(self, users: Int32, past: Past) -> Float32:
        items = self._model.item_factors  # (items, factors)
        bags = past.bags(len(items))
        vectors = self._model.recalculate_user(np.arange(len(users)), bags)  # (rows, factors)
        found: Float32 = vectors @ items.T  # (rows, items)
        found[bags.getnnz(axis=1) == 0] = -np.inf
        return _without_newest(found, past)


class PairwiseRanking(Library):
    """Gradient steps on pairs of a wanted item and another one."""

    def __init__(
        self, seed: int, factors: int = 64, learning_rate: float = 0.01, regularization: float = 0.01, passes: int = 100
    ) -> None:
        """As implicit names them.

        Raises:
            ConfigError: the library is not installed.
        """
        steps = {"learning_rate": learning_rate, "iterations": passes}
        options = {"factors": factors, "regularization": regularization, **steps}
        super().__init__("implicit.cpu.bpr", "BayesianPersonalizedRanking", seed, **options)

    def scores(self, users: Int32, past: Past) -> Float32:
        found: Float32 = self._model.user_factors[users] @ self._model.item_factors.T  # (rows, items)
        found[users == NOTHING] = -np.inf
        return _without_newest(found, past)


def _without_newest(scores: Float32, past: Past) -> Float32:
    newest = past.items[:, 0]
    there = np.flatnonzero(newest != NOTHING)
    scores[there, newest[there]] = -np.inf
    return scores


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            "peers 'als' and 'bpr' need the library implicit, which is not installed: pip install -c constraints.txt "
            "-e '.[dev]', or choose other peers"
        ) from None
