"""Windows over the log's own time, made of equal parts: which part an event falls into, and what the parts add up to.

A window of length L at time t is the part that t falls into and those before it, twenty in all; so it covers between
19/20 and the whole of L. `before` is the same window one length earlier. Parts begin at multiples of their own length,
so counts are a function of the events and of t alone: the order in which events came changes nothing.

    rate         = 3600 * count / L                                  events per hour
    acceleration = log2((count + s) / (before + s)),  s = SHRINKAGE  doublings against one length ago

The pseudo-counts shrink what few events say: 1 after 0 is +0.26, 100 after 50 is +0.93. Within a new part the
acceleration of an even demand lies up to 0.07 below 0, the same for all items. It is the posterior mean rate's ratio
under a Gamma prior with s events in a window (Gelman et al., Bayesian Data Analysis, 2.6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from streamrec.errors import ConfigError

PARTS = 20
SHRINKAGE = 5.0
SECONDS_PER_HOUR = 3600.0

Parts = dict[int, int]
"""How many events fell into each part that any did; a key names the part and its window (`Windows.keys`)."""
Sums = tuple[int, ...]
"""Of each window in turn, count and before."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Some windows, shortest first."""

    lengths_s: tuple[int, ...]
    part_ms: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.lengths_s or list(self.lengths_s) != sorted(set(self.lengths_s)) or self.lengths_s[0] < 1:
            raise ConfigError(f"trends.windows_s is {list(self.lengths_s)}, expected lengths in s, shortest first")
        object.__setattr__(self, "part_ms", tuple(length * 1000 // PARTS for length in self.lengths_s))

    def now(self, clock: int) -> tuple[int, ...]:
        """The number of each window's newest part at `clock`, ms."""
        return tuple(clock // part for part in self.part_ms)

    def keys(self, ts: int, now: tuple[int, ...]) -> list[int]:
        """The parts that an event of `ts` (ms) falls into, of every window in which it can still matter."""
        width = len(now)
        return [
            ts // part * width + at
            for at, part in enumerate(self.part_ms)
            if now[at] - ts // part < 2 * PARTS  # older than the window before the window: too late for this one
        ]

    def sums(self, parts: Parts, now: tuple[int, ...]) -> Sums:
        """What the windows hold; parts that can never matter again are removed from `parts`."""
        width = len(now)
        sums = [0] * (2 * width)
        gone = []
        for key, count in parts.items():
            number, at = divmod(key, width)
            age = now[at] - number
            if age < PARTS:
                sums[2 * at] += count
            elif age < 2 * PARTS:
                sums[2 * at + 1] += count
            else:
                gone.append(key)
        for key in gone:
            del parts[key]
        return tuple(sums)

    def longest(self, parts: Mapping[int, int]) -> int:
        """How many events the longest window remembers."""
        width = len(self.lengths_s)
        return sum(count for key, count in parts.items() if key % width == width - 1)


def rate_per_hour(count: int, length_s: int) -> float:
    """Events per hour of a window that holds so many."""
    return count * SECONDS_PER_HOUR / length_s


def acceleration(count: int, before: int) -> float:
    """Doublings against one window's length ago, shrunk towards 0."""
    return math.log2((count + SHRINKAGE) / (before + SHRINKAGE))
