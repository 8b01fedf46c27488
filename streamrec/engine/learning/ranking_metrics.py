"""Prequential ranking metrics: every target was ranked before it was learned, and each has one right answer.

A rank is the target's place in the slate, 1 for the top, 0 when it is not in it. Knows nothing of models or files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.integer]
Mask = NDArray[np.bool_]
SLATE_LENGTH = 20


@dataclass(frozen=True, slots=True)
class RankingMetrics:
    """Means over the scored targets, each in [0, 1]; all 0 when nothing was scored. Unknown targets count as missed."""

    targets: int
    recall_10: float
    recall_20: float
    mrr_20: float
    ndcg_10: float

    def as_dict(self) -> dict[str, float]:
        """The names and values as they stand in `report.json`."""
        return asdict(self)


def ranking_metrics(ranks: Ranks, scored: Mask) -> RankingMetrics:
    """All metrics of one ranker.

    Args:
        ranks: (targets,) place in a slate of 20, 0 = not there.
        scored: (targets,) False for the targets of the warm-up.

    Raises:
        ValueError: a rank is not in 0 to 20, or the arrays differ in length.
    """
    ranks = _checked(ranks, scored)[scored]
    return RankingMetrics(
        targets=len(ranks),
        recall_10=_mean(hits(ranks, 10)),
        recall_20=_mean(hits(ranks, 20)),
        mrr_20=_mean(reciprocal_ranks(ranks, 20)),
        ndcg_10=_mean(discounted_gains(ranks, 10)),
    )


def hits(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """1 where the target is in the first k, else 0; the mean is Recall@k, for there is one right answer each."""
    return ((ranks >= 1) & (ranks <= k)).astype(np.float64)


def reciprocal_ranks(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """1/rank within the first k, else 0; the mean is MRR@k."""
    return hits(ranks, k) / np.maximum(ranks, 1)


def discounted_gains(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """1/log2(rank + 1) within the first k, else 0; the mean is NDCG@k, for the ideal list has the one answer on top.

    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002.
    """
    return hits(ranks, k) / np.log2(np.maximum(ranks, 1) + 1.0)


def coverage(recommended: int, known: int) -> float:
    """Share of the known items that were recommended at all; 0 when no item is known."""
    return recommended / known if known else 0.0


def rolling_mean(
    values: NDArray[np.float64], window: int, points: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Means over the last `window` values, at `points` evenly spaced places.

    Returns the places (index of the last value of each window, ascending) and the means; nothing when there are fewer
    values than one window.
    """
    if window < 1 or points < 1 or len(values) < window:
        return np.empty(0, np.int64), np.empty(0)
    ends = np.unique(np.linspace(window, len(values), points).round().astype(np.int64))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    return ends - 1, (sums[ends] - sums[ends - window]) / window


def _checked(ranks: Ranks, scored: Mask) -> Ranks:
    if ranks.shape != scored.shape:
        raise ValueError(f"{ranks.shape} ranks but {scored.shape} marks of what is scored, expected one for each")
    if len(ranks) and not 0 <= ranks.min() <= ranks.max() <= SLATE_LENGTH:
        raise ValueError(f"ranks go from {ranks.min()} to {ranks.max()}, expected 0 (absent) to {SLATE_LENGTH}")
    return ranks


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0
