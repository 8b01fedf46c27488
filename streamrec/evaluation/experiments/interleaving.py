"""Team-draft interleaving: two policies fill one slate, and the clicks show which of them users prefer.

Both pick items in turns, a coin deciding in each round which picks first, and an item's reward counts for the policy
that picked it (its team). A slate is won
by the team with the larger reward; equal ones, or none at all, are a tie. Of n slates

    preference = (wins of the first + ties / 2) / n

is 1/2 where neither is preferred. Each slate shows both to the same user at the same time, so differences between users
cancel, and far fewer slates are needed than with arms. Every slate counts, in the order in which they were shown.

What the confidence sequence covers is the average preference of the slates that were shown, each given the past. It
needs no independence between the slates of one user, and does not extend to users who were not in the experiment.

Sources: Radlinski, Kurup, Joachims, "How does clickthrough data reflect retrieval quality?", CIKM 2008; Chapelle,
Joachims, Radlinski, Yue, "Large-scale validation and analysis of interleaved search evaluation", TOIS 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.evaluation.experiments.arms import IntervalsOverTime
from streamrec.evaluation.experiments.confidence import EmpiricalBernstein, Floats, MeanInterval, MeanIntervals
from streamrec.evaluation.experiments.significance import Significance, assess
from streamrec.evaluation.experiments.slates import SettledSlates

TIGHT_AT = 50.0
"""The variance sum at which the preference is narrowest: 500 slates of which four in ten are no ties."""


@dataclass(frozen=True, slots=True)
class InterleavingResult:
    """How often each of two policies won; preference and significance are those of `first`."""

    first: str
    second: str
    slates: int
    wins: int
    losses: int
    ties: int
    preference: MeanInterval
    significance: Significance
    trace: IntervalsOverTime


def compare_interleaved(
    settled: SettledSlates, alpha: float = 0.05, order: Sequence[str] = ()
) -> InterleavingResult | None:
    """Compare the two policies that were interleaved; None where none were.

    The one named first in `order` becomes `first`. Where several pairs were interleaved one after the other, the pair
    of the latest slate is compared, and slates of other pairs are left out.
    """
    slates = [slate for slate in settled.slates() if slate.teams]
    pair = next((set(slate.teams) for slate in reversed(slates) if len(slate.teams) == 2), None)
    if pair is None:
        return None
    named = [name for name in order if name in pair]
    first, second = (*named, *sorted(pair - set(named)))
    shared = [slate for slate in slates if set(slate.teams) <= pair]
    gains = np.array([slate.teams.get(first, 0.0) - slate.teams.get(second, 0.0) for slate in shared])  # (slates,)
    won = np.where(np.abs(gains) < 1e-12, 0.0, np.sign(gains))
    sequence = EmpiricalBernstein(-1.0, 1.0, alpha, TIGHT_AT)
    path = MeanIntervals(*(_preference(part) for part in sequence.extend(won)))
    preference = MeanInterval(*(float(part[-1]) for part in path))
    return InterleavingResult(
        first,
        second,
        slates=len(shared),
        wins=int((won > 0).sum()),
        losses=int((won < 0).sum()),
        ties=int((won == 0).sum()),
        preference=preference,
        significance=assess(preference, 0.5, len(shared), len(shared), lambda times: sequence.margin(times) / 2),
        trace=IntervalsOverTime(np.array([slate.ts for slate in shared], np.int64), *path),
    )


def _preference(part: Floats) -> Floats:
    """From a mean of wins and losses, in [-1, 1], to a share of slates."""
    preference: Floats = (1.0 + part) / 2.0
    return preference
