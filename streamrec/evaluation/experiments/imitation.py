"""How well an apprentice does as it is shown: the share of slates on which it would have begun with the same item.

Also the overlap at k: the share of a slate's k items that it would have shown as well, at whatever place. Only places
whose outcome is known count, so a slate without a known first place has an overlap and no match.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamrec.evaluation.experiments.confidence import EmpiricalBernstein, Interval
from streamrec.evaluation.experiments.slates import Settlement


@dataclass(frozen=True, slots=True)
class Imitation:
    """How alike an apprentice's slates and the shown ones are; all in [0, 1]."""

    policy: str
    slates: int  # whose first place is known
    match_rate: Interval  # of the first place
    overlap: float  # at k, averaged over slates: nan without any
    k: int  # places of the longest slate


def imitation(settlement: Settlement, policy: str, alpha: float = 0.05) -> Imitation:
    """What an apprentice proposed, beside what was shown."""
    pairs = [(slate, slate.proposed[policy]) for slate in settlement.slates() if policy in slate.proposed]
    matches = EmpiricalBernstein(0.0, 1.0, alpha)
    matches.extend(np.array([float(proposed.first) for _, proposed in pairs if proposed.first is not None]))
    overlaps = [len(slate.items & proposed.items) / len(slate.items) for slate, proposed in pairs]
    return Imitation(
        policy,
        slates=matches.values,
        match_rate=matches.interval(),
        overlap=float(np.mean(overlaps)) if overlaps else float("nan"),
        k=max((len(slate.items) for slate, _ in pairs), default=0),
    )
