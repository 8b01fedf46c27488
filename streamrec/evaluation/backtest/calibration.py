"""Calibration of predicted probabilities against observed frequencies, and how well they rank targets above others.

    ECE   sum over bins of (share of pairs in the bin) * |mean predicted - share wanted|
    AUC   probability that a target gets a higher probability than another candidate

Guo et al.: On calibration of modern neural networks (ICML 2017). Knows nothing of models: log-odds come in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamrec.engine.arrays.batch import NOTHING, Float32, Int32, MicroBatch

BINS = 10
FINE_BINS = 4_096
"""Bins of log-odds that the AUC is taken from: between -16 and 16, so each is 0.008 wide."""
MAX_LOG_ODDS = 16.0
DRAWS = 3
"""Other candidates of the query that each target is set against: as many as the click model learns from."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The pairs whose predicted probability lies in one tenth of [0, 1]."""

    pairs: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Figures of one model's probabilities over `pairs` of a query and an item."""

    pairs: int
    ece: float
    auc: float
    bins: tuple[ReliabilityBin, ...]


class CalibrationRecorder:
    """Counts pairs by bins of their probability; memory does not grow with the log."""

    def __init__(self) -> None:
        self._predicted = np.zeros(BINS)
        self._counts = np.zeros(2 * BINS, np.int64)  # not wanted, then wanted
        self._fine = np.zeros(2 * FINE_BINS, np.int64)  # likewise

    def add(self, log_odds: NDArray[np.float64], wanted: NDArray[np.bool_]) -> None:
        """Add pairs: the predicted log-odds, and whether the item was a target, (pairs,) each."""
        probability = 1 / (1 + np.exp(-log_odds))
        tenth = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
        fine = np.clip((log_odds + MAX_LOG_ODDS) * (FINE_BINS / (2 * MAX_LOG_ODDS)), 0, FINE_BINS - 1).astype(np.int64)
        np.add.at(self._predicted, tenth, probability)
        np.add.at(self._counts, tenth + BINS * wanted, 1)
        np.add.at(self._fine, fine + FINE_BINS * wanted, 1)

    def calibration(self) -> Calibration | None:
        """The figures so far; None before there was at least one target and one other candidate."""
        counts = self._counts.reshape(2, BINS)
        pairs = counts.sum(0)
        refused, wanted = self._fine.reshape(2, FINE_BINS)
        if not wanted.sum() or not refused.sum():
            return None
        bins = [
            ReliabilityBin(int(n), float(p / n), float(w / n)) if n else ReliabilityBin(0, 0.0, 0.0)
            for n, p, w in zip(pairs, self._predicted, counts[1], strict=True)
        ]
        lower = np.cumsum(refused) - refused / 2  # other candidates in lower bins, half of those in the same
        return Calibration(
            pairs=int(pairs.sum()),
            ece=float(sum(b.pairs * abs(b.predicted - b.observed) for b in bins) / pairs.sum()),
            auc=float((wanted * lower).sum() / (wanted.sum() * refused.sum())),
            bins=tuple(bins),
        )


def pairs(
    batch: MicroBatch, scores: Float32, rows: NDArray[np.int64], targets: Int32
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Each target beside a few other candidates of its query: a model's log-odds, and which were wanted, (pairs,) each.

    Targets that were no candidates have no score and are left out. Which others are drawn follows from the query's
    seed; an item that the query's other targets ask for is not taken for unwanted.

    Args:
        batch: holds the queries and their candidates.
        scores: (queries, candidates) the model's.
        rows: (targets,) query rows.
        targets: (targets,) item indices.
    """
    items = batch.candidates.items[rows]  # (targets, candidates)
    place = (items == targets[:, None]).argmax(1)
    there = items[np.arange(len(rows)), place] == targets
    rows, targets, items, place = rows[there], targets[there], items[there], place[there]
    offered = np.count_nonzero(items != NOTHING, axis=1).astype(np.uint64)
    shifts = np.arange(DRAWS, dtype=np.uint64) * np.uint64(20)  # a seed has 62 random bits: 20 for each draw
    draws = batch.queries.seed[rows][:, None] >> shifts & np.uint64(2**20 - 1)
    drawn = (draws % offered[:, None]).astype(np.int64)  # (targets, DRAWS)
    others = np.take_along_axis(items, drawn, axis=1)
    asked_for = (rows[:, None, None] == rows) & (others[:, :, None] == targets)  # (targets, DRAWS, targets)
    unwanted = ~asked_for.any(2)
    log_odds = np.concatenate([scores[rows, place], scores[rows[:, None], drawn][unwanted]])
    return log_odds.astype(np.float64), np.arange(len(log_odds)) < len(rows)
