"""What repeated runs say: a mean, and how far it may be off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over runs and the margin of its 95% interval: None for a single run, 0 where chance plays no part."""

    mean: float
    margin: float | None = None

    def __str__(self) -> str:
        return short(self.mean) + (f" ± {short(self.margin)}" if self.margin else "")


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of at least one value, and its interval by Student's t."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Estimate(mean)
    from scipy.stats import t

    spread = float(np.std(values, ddof=1)) / count**0.5
    return Estimate(mean, float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread)


def short(value: float, digits: int = 3) -> str:
    """So many digits after the point, and no nought before it: .205."""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text
