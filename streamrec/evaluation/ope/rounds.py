"""Logged rounds, as OPE needs them: columns, with one row for each item that was shown and seen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Rounds:
    """Rows of one slate stand together, the first choice first. A log of single actions has slates of one row.

    `logged` and `target` are the probabilities of the item at its place, given the places before it, under the policy
    that made the log and under the one to be valued.
    """

    slate: Int64  # (rows,) ascending from 0, no number left out
    reward: Float64  # (rows,)
    logged: Float64  # (rows,) in (0, 1]
    target: Float64  # (rows,) in [0, 1]
    cluster: Int64 | None = None  # (slates,) the user of each, from 0: no two users' slates depend on each other

    def __len__(self) -> int:
        """Rows."""
        return len(self.slate)

    @cached_property
    def slates(self) -> int:
        """How many slates there are."""
        return int(self.slate[-1]) + 1 if len(self.slate) else 0

    @cached_property
    def step(self) -> Int64:
        """How many rows of the same slate come before each row, (rows,)."""
        starts = np.searchsorted(self.slate, np.arange(self.slates))
        return np.arange(len(self.slate)) - starts[self.slate]

    @cached_property
    def steps(self) -> int:
        """Rows of the longest slate."""
        return int(self.step.max()) + 1 if len(self.step) else 0

    @cached_property
    def users(self) -> int | None:
        """How many users there are, None where each slate counts by itself."""
        return None if self.cluster is None else int(self.cluster.max(initial=-1)) + 1

    def by_slate(self, values: Float64) -> Float64:
        """Sums of a row's values over each slate, (slates,)."""
        return np.bincount(self.slate, values, self.slates).astype(np.float64)

    def by_cluster(self, values: Float64) -> Float64:
        """Sums of a row's values over each cluster, (clusters,); over each slate where there are no clusters."""
        return clustered(self.by_slate(values), self.cluster)

    def by_step(self, values: Float64) -> Float64:
        """The values with a column per step, 0 where a slate has no such row, (slates, steps)."""
        out = np.zeros((self.slates, self.steps))
        out[self.slate, self.step] = values
        return out


def clustered(values: Float64, cluster: Int64 | None) -> Float64:
    """Sums of a slate's values over each cluster, (clusters,); the values themselves where there are no clusters."""
    return values if cluster is None else np.bincount(cluster, values).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Expected rewards, predicted by a fit that did not see the slate."""

    shown: Float64  # (rows,) of the item that was shown
    target: Float64  # (rows,) of the target's item at that position, in expectation or of one draw
