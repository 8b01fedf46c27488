"""Co-visitation: items touched by the same people, by cosine.

    score(item) = log sum over the user's items j of FADE ** (steps to j) * c(j, item) / sqrt((c(j) + s) (c(item) + s))

with decayed counts c, shrunk by s against the noise of rare items; pairs far apart in the history count less, and
items of one moment, a basket, are equally far. Item-based collaborative filtering (Sarwar et al.: Item-based
collaborative filtering recommendation algorithms, WWW 2001), kept incrementally.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from streamrec.engine.arrays.batch import HISTORY, RECENT, Array, Excluded, Float32, Int32, MicroBatch, Queries
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.models import ModelParts
from streamrec.engine.models.neighbour_table import NeighbourTable

HALF_LIFE_S = 90 * 86_400.0
RECENT_FADE = 0.75
"""Of co-visitation as the last few items see it."""
LEARN_FADE = 0.9
"""What each step between two items of a history takes from their pair."""
FAINTEST = 0.005
"""Steps that would count less than this are not looked at."""


class CoVisitationView:
    """A look at what a `CoVisitation` learns: `fade` says how fast older items lose their say.

    The whole history shows a taste, the last few items show the present aim; which of the two matters differs by
    log and by moment.
    """

    twins: ClassVar[Sequence[str]] = ("covisit", "covisit_recent")

    def __init__(self, name: str, table: NeighbourTable, fade: float) -> None:
        self.name = name
        self.table = table
        fading = fade ** np.arange(HISTORY, dtype=np.float64)
        self._fade = fading[fading >= FAINTEST]

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        return self.table.score(
            queries.items[rows], queries.steps[rows], _whole(queries, rows), self._fade, True, items
        )

    def strongest(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        """The items that score best for each query and are not excluded, best first, (rows, k)."""
        return self.table.strongest(
            queries.items[rows], queries.steps[rows], _whole(queries, rows), self._fade, True, k, excluded
        )

    def learn(self, batch: MicroBatch) -> None:
        """The table is learned by its owner."""

    def forget(self, items: Int32) -> None:
        """The table is its owner's."""

    def served(self) -> dict[str, Rows]:
        return {}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """The table is served by its owner."""

    def state(self) -> dict[str, Array]:
        return {}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Nothing of its own was saved."""


class CoVisitation(CoVisitationView):
    """Owns the table: joins an item with the items before it, in both directions."""

    def __init__(self, name: str, half_life_s: float, capacity: int, slots: int = 256, fade: float = 0.95) -> None:
        super().__init__(name, NeighbourTable(capacity, slots, half_life_s), fade)
        self._learn_fade = LEARN_FADE ** np.arange(RECENT, dtype=np.float64)

    @classmethod
    def build(cls, parts: ModelParts) -> CoVisitation:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, HALF_LIFE_S, parts.capacity)

    def learn(self, batch: MicroBatch) -> None:
        examples = batch.examples
        wanted = np.flatnonzero(examples.label[: batch.learned] == 1)
        reach = np.full(len(wanted), RECENT, np.int32)
        self.table.learn(
            examples.item[wanted],
            examples.ts[wanted],
            examples.recent[wanted],
            examples.recent_steps[wanted],
            reach,
            examples.weight[wanted],
            self._learn_fade,
            mutual=True,
        )

    def forget(self, items: Int32) -> None:
        self.table.forget(items)

    def served(self) -> dict[str, Rows]:
        return self.table.served()

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self.table.serve(arrays, changed)

    def touched(self, since: int) -> tuple[int, ChangedRows]:
        return self.table.touched(since)

    def state(self) -> dict[str, Array]:
        return self.table.state()

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.table.restore(arrays)


def build_recent(parts: ModelParts) -> CoVisitationView:
    """Co-visitation as the last few items see it: a view of `covisit` where that is built, for one table is enough."""
    whole = parts.models.get("covisit")
    if isinstance(whole, CoVisitation):
        return CoVisitationView(parts.name, whole.table, RECENT_FADE)
    return CoVisitation(parts.name, HALF_LIFE_S, parts.capacity, fade=RECENT_FADE)


def _whole(queries: Queries, rows: slice) -> Int32:
    """The whole history counts, not this session alone."""
    return np.full(len(queries.ts[rows]), HISTORY, np.int32)
