"""Which categories a user leans to: a decayed weight per category, the strongest few kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from streamrec.engine.arrays.batch import CATEGORIES, NOTHING, Examples, Int32, Queries
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.arrays.labels import GAINS
from streamrec.engine.arrays.timeline import REMEMBER, Timeline
from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts

HALF_LIFE_S = 14 * 24 * 3600.0


class Affinity(UserFeature):
    """One row per user of the user table. `category` gives the category codes by item index."""

    arrays = {"categories": NOTHING, "weights": 0, "as_of": 0}  # noqa: RUF012
    keys = ("affinities", "affinities_ts")

    def __init__(
        self,
        rows: int,
        category: Callable[[], Int32],
        gain: Sequence[float],
        names: Callable[[], Sequence[str]],
        code: Callable[[str], int],
    ) -> None:
        self.categories = np.full((rows, CATEGORIES), NOTHING, np.int32)
        self.weights = np.zeros((rows, CATEGORIES), np.float64)  # as of `as_of`
        self.as_of = np.zeros(rows, np.int64)
        self._category = category
        self._gain = np.array(gain, np.float64)  # (event types,) how much one event of a type says
        self._names = names
        self._code = code

    def fold(self, steps: Timeline, queries: Queries, examples: Examples) -> None:
        """Queries see the decayed weights before their moment; events add to their item's category."""
        _fold(
            steps.kind,
            steps.user,
            steps.ref,
            steps.ts,
            steps.item,
            steps.type,
            self._category(),
            self._gain,
            self.categories,
            self.weights,
            self.as_of,
            queries.categories,
            queries.affinity,
        )

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        names = self._names()
        # In the order of the slots: a user who comes back from the store must look to the models as if never gone.
        kept = [
            (int(c), float(w)) for c, w in zip(self.categories[row], self.weights[row], strict=True) if c != NOTHING
        ]
        return {"affinities": {names[code]: weight for code, weight in kept}, "affinities_ts": int(self.as_of[row])}

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        for slot, (name, weight) in enumerate(list(value["affinities"].items())[:CATEGORIES]):
            self.categories[row, slot] = self._code(name)
            self.weights[row, slot] = weight
        self.as_of[row] = value["affinities_ts"]


def build(parts: UserFeatureParts) -> Affinity:
    """The feature, without any user yet."""
    items = parts.items
    return Affinity(0, lambda: items.category, GAINS, items.category_names, items.category_code)


@compiled
def _fold(  # type: ignore[no-untyped-def]
    kind, user, ref, ts, item, event_type, category, gain, categories, weights, as_of, query_categories, query_affinity
):  # fmt: skip
    for step in range(len(kind)):
        row = user[step]
        factor = 0.5 ** (max(ts[step] - as_of[row], 0) / 1000.0 / HALF_LIFE_S)
        if kind[step] != REMEMBER:
            for slot in range(categories.shape[1]):
                query_categories[ref[step], slot] = categories[row, slot]
                query_affinity[ref[step], slot] = weights[row, slot] * factor
            continue
        if item[step] == NOTHING or category[item[step]] == NOTHING or gain[event_type[step]] == 0.0:
            continue
        as_of[row] = max(as_of[row], ts[step])
        target = NOTHING
        weakest = 0
        for slot in range(categories.shape[1]):
            weights[row, slot] *= factor
            if categories[row, slot] == category[item[step]]:
                target = slot
            if weights[row, slot] < weights[row, weakest]:
                weakest = slot
        if target == NOTHING:  # the weakest makes room and its weight is gone
            target = weakest
            categories[row, target] = category[item[step]]
            weights[row, target] = 0.0
        weights[row, target] += gain[event_type[step]]
