"""Recommenders trained in batches, one file each, to compare the live system with.

They know arrays alone; `peer.py` seats one of them among the models of a recommender.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse

from streamrec.engine.arrays.batch import NOTHING, Float32, Int32, Int64

FADE = 0.8
"""What is left of an item's say with each step back. Without it (1.0) every method is weaker: EASE and ALS lose 6% and
13% of their Recall@10 on ml100k, 3% and 2% on yoochoose100k."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a training learns from: one row per wanted item, in log order."""

    user: Int32  # (events,) row of the user
    item: Int32  # (events,) column of the item
    ts: Int64  # (events,) ms
    users: int
    items: int

    def matrix(self) -> Any:
        """Who wanted what: sparse (users, items), float32, 1 however often."""
        matrix = scipy.sparse.csr_matrix(
            (np.ones(len(self.user), np.float32), (self.user, self.item)), (self.users, self.items)
        )
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return matrix


@dataclass(frozen=True, slots=True)
class Past:
    """What some users did last, as of now."""

    items: Int32  # (rows, places) columns, newest first, NOTHING for an empty place
    steps: Int32  # (rows, places) moments back: items of one moment (a basket) share a step, 0 is the newest

    def bags(self, items: int) -> Any:
        """Each item once, as of the last time: sparse (rows, items), float32, FADE ** steps."""
        row, place = np.nonzero(self.items != NOTHING)
        item = self.items[row, place]
        _, newest = np.unique(row * items + item, return_index=True)
        weight = FADE ** self.steps[row, place][newest].astype(np.float32)
        return scipy.sparse.csr_matrix((weight, (row[newest], item[newest])), (len(self.items), items))


class Method(Protocol):
    """A way to learn from everything at once."""

    def fit(self, wanted: Wanted) -> None:
        """Begin anew and learn from all of this. The same rows give the same parameters."""

    def scores(self, users: Int32, past: Past) -> Float32:
        """How much each item is wanted, (rows, items), -inf where nothing is known; only their order counts.

        Args:
            users: (rows,) row of the user at the last training, NOTHING for who came later.
            past: of the same users, now.
        """
