"""What advertisers offer, by item index: the bid for a click and the budget of a day.

Amounts are whole millionths of the site's currency, so that they add up to the same in any order. Set by the catalogue;
knows nothing of what was spent.
"""

from __future__ import annotations

import numpy as np

from streamrec.engine.arrays.batch import Int32, Int64

MILLION = 1_000_000
MAX_ADS = 4_096
"""Ads that compete; of more, those that bid most."""


def millionths(amount: float | None) -> int:
    """Money as it is counted; 0 for none."""
    return round((amount or 0.0) * MILLION)


class Bids:
    """Of at most `capacity` items; an item without a bid is no ad."""

    def __init__(self, capacity: int) -> None:
        self.bid: Int64 = np.zeros(capacity, np.int64)
        self.budget: Int64 = np.zeros(capacity, np.int64)
        self.revision = 0  # another one whenever anything changed
        self._ads: tuple[int, Int32] = -1, np.empty(0, np.int32)

    def set(self, index: int | Int32, bid: int, budget: int) -> None:
        """What is offered for these items from now on, nothing with a bid of 0."""
        if np.any(self.bid[index] != bid) or np.any(self.budget[index] != budget):
            self.bid[index], self.budget[index] = bid, budget
            self.revision += 1

    def ads(self) -> Int32:
        """The items that are ads, in the order of their index, MAX_ADS at most."""
        if self._ads[0] != self.revision:
            found = np.flatnonzero(self.bid).astype(np.int32)
            if len(found) > MAX_ADS:
                dearest = np.argsort(-self.bid[found], kind="stable")[:MAX_ADS]
                found = np.sort(found[dearest])
            self._ads = self.revision, found
        return self._ads[1]
