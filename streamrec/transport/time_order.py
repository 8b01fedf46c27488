"""Several partitions read as one log: the record with the oldest time first, whatever partition it lies on.

A broker hands out one partition's backlog after another's, and a history that was spread over partitions would teach in
another order than it happened. So what is fetched waits here, within a bound, until every partition that has more to
come shows its next record; partitions that run ahead are not fetched from meanwhile.

A record is due once nothing older can come, for every partition with a backlog shows a record here, and once it is not
past `limit`, the time up to which other workers' partitions let ours go.

Within a partition the order is the log's own. A record counts as old as the oldest that waits behind it, so that one
with a date ahead of its neighbours keeps nobody waiting. Knows nothing of brokers, nor of what records hold.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamrec.config.log_lines import get_logger
from streamrec.transport import Assignee, Record, Source

LOG = get_logger("streamrec.transport.time_order")
MOST_RECORDS = 16_384
"""That wait, over all partitions: some ten megabytes. Each partition has its share, and one poll more."""
MOST_BYTES = 32 * 1024 * 1024
"""Of their values."""
REFILL = 4
"""A partition whose share is full is fetched from again when only one part in so many still waits."""
BACKLOG_RECORDS = 512
"""A partition with more than one poll's worth of records to come is behind."""
PATIENCE_S = 1.0
"""A partition that should have records, and gives none for so long while no other does, is not waited for until it
does."""

TimeOf = Callable[[Record], int]
"""The time that a record counts at, in ms."""
Limit = Callable[[Mapping[int, int | None], int], int | None]
"""From the time (ms) of the next record of each partition that is behind, None for one that is not, and that of the
oldest record that waits, to the time of the latest record that may be handed out; None for any."""


@dataclass(slots=True)
class _Waiting:
    """What was fetched of one partition and not handed out yet."""

    records: deque[Record] = field(default_factory=deque)
    times: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # (records,), never falling
    bytes: int = 0
    last: int = 0  # the time of the last record handed out
    lacking_since: float | None = None
    excused: bool = False  # gave nothing for too long; until it does

    def add(self, records: Sequence[Record], times: Sequence[int]) -> None:
        self.records.extend(records)
        self.bytes += sum(map(_size, records))
        joined = np.concatenate([self.times, np.array(times, np.int64)])
        self.times = np.minimum.accumulate(joined[::-1])[::-1]
        self.lacking_since, self.excused = None, False

    def take(self) -> Record:
        record = self.records.popleft()
        self.bytes -= _size(record)
        return record

    def taken(self, count: int) -> None:
        """So many were taken."""
        if count:
            self.last = int(self.times[count - 1])
            self.times = self.times[count:]


class TimeOrderedSource:
    """A source whose partitions are read in the order of their records' time.

    Guarantee: as `Source`. While the partitions held have a backlog, records come in the order of their times over all
    of them, but for those that come late within their partition, and for partitions that give nothing for PATIENCE_S.
    """

    def __init__(self, source: Source, time_of: TimeOf, limit: Limit = lambda heads, oldest: None) -> None:
        """`limit` is asked at every poll."""
        self._source = source
        self._time_of = time_of
        self._limit = limit
        self._waiting: dict[int, _Waiting] = {}
        self._full: set[int] = set()
        self._assignee: Assignee | None = None
        self._paused = False
        self._came = False  # anything with the last fetch

    @property
    def topic(self) -> str:
        """The topic that is read."""
        return self._source.topic

    @property
    def skipped_records(self) -> int:
        """See `Source`."""
        return self._source.skipped_records

    def subscribe(self, assignee: Assignee) -> None:
        """See `Source`."""
        self._assignee = assignee
        self._source.subscribe(self)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See `Source`."""
        if self._paused:
            return self._source.poll(max_records, timeout_s)
        deadline, wait_s = time.monotonic() + timeout_s, 0.0
        while True:
            self._fetch(max_records, wait_s)
            due = self._due(max_records)
            wait_s = 0.0 if len(due) else max(0.0, deadline - time.monotonic())
            if len(due) == max_records or not (self._came or wait_s > 0):
                return self._hand_out(due)

    def seek(self, positions: Mapping[int, int]) -> None:
        """See `Source`."""
        self._source.seek(positions)
        self._waiting |= {partition: _Waiting() for partition in positions}

    def pause(self) -> None:
        """See `Source`. What has been fetched keeps."""
        self._paused = True
        self._source.pause()

    def resume(self) -> None:
        """See `Source`."""
        self._paused = False
        self._source.resume()

    def hold(self, partitions: Collection[int]) -> None:
        """Which partitions are fetched from is decided here: does nothing."""

    def disown(self, partitions: Sequence[int]) -> None:
        """See `Source`."""
        self._source.disown(partitions)
        self._forget(partitions)

    def commit(self, positions: Mapping[int, int]) -> None:
        """See `Source`."""
        self._source.commit(positions)

    def lag(self) -> dict[int, int]:
        """See `Source`; what waits here is not read yet."""
        waiting = {partition: len(waiting.records) for partition, waiting in self._waiting.items()}
        return {partition: lag + waiting.get(partition, 0) for partition, lag in self._source.lag().items()}

    def stopped(self) -> Collection[int]:
        """See `Source`: those with records here wait for others, those without do not."""
        waiting = {partition for partition, waiting in self._waiting.items() if waiting.records}
        return waiting.union(self._source.stopped())

    def connected(self) -> bool:
        """See `Source`."""
        return self._source.connected()

    def exhausted(self) -> bool:
        """See `Source`."""
        return self._source.exhausted() and not any(waiting.records for waiting in self._waiting.values())

    def close(self) -> None:
        """See `Source`."""
        self._source.close()

    # Partitions come and go (called by the source, inside poll)

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """See `Assignee`."""
        self._forget(partitions)
        self._waiting |= {partition: _Waiting() for partition in partitions}
        self._limit(self._heads({}), 0)  # taking over takes its time: others are to wait for these from now on
        return self._assignee.assigned(partitions) if self._assignee is not None else {}

    def revoked(self, partitions: Sequence[int]) -> None:
        """See `Assignee`."""
        try:
            if self._assignee is not None:
                self._assignee.revoked(partitions)
        finally:
            self._forget(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        """See `Assignee`."""
        try:
            if self._assignee is not None:
                self._assignee.lost(partitions)
        finally:
            self._forget(partitions)

    def _forget(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._waiting.pop(partition, None)
            self._full.discard(partition)

    # Fetching, and what is due

    def _fetch(self, max_records: int, timeout_s: float) -> None:
        """Fetch some, waiting so long for the first."""
        came: dict[int, list[Record]] = {}
        for record in self._source.poll(max_records, timeout_s):
            came.setdefault(record.partition, []).append(record)
        for partition, records in came.items():
            waiting = self._waiting.get(partition)
            if waiting is not None:
                waiting.add(records, [self._time_of(record) for record in records])
        self._hold_full()
        self._came = bool(came)

    def _hold_full(self) -> None:
        share = max(len(self._waiting), 1)
        full = {
            partition
            for partition, waiting in self._waiting.items()
            if max(len(waiting.records) / MOST_RECORDS, waiting.bytes / MOST_BYTES) * share
            >= (1 / REFILL if partition in self._full else 1)
        }
        if full != self._full:
            self._full = full
            self._source.hold(full)

    def _due(self, max_records: int) -> NDArray[np.int64]:
        """The partition of each record that may be handed out now, in the order in which they may, (records,)."""
        lags = self._source.lag()
        heads = [(p, waiting.times) for p, waiting in self._waiting.items() if len(waiting.times)]
        bound = self._limit(self._heads(lags), min((int(times[0]) for _, times in heads), default=0))
        if not heads:
            return np.empty(0, np.int64)
        shown = [self._shown(waiting) for p, waiting in self._waiting.items() if self._hides(p, waiting, lags.get(p))]
        times = np.concatenate([times for _, times in heads])
        owners = np.repeat([partition for partition, _ in heads], [len(times) for _, times in heads])
        order = np.argsort(times, kind="stable")
        last = min([*shown, np.iinfo(np.int64).max if bound is None else bound])
        due = order[: np.searchsorted(times[order], last, side="right")]
        return owners[due[:max_records]]

    def _hand_out(self, due: NDArray[np.int64]) -> list[Record]:
        records = [self._waiting[partition].take() for partition in due.tolist()]
        for partition, count in zip(*np.unique(due, return_counts=True), strict=True):
            self._waiting[int(partition)].taken(int(count))
        return records

    def _heads(self, lags: Mapping[int, int]) -> dict[int, int | None]:
        """The time of the next record of each partition that is behind, None for one that is not."""
        heads: dict[int, int | None] = {}
        for partition, waiting in self._waiting.items():
            lag = lags.get(partition)
            behind = lag is None or lag + len(waiting.records) > BACKLOG_RECORDS
            heads[partition] = (int(waiting.times[0]) if len(waiting.times) else waiting.last) if behind else None
        return heads

    def _shown(self, waiting: _Waiting) -> int:
        """Up to which time all records of a partition are here or were handed out, as far as it is in order."""
        return int(waiting.times[-1]) if len(waiting.times) else waiting.last

    def _hides(self, partition: int, waiting: _Waiting, lag: int | None) -> bool:
        """Whether there are, or may be, records that are not here yet; `lag` is how many, None if it is not known."""
        if waiting.records or lag == 0 or waiting.excused:
            waiting.lacking_since = None
            return lag != 0 and not waiting.excused
        now = time.monotonic()
        waiting.lacking_since = now if waiting.lacking_since is None else waiting.lacking_since
        if self._came or now - waiting.lacking_since < PATIENCE_S:
            return True
        waiting.excused = True
        if lag is not None:
            LOG.warning("a partition gives nothing; it is not waited for", partition=partition, to_come=lag)
        return False


def _size(record: Record) -> int:
    return len(record.value or b"")
