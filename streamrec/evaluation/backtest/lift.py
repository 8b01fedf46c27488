"""Lift over a baseline: the difference of the hit rates of the slates and of one plain list, with an interval.

The baseline is the best single list: the one whose first ten hold most targets, chosen when all is known, which
flatters it.

Both rank at the same time, so each target gives +1 (only the slate has it among its first ten), -1 (only the baseline
has it) or 0, and the mean of these is the difference of the hit rates. Targets of one log
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
ALL_TARGETS = "all targets"


@dataclass(frozen=True, slots=True)
class Lift:
    """Hit rates on some scored targets, in [0, 1], and their difference with its interval, in [-1, 1]."""

    targets: int
    share: float
    """Of all scored targets."""
    recall_10: float
    baseline_recall_10: float
    difference: float = 0.0
    lower: float = -1.0
    upper: float = 1.0

    def as_dict(self) -> dict[str, float]:
        """The names and values as they stand in `report.json`."""
        return asdict(self)

    def words(self) -> str:
        """The difference with its interval, in percentage points."""
        return f"{100 * self.difference:+.2f} ({100 * self.lower:+.2f} to {100 * self.upper:+.2f})"

    def verdict(self, baseline: str, targets: str = "targets") -> str:
        """The sentence that opens a report: whether the slates are better than the baseline, and by how much."""
        if self.lower > 0:
            found = "The slates beat the best single list"
        elif self.upper < 0:
            found = "The slates fall behind the best single list"
        else:
            found = "Whether the slates beat the best single list is not certain"
        return (
            f"{found}: {self.recall_10:.2%} of {self.targets:,} {targets} stood in their first ten, {baseline} has "
            f"{self.baseline_recall_10:.2%}, which is {self.words()} points with a 95% interval."
        )


def best_single(lists: Mapping[str, Ranks], scored: Mask) -> str | None:
    """The list with most scored targets among its first ten, the first named of equals; None without a list."""
    return max(lists, key=lambda name: hits(lists[name][scored], PLACES).sum(), default=None)


def lift(fused: Ranks, baseline: Ranks, chosen: Mask, of: int) -> Lift:
    """The lift of `fused` over `baseline` on the targets that are `chosen`, out of `of` scored ones.

    Args:
        fused: (targets,) place in a slate of 20, 0 = not there, in log order; `baseline` likewise.
        baseline: see fused.
        chosen: (targets,).
        of: how many targets were scored.
    """
    ours, theirs = hits(fused[chosen], PLACES), hits(baseline[chosen], PLACES)
    if not len(ours):
        return Lift(0, 0.0, 0.0, 0.0)
    sequence = EmpiricalBernstein(alpha=1 - LEVEL)
    sequence.extend(ours - theirs)
    return Lift(len(ours), len(ours) / of, float(ours.mean()), float(theirs.mean()), *sequence.interval())


def lift_by_slice(fused: Ranks, baseline: Ranks, scored: Mask, parts: Mapping[str, Mask]) -> dict[str, Lift]:
    """The same for all scored targets, and for those of each slice, (targets,) each."""
    whole = {ALL_TARGETS: np.ones(len(scored), bool), **parts}
    return {name: lift(fused, baseline, scored & mask, int(scored.sum())) for name, mask in whole.items()}
