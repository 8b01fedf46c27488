"""Page-Hinkley's test: whether a stream of numbers has left the level it had.

    m    = mean of all numbers so far
    up   = sum of (x - m - delta), beside the least it ever was       alarm when it has risen by more than the threshold
    down = sum of (x - m + delta), beside the most it ever was        or fallen by as much

Page: Continuous inspection schemes, Biometrika 41 (1954). The same numbers as `river.drift.PageHinkley` without
forgetting, in the same order (a test holds it to that). Written out because river's test can be saved and restored by
its private fields alone, and cannot be imported without river's data sets, which load scikit-learn and pandas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class PageHinkley:
    """Its fields are all that it remembers."""

    count: float = 0.0
    mean: float = 0.0
    sum_increase: float = 0.0
    sum_decrease: float = 0.0
    least_increase: float = math.inf
    most_decrease: float = -1.0
    alarm: bool = False
    """Whether the last number gave one; the next begins anew."""

    def __post_init__(self) -> None:
        self.alarm = bool(self.alarm)  # a snapshot has numbers alone

    def update(self, x: float, *, delta: float, threshold: float, least_count: int) -> None:
        """Take a number; there is no alarm before `least_count` of them."""
        if self.alarm:
            self.__init__()  # type: ignore[misc]
        self.count += 1.0
        self.mean += (1.0 / self.count) * (x - self.mean)
        deviation = x - self.mean
        self.sum_increase = self.sum_increase + deviation - delta
        self.sum_decrease = self.sum_decrease + deviation + delta
        self.least_increase = min(self.least_increase, self.sum_increase)
        self.most_decrease = max(self.most_decrease, self.sum_decrease)
        fall = self.most_decrease - self.sum_decrease
        self.alarm = self.count >= least_count and max(self.rise, fall) > threshold

    @property
    def rise(self) -> float:
        """How far the sum has risen from its least."""
        return self.sum_increase - self.least_increase
