"""Co-visitation: items touched by the same people, by cosine.

    score(item) = log sum over the user's items j of FADE ** (place of j) * c(j, item) / sqrt((c(j) + s) (c(item) + s))

with decayed counts c, shrunk by s against the noise of rare items. Item-based collaborative filtering (Sarwar et al.:
Item-based collaborative filtering recommendation algorithms, WWW 2001), kept incrementally.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.features.batch import HISTORY, RECENT, Array, Float32, Int32, MicroBatch, Queries
from streamrec.neighbours import NeighbourTable


class CoVisitation:
    """Joins an item with the items before it, in both directions."""

    def __init__(self, name: str, half_life_s: float, capacity: int, slots: int = 256, fade: float = 0.97) -> None:
        self.name = name
        self.table = NeighbourTable(capacity, slots, half_life_s)
        self._learn_fade = np.ones(RECENT)
        self._fade = fade ** np.arange(HISTORY, dtype=np.float64)

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        return self.table.score(queries.items[rows], _whole(queries, rows), self._fade, True, items)

    def strongest(self, queries: Queries, rows: slice, k: int) -> Int32:
        """The items that score best for each query, best first, (rows, k)."""
        return self.table.strongest(queries.items[rows], _whole(queries, rows), self._fade, True, k)

    def learn(self, batch: MicroBatch) -> None:
        examples = batch.examples
        wanted = np.flatnonzero(examples.label[: batch.learned] == 1)
        reach = np.full(len(wanted), RECENT, np.int32)
        self.table.learn(
            examples.item[wanted],
            examples.ts[wanted],
            examples.recent[wanted],
            reach,
            examples.weight[wanted],
            self._learn_fade,
            mutual=True,
        )

    def forget(self, items: Int32) -> None:
        self.table.forget(items)

    def state(self) -> dict[str, Array]:
        return self.table.state()

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.table.restore(arrays)


def _whole(queries: Queries, rows: slice) -> Int32:
    """The whole history counts, not this session alone."""
    return np.full(len(queries.ts[rows]), HISTORY, np.int32)
