"""Beyond-accuracy metrics: catalogue coverage, evenness of exposure, novelty, personalisation and diversity.

    coverage          distinct items shown / items known
    Gini              of how often each known item was shown: 0 all alike, towards 1 a few get everything
    novelty           mean of -log2(share of all positives so far that were of the item), bits
    personalisation   1 - expected overlap of two slates drawn at random
    diversity         mean share of pairs of a slate that are of different categories

Novelty and diversity: Vargas, Castells: Rank and relevance in novelty and diversity metrics for recommender systems
(RecSys 2011). Personalisation: Zhou et al.: Solving the apparent diversity-accuracy dilemma of recommender systems
(PNAS 2010). All are of the first ten places, and a slate that several targets share counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from streamrec.engine.arrays.batch import NOTHING, Int32
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.learning.ranking_metrics import coverage

PLACES = 10


@dataclass(frozen=True, slots=True)
class Variety:
    """Beyond-accuracy metrics of the slates of scored targets; None where a metric cannot be computed."""

    slates: int = 0
    shown_items: int = 0
    coverage_10: float = 0.0
    gini_10: float = 0.0
    novelty_10_bits: float = 0.0
    personalisation_10: float = 0.0
    diversity_10: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """The names and values as they stand in `report.json`."""
        return asdict(self)


class VarietyRecorder:
    """Accumulates exposure counts; memory is bounded by the items of the log, not by its length."""

    def __init__(self, items: ItemTable) -> None:
        self._items = items
        self._shown: Counter[str] = Counter()
        self._slates = 0
        self._wanted = np.zeros(items.capacity, np.int64)  # positives so far, by item index
        self._since = np.zeros(items.capacity, np.int64)  # first_ts of the item they were counted for
        self._positives = 0
        self._bits, self._places = 0.0, 0
        self._different, self._pairs = 0, 0

    def add_slates(self, slates: Int32, ids: Sequence[Sequence[str]]) -> None:
        """Count some slates: item indices best first, (slates, PLACES), NOTHING past the last; `ids` likewise."""
        there = slates != NOTHING
        self._slates += len(slates)
        for named in ids:
            self._shown.update(named[:PLACES])
        wanted = np.maximum(self._wanted_so_far(slates[there]), 1)
        self._bits += float(np.log2(max(self._positives, 1) / wanted).sum())
        self._places += len(wanted)
        kinds = np.where(there, self._items.category[slates], NOTHING)
        told = (kinds[:, :, None] != NOTHING) & (kinds[:, None, :] != NOTHING)  # (slates, PLACES, PLACES)
        told &= ~np.eye(slates.shape[1], dtype=bool)
        self._pairs += int(told.sum())
        self._different += int((told & (kinds[:, :, None] != kinds[:, None, :])).sum())

    def add_targets(self, items: Int32) -> None:
        """Count targets, (targets,) item indices: each makes its item less novel from now on."""
        self._wanted[items] = self._wanted_so_far(items)
        self._since[items] = self._items.first_ts[items]
        np.add.at(self._wanted, items, 1)
        self._positives += len(items)

    def _wanted_so_far(self, items: Int32) -> NDArray[np.int64]:
        """Targets so far by item; an index given to another item meanwhile (another first time) counts from 0."""
        return np.where(self._since[items] == self._items.first_ts[items], self._wanted[items], 0)

    def variety(self, known_items: int) -> Variety:
        """The figures so far, over so many items that the log has shown."""
        if not self._places:
            return Variety()
        shown = np.array(list(self._shown.values()), np.int64)
        return Variety(
            slates=self._slates,
            shown_items=len(shown),
            coverage_10=coverage(len(shown), known_items),
            gini_10=gini(np.pad(shown, (max(known_items - len(shown), 0), 0))),
            novelty_10_bits=self._bits / self._places,
            personalisation_10=personalisation(shown, self._slates),
            diversity_10=self._different / self._pairs if self._pairs else None,
        )


def gini(counts: NDArray[np.int64]) -> float:
    """Gini coefficient of non-negative counts, (items,): 0 when all are equal or there is nothing."""
    ordered, total = np.sort(counts), int(counts.sum())
    if not total:
        return 0.0
    place = np.arange(1, len(ordered) + 1)
    return float(((2 * place - len(ordered) - 1) * ordered).sum() / (len(ordered) * total))


def personalisation(shown: NDArray[np.int64], slates: int) -> float:
    """1 - the expected share of items that two different slates have in common.

    An item shown n times is shared by n (n - 1) ordered pairs of slates, so no pair has to be looked at.

    Args:
        shown: (items,) in how many slates each stood.
        slates: how many there were.
    """
    if slates < 2:
        return 0.0
    counts = shown.astype(np.float64)
    shared = (counts * (counts - 1)).sum() / (slates * (slates - 1))
    return float(1 - shared / (counts.sum() / slates))
