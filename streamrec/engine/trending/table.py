"""What the trends say of items now, by item index: how often each is wanted in each window, and what follows from it.

    momentum(item) = sum over the windows of rate * 2 ** acceleration
                   = sum over the windows L of  3600 count / L * (count + s) / (before + s),   s = SHRINKAGE

the demand per hour that each window expects of the next one if the growth went on, added up: what is wanted now counts
through the short windows, what is wanted anyway through the long ones. Rate and acceleration: `windows.py`.

The table is filled from the records of a service (`topic_counts.py`), or from counts made in this very
process (`local_counts.py`). What is older than `stale_after_s` at the time of a query is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from streamrec.engine.arrays.batch import NOBODY, Array, Bool, Float32, Int32, Int64, MicroBatch
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.arrays.top_k import best
from streamrec.engine.following.served import Arrays, ChangedRows, Rows, Served
from streamrec.engine.trending.windows import SECONDS_PER_HOUR, SHRINKAGE

TRENDS = "trends"
"""What a slate calls them when they are stale."""
COUNT, BEFORE = 0, 1


class TrendTable:
    """At most `capacity` items, by index."""

    def __init__(self, capacity: int, lengths_s: Sequence[int], stale_after_s: float) -> None:
        """`lengths_s` are those of the windows, shortest first."""
        self.lengths_s = tuple(lengths_s)
        self.clock = 0
        """The newest log time that was said, ms; 0: nothing was ever said."""
        self.rows = 0
        self.said: Int64 = np.zeros((capacity, len(lengths_s), 2), np.int64)  # COUNT and BEFORE of each window
        self.log_momentum: Float32 = np.full(capacity, -np.inf, np.float32)  # (capacity,) -inf: in no window
        self._stale_after_ms = round(stale_after_s * 1000)
        self._lengths = np.array(lengths_s, np.float64)
        self._everything: Bool = np.ones(capacity, np.bool_)
        self._now_ms = 0

    def say(self, rows: int, clock: int, moved: Bool | None = None) -> None:
        """`said` holds what is said of the first `rows` items, as of `clock`, ms; it is new of those that `moved`."""
        moved = self._everything if moved is None else moved
        _momentum(
            self.said,
            self._lengths,
            SHRINKAGE,
            SECONDS_PER_HOUR,
            moved[: min(max(rows, self.rows), len(self.said))],
            self.log_momentum,
        )
        self.rows, self.clock = rows, clock

    def forget(self, items: Int32) -> None:
        """These indices will name other items soon."""
        self.said[items] = 0
        self.log_momentum[items] = -np.inf

    def served(self) -> dict[str, Rows]:
        """As a model's: what was said, and when."""
        return {"said": self.said[: self.rows], "said_at": np.array([self.clock], np.int64)}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """What is said elsewhere."""
        self.said = arrays["said"]
        moved = None
        if changed is not None and self.rows <= len(self.said):
            moved = np.zeros(len(self._everything), np.bool_)
            moved[changed.get("said", [])] = True
        else:
            self.log_momentum[len(self.said) :] = -np.inf
        self.say(len(self.said), int(arrays["said_at"][0]), moved)

    def tick(self, now_ms: int) -> None:
        """The log has come so far."""
        self._now_ms = now_ms

    # What is asked

    def stale(self, now_ms: int) -> bool:
        """Whether what was said is too old at that time, ms. What never said anything is absent, not stale."""
        return self.clock > 0 and now_ms - self.clock > self._stale_after_ms

    @property
    def age_s(self) -> float | None:
        """How long ago, by the log's time at the last learning cut, the newest was said; None: never."""
        return max(0, self._now_ms - self.clock) / 1000 if self.clock and self._now_ms else None

    def stale_at(self, ts: Int64) -> Bool:
        """The same for many times, (times,)."""
        late: Bool = (ts - self.clock > self._stale_after_ms) & (self.clock > 0)
        return late

    def top(self, k: int, hidden: Bool = NOBODY) -> Int32:
        """The `k` items of most momentum that are not hidden, best first, at most; none when it is stale.

        Ties go to the lower index.
        """
        if self.stale(self._now_ms):
            return np.empty(0, np.int32)
        return best(self.log_momentum[: self.rows], k, hidden, -np.inf)


class TrendSource(Served, Protocol):
    """Fills a trend table; learns, is saved and served as a model is."""

    @property
    def table(self) -> TrendTable:
        """What it tells."""

    def learn(self, batch: MicroBatch) -> None:
        """A learning cut."""

    def forget(self, items: Int32) -> None:
        """These indices will name other items soon."""

    def state(self) -> dict[str, Array]:
        """What could not be counted again."""

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`, after the items were restored; of a state without it, a new beginning."""


@compiled
def _momentum(said, lengths_s, shrinkage, hour_s, moved, out):  # type: ignore[no-untyped-def]
    for item in range(len(moved)):
        if not moved[item]:
            continue
        total = 0.0
        for at in range(len(lengths_s)):
            count = said[item, at, 0]
            if count > 0:
                rate = hour_s * count / lengths_s[at]
                total += rate * (count + shrinkage) / (said[item, at, 1] + shrinkage)
        out[item] = np.log(total) if total > 0.0 else -np.inf
