"""What may be said of a difference, in words, and how much more it would take to say something.

Knows nothing of where a difference comes from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from streamrec.evaluation.experiments.confidence import Interval

FEW = 30
"""Below so many values on either side, a guess of how many more are needed would be a guess about nothing."""
MOST = 1e6
"""Times the data there are: beyond that the two are alike for all that matters."""


class SignificanceTest(StrEnum):
    """How one side stands to the other."""

    BETTER = "better"
    WORSE = "worse"
    UNKNOWN = "not yet known"


@dataclass(frozen=True, slots=True)
class Significance:
    """A standing and, while it is unknown, about how many more slates it would take; None where nobody can say."""

    standing: SignificanceTest
    slates_needed: int | None = None

    def __str__(self) -> str:
        if self.standing is not SignificanceTest.UNKNOWN:
            return self.standing.value
        if self.slates_needed is None:
            return f"{self.standing.value}: there is too little to say how much more is needed"
        return f"{self.standing.value}: needs about {self.slates_needed:,} more slates"


def verdict(difference: Interval, nothing: float, values: int, slates: int) -> Significance:
    """What a difference says.

    Args:
        difference: with its confidence sequence.
        nothing: where neither side is better.
        values: independent values on the smaller side.
        slates: on both sides together.
    """
    if difference.lower > nothing:
        return Significance(SignificanceTest.BETTER)
    if difference.upper < nothing:
        return Significance(SignificanceTest.WORSE)
    margin, distance = (difference.upper - difference.lower) / 2, abs(difference.mean - nothing)
    if values < FEW or not math.isfinite(margin) or distance == 0:
        return Significance(SignificanceTest.UNKNOWN)
    factor = _factor(values, margin / distance)
    return Significance(SignificanceTest.UNKNOWN, _rounded((factor - 1) * slates) if factor < MOST else None)


def _factor(values: int, shrink: float) -> float:
    """How many times as many values make the margin `shrink` times smaller, if it goes like sqrt(log n / n)."""
    low, high = 1.0, MOST
    for _ in range(60):
        middle = math.sqrt(low * high)
        narrower = math.sqrt(middle * math.log(values) / math.log(middle * values))
        low, high = (middle, high) if narrower < shrink else (low, middle)
    return high


def _rounded(count: float) -> int:
    """To two digits, upwards: it is a guess."""
    unit: int = 10 ** max(math.floor(math.log10(max(count, 1.0))) - 1, 0)
    return math.ceil(max(count, 1.0) / unit) * unit
