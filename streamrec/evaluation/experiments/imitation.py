"""How closely an apprentice follows the policy that is shown: on which share of slates its first item is the same.

Also the overlap at k: the share of a slate's k items that it proposed too, at any position. Only positions whose
outcome is known count, so a slate whose first position is unknown has an overlap and no match.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamrec.evaluation.experiments.confidence import EmpiricalBernstein, MeanInterval
from streamrec.evaluation.experiments.slates import SettledSlates


@dataclass(frozen=True, slots=True)
class Imitation:
    """Agreement of an apprentice's slates with those shown; rates are in [0, 1]."""

    policy: str
    slates: int  # whose first place is known
    match_rate: MeanInterval  # of the first place
    overlap: float  # at k, averaged over slates: nan without any
    k: int  # places of the longest slate


def imitation(settled: SettledSlates, policy: str, alpha: float = 0.05) -> Imitation:
    """Compare what an apprentice proposed with what was shown; `alpha` is of the match rate's interval."""
    pairs = [(slate, slate.proposed[policy]) for slate in settled.slates() if policy in slate.proposed]
    matches = EmpiricalBernstein(0.0, 1.0, alpha)
    matches.extend(
        np.array([float(proposed.first_matches) for _, proposed in pairs if proposed.first_matches is not None])
    )
    overlaps = [len(slate.items & proposed.items) / len(slate.items) for slate, proposed in pairs]
    return Imitation(
        policy,
        slates=matches.values,
        match_rate=matches.interval(),
        overlap=float(np.mean(overlaps)) if overlaps else float("nan"),
        k=max((len(slate.items) for slate, _ in pairs), default=0),
    )
