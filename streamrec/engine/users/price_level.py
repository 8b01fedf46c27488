"""What a user usually pays: a decayed mean and spread of the logarithm of the prices of what was wanted.

Of the logarithm, because twice as dear is as far as half as dear, and one expensive thing must not move everything.
With gain g of an event, price p, and W and S before it halved every HALF_LIFE_S (West: Updating mean and variance
estimates, Communications of the ACM 1979):

    W <- W + g        d = log p - m        m <- m + g d / W        S <- S + g d (log p - m)

The price is the one that the timeline gives with the event. Nothing learns from it: it tells people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Examples, Queries
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.arrays.labels import GAINS
from streamrec.engine.arrays.timeline import REMEMBER, Timeline
from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts

HALF_LIFE_S = 30 * 24 * 3600.0


def price_named(context: Mapping[str, object] | None) -> float | None:
    """The price that an event's context names: a number above 0."""
    said = None if context is None else context.get("price")
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 < said < math.inf:
        return None
    return float(said)


class PriceLevel(UserFeature):
    """One row per user of the user table."""

    arrays = {"weight": 0, "mean": 0, "squares": 0, "as_of": 0, "events": 0}  # noqa: RUF012
    keys = ("prices",)

    def __init__(self, rows: int, gain: Sequence[float]) -> None:
        self.weight = np.zeros(rows, np.float64)  # this and the next two as of `as_of`
        self.mean = np.zeros(rows, np.float64)  # of the logarithm
        self.squares = np.zeros(rows, np.float64)  # weighted, of the distances from the mean
        self.as_of = np.zeros(rows, np.int64)  # ms
        self.events = np.zeros(rows, np.int64)  # how many had a price, undecayed
        self._gain = np.array(gain, np.float64)  # (event types,)

    def fold(self, steps: Timeline, queries: Queries, examples: Examples) -> None:
        """Events add the price of their item; queries see nothing of it."""
        _fold(
            steps.kind,
            steps.user,
            steps.ts,
            steps.item,
            steps.type,
            steps.price,
            self._gain,
            self.weight,
            self.mean,
            self.squares,
            self.as_of,
            self.events,
        )

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        if not self.events[row]:
            return {}
        return {
            "prices": {
                "weight": float(self.weight[row]),
                "mean": float(self.mean[row]),
                "squares": float(self.squares[row]),
                "ts": int(self.as_of[row]),
                "events": int(self.events[row]),
            }
        }

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        stored = value.get("prices")  # users who were stored before this was known have none
        if stored is not None:
            self.weight[row] = stored["weight"]
            self.mean[row] = stored["mean"]
            self.squares[row] = stored["squares"]
            self.as_of[row] = stored["ts"]
            self.events[row] = stored["events"]


def build(parts: UserFeatureParts) -> PriceLevel:
    """The feature, without any user yet."""
    return PriceLevel(0, GAINS)


@compiled
def _fold(  # type: ignore[no-untyped-def]
    kind, user, ts, item, event_type, price, gain, weight, mean, squares, as_of, events
):  # fmt: skip
    for step in range(len(kind)):
        if kind[step] != REMEMBER or item[step] == NOTHING or gain[event_type[step]] == 0.0:
            continue
        paid = price[step]
        if not paid > 0.0:  # NaN, or a price that has no logarithm
            continue
        row = user[step]
        factor = 0.5 ** (max(ts[step] - as_of[row], 0) / 1000.0 / HALF_LIFE_S)
        said = gain[event_type[step]]
        weight[row] = weight[row] * factor + said
        distance = np.log(paid) - mean[row]
        mean[row] += said * distance / weight[row]
        squares[row] = squares[row] * factor + said * distance * (np.log(paid) - mean[row])
        as_of[row] = max(as_of[row], ts[step])
        events[row] += 1
