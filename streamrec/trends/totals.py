"""For readers of the trends topic: the counts of all partitions, added up by item.

A record in partition p of the topic has the counts of input partition p. So the last record of a key in each partition
counts, and the sum over partitions is of all users. Knows nothing of Kafka.

A partition whose clock stands still publishes nothing new, however old its counts become. So a record that is older
than a window's length, by the newest clock of all partitions, does not count for that window.
"""

from __future__ import annotations

from streamrec.engine.trending.windows import acceleration, rate_per_hour
from streamrec.events import Trend, WindowTrend


class TrendTotals:
    """Takes records in any order between partitions, in log order within each; repeats change nothing."""

    def __init__(self) -> None:
        self.clock = 0
        """The newest log time of any record, ms."""
        self._said: dict[str, dict[int, Trend]] = {}

    def take(self, partition: int, item_id: str, trend: Trend | None) -> None:
        """Take a partition's newest record of an item; None removes it."""
        if trend is None:
            said = self._said.get(item_id, {})
            said.pop(partition, None)
            if not said:
                self._said.pop(item_id, None)
            return
        self._said.setdefault(item_id, {})[partition] = trend
        self.clock = max(self.clock, trend.ts)

    def items(self) -> set[str]:
        """The items that have counts."""
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
