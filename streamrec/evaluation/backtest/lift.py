"""Lift over popularity: the difference of the hit rates of the fused list and of plain popularity, with an interval.

Both rank the same candidates at the same time, so each target gives +1 (only the fused list has it among its first
ten), -1 (only popularity has it) or 0, and the mean of these is the difference of the hit rates. Targets of one log
depend on each other; what the interval covers is the average over them of the difference expected given everything
before, which needs no independence (`experiments.confidence.EmpiricalBernstein`). It holds at every length of the log
at once, and is wide where targets are few.

Knows nothing of what the targets have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from streamrec.engine.learning.ranking_metrics import Mask, Ranks, hits
from streamrec.evaluation.experiments.confidence import EmpiricalBernstein

PLACES = 10
LEVEL = 0.95
"""Coverage of the intervals."""


@dataclass(frozen=True, slots=True)
class Lift:
    """Hit rates on some scored targets, in [0, 1], and their difference with its interval, in [-1, 1]."""

    targets: int
    share: float
    """Of all scored targets."""
    recall_10: float
    popularity_recall_10: float
    difference: float = 0.0
    lower: float = -1.0
    upper: float = 1.0

    def as_dict(self) -> dict[str, float]:
        """The names and values as they stand in `report.json`."""
        return asdict(self)

    def words(self) -> str:
        """The difference with its interval, in words."""
        return f"{self.difference:+.3f} ({self.lower:+.3f}, {self.upper:+.3f})"


def lift_over_popularity(fused: Ranks, popularity: Ranks, chosen: Mask, of: int) -> Lift:
    """The lift of `fused` over `popularity` on the targets that are `chosen`, out of `of` scored ones.

    Args:
        fused: (targets,) place in a slate of 20, 0 = not there, in log order; `popularity` likewise.
        popularity: see fused.
        chosen: (targets,).
        of: how many targets were scored.
    """
    ours, theirs = hits(fused[chosen], PLACES), hits(popularity[chosen], PLACES)
    if not len(ours):
        return Lift(0, 0.0, 0.0, 0.0)
    sequence = EmpiricalBernstein(alpha=1 - LEVEL)
    sequence.extend(ours - theirs)
    return Lift(len(ours), len(ours) / of, float(ours.mean()), float(theirs.mean()), *sequence.interval())


def lift_by_slice(fused: Ranks, popularity: Ranks, scored: Mask, parts: Mapping[str, Mask]) -> dict[str, Lift]:
    """The same for all scored targets, and for those of each slice, (targets,) each."""
    whole = {"all targets": np.ones(len(scored), bool), **parts}
    return {
        name: lift_over_popularity(fused, popularity, scored & mask, int(scored.sum())) for name, mask in whole.items()
    }
