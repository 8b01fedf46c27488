"""Exposure of new items: the share of recommended positions that hold an item younger than an hour.

Of the first ten places, each slate counted once; an item's age is counted from when the log, or the catalogue, first
named it. The same share is computed for popularity's rankings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Int32, Int64
from streamrec.engine.items.item_table import ItemTable
from streamrec.evaluation.backtest.slices import HOUR_S


@dataclass(frozen=True, slots=True)
class NewItems:
    """Shares of recommended places that held an item younger than an hour, each in [0, 1]."""

    fused: float = 0.0
    popularity: float = 0.0


class NewItemRecorder:
    """Counts positions as rankings come."""

    def __init__(self, items: ItemTable) -> None:
        self._items = items
        self._young = np.zeros(2, np.int64)  # places of the fused list, of popularity
        self._places = np.zeros(2, np.int64)

    def add_slates(self, fused: Int32, popular: Int32, ts: Int64) -> None:
        """Count some rankings.

        Args:
            fused: item indices, best first, (slates, places), NOTHING past the last; `popular` likewise.
            popular: see fused.
            ts: (slates,) when they were made, ms.
        """
        for at, shown in enumerate((fused, popular)):
            there = shown != NOTHING
            age_ms = ts[:, None] - self._items.first_ts[np.maximum(shown, 0)]  # (slates, places)
            self._young[at] += np.count_nonzero(there & (age_ms < HOUR_S * 1000))
            self._places[at] += np.count_nonzero(there)

    def new_items(self) -> NewItems:
        """The shares so far."""
        fused, popularity = (self._young / np.maximum(self._places, 1)).tolist()
        return NewItems(fused, popularity)
