"""Item neighbours: items wanted by the same people, by shrunk cosine.

    n(i, j) = sum over the users who wanted both of 1 / (number of items the user wanted)
    s(i, j) = n(i, j) / (sqrt(n(i, i) n(j, j)) + SHRINKAGE)
    score(j) = sum of s(i, j) over the items i of the past that have j among their NEIGHBOURS most similar

Rows of unit length, so that who wants everything counts less: Deshpande, Karypis: Item-based top-N recommendation
algorithms, TOIS 2004. Shrinkage against the noise of rare items: Ferrari Dacrema et al.: A troubling analysis of
reproducibility and progress in recommender systems research, TOIS 2021.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse

from streamrec.engine.arrays.batch import Float32, Int32
from tools.benchmarks.peers import Past, Wanted

NEIGHBOURS = 200
SHRINKAGE = 1.0


class ItemNeighbours:
    """A sparse item-item matrix."""

    def fit(self, wanted: Wanted) -> None:
        matrix = wanted.matrix()
        matrix = matrix.multiply(1.0 / np.sqrt(matrix.sum(axis=1))).tocsr()  # (users, items), rows of unit length
        similar = (matrix.T @ matrix).toarray()  # (items, items)
        size = np.sqrt(similar.diagonal())
        similar /= np.outer(size, size) + np.float32(SHRINKAGE)
        np.fill_diagonal(similar, 0.0)
        self._similar = scipy.sparse.csr_matrix(_largest(similar, NEIGHBOURS))

    def scores(self, users: Int32, past: Past) -> Float32:
        found = (past.bags(self._similar.shape[0]) @ self._similar).toarray()  # (rows, items)
        return np.where(found > 0.0, found, np.float32(-np.inf))


def _largest(weights: Float32, k: int) -> Float32:
    """The `k` largest weights of each row, in place, the others zero."""
    if weights.shape[1] > k:
        others = np.argpartition(weights, -k, axis=1)[:, :-k]
        np.put_along_axis(weights, others, 0.0, axis=1)
    return weights
