"""Whether a difference is significant, in words, and about how many more slates a decision needs.

Knows nothing of where a difference comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from streamrec.evaluation.experiments.confidence import MeanInterval

FEW = 30
"""With fewer values on either side, no estimate of the slates still needed is given."""
MOST = 1e6
"""The most times the present data that an estimate of what is needed may be; beyond, none is given."""


class Verdict(StrEnum):
    """What is decided of one side in comparison with the other."""

    BETTER = "better"
    WORSE = "worse"
    UNKNOWN = "not yet known"


@dataclass(frozen=True, slots=True)
class Significance:
    """A decision and, while it is open, about how many more slates it needs; None where that cannot be estimated."""

    decision: Verdict
    slates_needed: int | None = None

    def __str__(self) -> str:
        if self.decision is not Verdict.UNKNOWN:
            return self.decision.value
        if self.slates_needed is None:
            return f"{self.decision.value}: there is too little to say how much more is needed"
        return f"{self.decision.value}: needs about {self.slates_needed:,} more slates"


def assess(
    difference: MeanInterval, nothing: float, values: int, slates: int, margin: Callable[[float], float]
) -> Significance:
    """Decide by a confidence interval of a difference.

    Args:
        difference: its interval, from a confidence sequence.
        nothing: the value at which neither side is better.
        values: independent values on the smaller side.
        slates: on both sides together.
        margin: of the difference, once there are so many times as many values.
    """
    if difference.lower > nothing:
        return Significance(Verdict.BETTER)
    if difference.upper < nothing:
        return Significance(Verdict.WORSE)
    times = times_needed(margin, abs(difference.mean - nothing)) if values >= FEW else math.inf
    return Significance(Verdict.UNKNOWN, rounded((times - 1) * slates) if math.isfinite(times) else None)


def times_needed(margin: Callable[[float], float], distance: float) -> float:
    """How many times as many values as now make a margin as small as `distance`; infinite above `MOST`."""
    low, high = 1.0, MOST
    if not margin(high) <= distance:
        return math.inf
    while high > 1.001 * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if margin(middle) > distance else (low, middle)
    return high


def rounded(count: float) -> int:
    """To two significant digits, upwards, as it is only an estimate."""
    unit: int = 10 ** max(math.floor(math.log10(max(count, 1.0))) - 1, 0)
    return math.ceil(max(count, 1.0) / unit) * unit
