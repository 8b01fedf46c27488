"""Follows the trends topic between the steps of a worker, and adds what it says to the trend counts.

Trends are a help and never a need: a topic that is missing, away, refused or full of nonsense costs slates what trends
add to them, and nothing else. A record that cannot be used is counted and passed over. It is no dead letter: the topic
is a service's own word, which every worker reads whole at every start, so that each would put the same record aside
again and again; and the service says the item again when it next changes.

Knows nothing of groups, positions or checkpoints.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from streamrec.codec import decode
from streamrec.config.log_lines import get_logger
from streamrec.engine.trending.topic_counts import TopicTrendCounts
from streamrec.errors import BadEvent, TransportError
from streamrec.events import LATEST_TS_MS, Trend
from streamrec.transport import Follower, Record
from streamrec.worker.catalogue_feed import id_of

LOG = get_logger("streamrec.trends")
LOOK_RECORDS = 1_024
"""Looked at between two steps at most: some ten milliseconds of work."""
START_S = 10.0
"""So long a worker reads before it serves, at most; the rest comes between steps."""
MOST = 2**40
"""A window that holds more than so many events is none."""


class TrendsFeed:
    """Tells statements what a topic says."""

    def __init__(
        self,
        follower: Follower,
        statements: TopicTrendCounts,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.refused: Counter[str] = Counter()
        """Records that could not be used, by reason."""
        self._follower: Follower | None = follower
        self._topic = follower.topic
        self._statements = statements
        self._lengths_s = statements.table.lengths_s
        self._max_bytes = max_bytes
        self._clock = clock

    def look(self, wait_s: float = 0.0) -> None:
        """Take what has come, at most LOOK_RECORDS. Raises nothing: a topic that cannot be read is read no more."""
        if self._follower is None:
            return
        try:
            records = self._follower.look(LOOK_RECORDS, wait_s)
        except TransportError as error:
            LOG.error("no more is heard of trends until a restart", error=str(error))
            self.close()
            return
        for record in records:
            try:
                self._tell(record)
            except BadEvent as error:
                if not self.refused[error.reason]:
                    LOG.warning(
                        "a trend is no use: passed over, as all others of its kind",
                        topic=self._topic,
                        partition=record.partition,
                        offset=record.offset,
                        error=str(error),
                    )
                self.refused[error.reason] += 1
        self._statements.settle()

    def read(self, wait_s: float, go_on: Callable[[], bool]) -> None:
        """Read to where the topic ends as of now, for START_S at most, and while `go_on`."""
        until = self._clock() + START_S
        while self._follower is not None and not self._follower.whole() and go_on():
            if self._clock() > until:
                LOG.warning("trends are not read to their end; serving meanwhile", topic=self._topic, after_s=START_S)
                return
            self.look(wait_s)

    def close(self) -> None:
        """Follow no longer."""
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def _tell(self, record: Record) -> None:
        item_id = id_of(record)
        if not record.value:
            self._statements.withdraw(record.partition, item_id)
            return
        if len(record.value) > self._max_bytes:
            raise BadEvent("too_large", f"the message has {len(record.value)} bytes, expected {self._max_bytes}")
        trend = decode(record.value, record.headers, Trend)
        if trend.item_id != item_id:
            raise BadEvent("invalid", "the item is another than the message's key", "item_id")
        if not 0 < trend.ts <= LATEST_TS_MS:
            raise BadEvent("invalid", f"field 'ts' is {trend.ts}, expected milliseconds since 1970", "ts")
        # A date ahead of its sending would make all others old.
        ts = min(trend.ts, record.timestamp_ms) if record.timestamp_ms > 0 else trend.ts
        self._statements.take(record.partition, item_id, ts, self._counts(trend))

    def _counts(self, trend: Trend) -> list[tuple[int, int]]:
        """Count and before of each window that is known here."""
        held = {window.window_s: (window.count, window.before) for window in trend.windows}
        if not any(length_s in held for length_s in self._lengths_s):
            raise BadEvent(
                "windows", f"windows of {sorted(held)} s, expected trends.windows_s, {list(self._lengths_s)}", "windows"
            )
        if not all(0 <= number <= MOST for pair in held.values() for number in pair):
            raise BadEvent("invalid", "a window holds a number of events that is none", "windows")
        return [held.get(length_s, (0, 0)) for length_s in self._lengths_s]
