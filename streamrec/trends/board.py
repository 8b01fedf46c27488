"""What readers make of the trends topic: what the partitions say of each item, added up.

A record of partition p of the topic is what input partition p says. So the last record of a key in each partition
counts, and the sum over partitions is what all users did. Knows nothing of Kafka.

A partition whose clock stands still says nothing new, however old its counts become. Here what was said longer ago than
a window is long, by the newest clock of all, is out of that window.
"""

from __future__ import annotations

from streamrec.engine.trending.windows import acceleration, rate_per_hour
from streamrec.events import Trend, WindowTrend


class Board:
    """Takes statements in any order between partitions, in log order within each; repeats change nothing."""

    def __init__(self) -> None:
        self.clock = 0
        """The newest log time that any statement named, ms."""
        self._said: dict[str, dict[int, Trend]] = {}

    def take(self, partition: int, item_id: str, trend: Trend | None) -> None:
        """What a partition says of an item; None: nothing any more."""
        if trend is None:
            said = self._said.get(item_id, {})
            said.pop(partition, None)
            if not said:
                self._said.pop(item_id, None)
            return
        self._said.setdefault(item_id, {})[partition] = trend
        self.clock = max(self.clock, trend.ts)

    def items(self) -> set[str]:
        """Everything that anything is said of."""
        return set(self._said)

    def of(self, item_id: str) -> tuple[WindowTrend, ...]:
        """An item's windows over all partitions, shortest first, without ranks."""
        sums: dict[int, tuple[int, int]] = {}
        for trend in self._said.get(item_id, {}).values():
            for window in trend.windows:
                count, before = sums.get(window.window_s, (0, 0))
                fresh = self.clock - trend.ts <= window.window_s * 1000
                sums[window.window_s] = (count + window.count, before + window.before) if fresh else (count, before)
        return tuple(
            WindowTrend(
                window_s=length_s,
                count=count,
                before=before,
                rate=rate_per_hour(count, length_s),
                acceleration=acceleration(count, before),
            )
            for length_s, (count, before) in sorted(sums.items())
        )
