"""An event log inside the process: what a backtest reads and writes instead of Kafka.

A real transport, not a stand-in: it keeps the guarantees of `Source` and `Sink`, and passes the same checks as Kafka.
Knows nothing of events, files or clocks.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from streamrec.errors import PublishFailed, TransportError
from streamrec.transport import Assignee, Ends, Record


class LocalSource:
    """A log in memory, or a log drawn from a generator as it is read.

    `records` given as a list or tuple are held and may be spread over `partitions`. Any other iterable is lazy: it is
    partition 0, nothing is kept of it, and it goes forward only; a callable that returns a fresh iterator can also be
    sought backwards, by drawing it again from its start.

    A `growing` log waits for `append` at its end until `end()` says that nothing more will come.

    Guarantee: as `Source`; the same records polled in the same portions come in the same order every time.
    """

    def __init__(
        self,
        topic: str,
        records: Iterable[Record] | Callable[[], Iterator[Record]] = (),
        *,
        partitions: int = 1,
        growing: bool = False,
    ) -> None:
        if partitions < 1 or (partitions > 1 and not isinstance(records, list | tuple)):
            raise TransportError(
                f"a local log of topic {topic!r} was asked for {partitions} partitions, expected at least 1, "
                "and just 1 for a lazy log; give the records as a list to spread them"
            )
        self._topic = topic
        self._logs: list[_StoredPartition | _LazyPartition] = [
            _StoredPartition(partition) for partition in range(partitions)
        ]
        self._growing = growing
        self._changed = threading.Condition()
        self._assignee: Assignee | None = None
        self._positions: dict[int, int] = {}
        self._turn = 0
        self._paused = False
        self._disowned: set[int] = set()
        self._held_back: set[int] = set()
        self._closed = False
        self.committed: dict[int, int] = {}
        if isinstance(records, list | tuple):
            self.append(records)
        else:
            self._logs = [_LazyPartition(records)]

    @property
    def topic(self) -> str:
        """The topic that is read."""
        return self._topic

    @property
    def skipped_records(self) -> int:
        """None ever."""
        return 0

    def append(self, records: Iterable[Record]) -> None:
        """Lengthen a held log; safe from another thread.

        Raises:
            TransportError: the log is lazy, or a record's partition or offset does not continue it.
        """
        with self._changed:
            for record in records:
                log = self._logs[record.partition] if 0 <= record.partition < len(self._logs) else None
                if not isinstance(log, _StoredPartition):
                    raise TransportError(f"topic {self._topic!r}: partition {record.partition} takes no more records")
                log.append(record)
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more will be appended."""
        with self._changed:
            self._growing = False
            self._changed.notify_all()

    def subscribe(self, assignee: Assignee) -> None:
        """Join; all partitions are given to `assignee` by the next poll."""
        self._assignee = assignee
        self._positions = {}

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See `Source`; partitions take turns at being read first."""
        self._join()
        with self._changed:
            if self._paused:
                self._changed.wait(timeout_s)
                return []
            records = self._read(max_records)
            if not records and self._growing:
                self._changed.wait(timeout_s)
                records = self._read(max_records)
        return records

    def seek(self, positions: Mapping[int, int]) -> None:
        """Continue each partition at the given offset.

        Raises:
            TransportError: a partition is not held here.
        """
        for partition in positions:
            if partition not in self._positions:
                raise TransportError(f"topic {self._topic!r}: cannot seek partition {partition}, it is not held here")
        self._positions.update(positions)

    def pause(self) -> None:
        """See `Source`."""
        self._paused = True

    def resume(self) -> None:
        """See `Source`."""
        self._paused = False

    def hold(self, partitions: Collection[int]) -> None:
        """See `Source`."""
        self._held_back = set(partitions)

    def disown(self, partitions: Sequence[int]) -> None:
        """See `Source`; nobody else assigns partitions here, so it is for good."""
        self._disowned.update(partitions)

    def commit(self, positions: Mapping[int, int]) -> None:
        """Remember how far the reader is, in `committed`."""
        self.committed.update(positions)

    def lag(self) -> Mapping[int, int]:
        """Records not yet read; none of a lazy log that has not been read to its end."""
        with self._changed:
            lags = {partition: self._logs[partition].after(position) for partition, position in self._positions.items()}
        return {partition: lag for partition, lag in lags.items() if lag is not None}

    def stopped(self) -> Collection[int]:
        """See `Source`."""
        return self._positions.keys() if self._paused else self._disowned

    def connected(self) -> bool:
        """Always: the log is here."""
        return True

    def exhausted(self) -> bool:
        """True when every record was read and none can be appended any more."""
        lag = self.lag()
        return not self._growing and bool(lag) and lag.keys() == self._positions.keys() and not any(lag.values())

    def close(self) -> None:
        """Hand all partitions back."""
        if self._closed:
            return
        self._closed = True
        if self._assignee is not None and self._positions:
            self._assignee.revoked(sorted(self._positions))
        self._positions = {}

    def _join(self) -> None:
        if self._closed or self._assignee is None:
            state = "is closed" if self._closed else "has no subscriber; call subscribe() first"
            raise TransportError(f"topic {self._topic!r} cannot be polled: the source {state}")
        if self._positions:
            return
        starts = self._assignee.assigned(range(len(self._logs)))
        for partition, log in enumerate(self._logs):
            start = starts.get(partition)
            self._positions[partition] = log.first() if start is None else start

    def _read(self, max_records: int) -> list[Record]:
        records: list[Record] = []
        count = len(self._logs)
        for place in range(count):
            partition = (self._turn + place) % count
            if partition in self._disowned or partition in self._held_back:
                continue
            part = self._logs[partition].read(self._positions[partition], max_records - len(records))
            if part:
                self._positions[partition] = part[-1].offset + 1
                records += part
            if len(records) >= max_records:
                break
        self._turn = (self._turn + 1) % count
        return records


class _StoredPartition:
    """One partition, all of it in memory."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._records: list[Record] = []

    def append(self, record: Record) -> None:
        if record.offset < self._end():
            raise _disordered(record, self._end())
        self._records.append(record)

    def first(self) -> int:
        return self._records[0].offset if self._records else 0

    def read(self, position: int, most: int) -> list[Record]:
        if not self.first() <= position <= self._end():
            raise _out_of_range(self._partition, position, self.first(), self._end())
        start = self._index(position)
        return self._records[start : start + most]

    def after(self, position: int) -> int:
        return len(self._records) - self._index(position)

    def _index(self, position: int) -> int:
        # Offsets rise but may leave gaps, as in a compacted topic. Without gaps the first guess is right.
        guess = position - self.first()
        if 0 <= guess < len(self._records) and self._records[guess].offset == position:
            return guess
        return bisect_left(self._records, position, key=lambda record: record.offset)

    def _end(self) -> int:
        return self._records[-1].offset + 1 if self._records else 0


class _LazyPartition:
    """One partition, drawn from an iterator and forgotten."""

    def __init__(self, records: Iterable[Record] | Callable[[], Iterator[Record]]) -> None:
        self._again = records if callable(records) else None
        self._left = records() if callable(records) else iter(records)
        self._drawn = 0  # the offset after the last record drawn, whether handed out or skipped
        self._ended = False

    def first(self) -> int:
        return self._drawn

    def read(self, position: int, most: int) -> list[Record]:
        if position < self._drawn:
            self._rewind(position)
        records: list[Record] = []
        while len(records) < most:
            record = next(self._left, None)
            if record is None:
                self._ended = True
                break
            if record.offset < self._drawn:
                raise _disordered(record, self._drawn)
            self._drawn = record.offset + 1
            if record.offset >= position:
                records.append(record)
        if self._ended and not records and position > self._drawn:
            raise _out_of_range(0, position, 0, self._drawn)
        return records

    def after(self, position: int) -> int | None:
        return 0 if self._ended and position >= self._drawn else None

    def _rewind(self, position: int) -> None:
        if self._again is None:
            raise TransportError(
                f"partition 0 was read up to offset {self._drawn} and cannot go back to {position}: its records come "
                "from an iterator that is spent; give a callable that returns a fresh iterator, or a list"
            )
        self._left, self._drawn, self._ended = self._again(), 0, False


class LocalSink:
    """Keeps what is published, the newest `keep` records of each topic, and passes each on to `on_publish`.

    Guarantee: as `Sink`; a record is stored before `publish` returns. All records are in partition 0, and offsets
    count from 0 per topic. `published` counts them per topic, including those no longer kept.
    """

    def __init__(self, on_publish: Callable[[Record], None] | None = None, *, keep: int = 100_000) -> None:
        self._on_publish = on_publish
        self._keep = keep
        self._topics: dict[str, deque[Record]] = {}
        self._failing: tuple[int, str] | None = None
        self._refused: str | None = None
        self.published: Counter[str] = Counter()

    def fail(self, reason: str, *, after: int = 0) -> None:
        """Refuse the record that comes `after` so many more, and by that break the sink, as a broker would."""
        self._failing = (after, reason)

    def records(self, topic: str) -> tuple[Record, ...]:
        """What is kept of `topic`, oldest first."""
        return tuple(self._topics.get(topic, ()))

    def publish(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]] = ()
    ) -> None:
        """See `Sink`. A refused record is reported by the next call, as it is with a broker."""
        self._check()
        if self._failing is not None:
            left, reason = self._failing
            if left == 0:
                self._refused = f"a record for topic {topic!r} was refused: {reason}"
                return
            self._failing = (left - 1, reason)
        record = Record(topic, 0, self.published[topic], key, value, tuple(headers))
        self.published[topic] += 1
        self._topics.setdefault(topic, deque(maxlen=self._keep)).append(record)
        if self._on_publish is not None:
            self._on_publish(record)

    def flush(self, timeout_s: float) -> None:
        """Everything is stored already; raises what was refused."""
        self._check()

    def forget(self) -> None:
        """Everything is stored already."""

    def fullness(self) -> float:
        """Nothing waits here."""
        return 0.0

    def close(self, timeout_s: float | None = None) -> None:
        """Raise what was refused and not yet reported."""
        self._check()

    def _check(self) -> None:
        if self._refused is not None:
            raise PublishFailed(f"{self._refused}; make a new sink and publish again from the last checkpoint")


class LocalTail:
    """The ends of what a sink keeps, by topic.

    Guarantee: as `Tail`, of the records that the sink still keeps.
    """

    def __init__(self, sink: LocalSink) -> None:
        self._sink = sink

    def ends(self, wait_s: float = 0.0) -> Ends:
        """See `Tail`; always as of now."""
        return {topic: {0: count} for topic, count in self._sink.published.items()}

    def read(self, starts: Ends, each: Callable[[Record], None]) -> None:
        """See `Tail`."""
        for topic in list(self._sink.published):
            first = starts.get(topic, {}).get(0, 0)
            for record in self._sink.records(topic):
                if record.offset >= first:
                    each(record)

    def close(self) -> None:
        """Nothing to let go of."""


def _disordered(record: Record, end: int) -> TransportError:
    return TransportError(
        f"topic {record.topic!r} partition {record.partition}: offset {record.offset} came after {end - 1}, expected "
        f"{end} or more; a log's records must be given in offset order"
    )


def _out_of_range(partition: int, position: int, first: int, end: int) -> TransportError:
    return TransportError(
        f"partition {partition}: position {position} is outside the log, expected {first} to {end}; "
        "the log is not the one the position was taken from"
    )
