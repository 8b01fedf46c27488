"""The event log on Apache Kafka, or anything that speaks its protocol, through librdkafka.

Knows nothing of events, state or models; `settings` are librdkafka's own, all of them pass through.
Reference: librdkafka's INTRODUCTION.md (rebalancing, idempotent producer) and CONFIGURATION.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from streamrec.errors import ConfigError, TransportError
from streamrec.transport import Assignee, Record
from streamrec.transport.confluent_ends import LogEnds
from streamrec.transport.confluent_sink import KafkaSink
from streamrec.transport.librdkafka import (
    EVENTS,
    HOPELESS,
    LOG,
    Setting,
    Settings,
    connect,
    for_member,
    newer_protocol,
    record_of,
)
from streamrec.transport.outage import Outage

__all__ = ["KafkaSink", "KafkaSource"]

_STARTS = {
    "earliest": OFFSET_BEGINNING,
    "beginning": OFFSET_BEGINNING,
    "smallest": OFFSET_BEGINNING,
    "latest": OFFSET_END,
    "end": OFFSET_END,
    "largest": OFFSET_END,
}
_OURS = ("enable.auto.commit", "enable.auto.offset.store", "partition.assignment.strategy", "enable.partition.eof")
"""Consumer settings that the guarantees of `KafkaSource` rest on; a user may not set them."""

_NOT_HELD = 1 << 63  # past every offset
_CALL_LIMIT_S = 10.0
_IDLE_CHECK_S = 3.0
_STALL_S = 15.0
"""A partition that gives none of its records for so long, though nothing waits before them, is fetched anew."""
_RECONNECTED_CHECK_S = 1.0
_REMEDY = (
    "records were deleted before they were read (see checkpoints.on_gap), or the topic was made anew: then "
    "`streamrec topics adopt` keeps users and models, and begins it at its beginning"
)
_DEFAULTS: Settings = {
    # What is fetched ahead: librdkafka's own 64 MB would outweigh a worker's whole state.
    "queued.min.messages": 10_000,
    "queued.max.messages.kbytes": 16_384,
    # New partitions must not wait five minutes until somebody sees them.
    "topic.metadata.refresh.interval.ms": 30_000,
}


class KafkaSource:
    """One topic, read as a member of a consumer group.

    One thread owns the object: `poll`, `seek` and `close` serve librdkafka's callbacks, so the assignee is called on
    the thread that polls. Where a partition starts is the assignee's word alone; offsets committed to Kafka are never
    read.

    Guarantee: as `Source`. A position that the log no longer holds is an error, or with `skip_gaps` a jump to its start
    that is told and counted in `skipped_records`; never a silent one. Brokers that come and go are waited for:
    `transient_errors` counts what was survived, `failed_commits` the commits refused. A partition that gives nothing
    though there is more, as happens after leaders moved, is fetched anew.
    """

    def __init__(
        self, topic: str, settings: Settings, group_id: str, *, skip_gaps: bool = False, remedy: str = _REMEDY
    ) -> None:
        """Make a consumer; connects in the background, so a broker that is away is no error here.

        `auto.offset.reset` in `settings` (`earliest` when absent, or `latest`) is where a partition starts for which
        the assignee names no offset. `remedy` is said where a position is not in the log.

        Raises:
            ConfigError: librdkafka does not know a setting, or one was set that must keep our value.
        """
        if taken := [name for name in _OURS if name in settings]:
            raise ConfigError(f"{', '.join(taken)} cannot be set: recovery depends on our values; remove it")
        start = str(settings.get("auto.offset.reset", "earliest"))
        if start not in _STARTS:
            raise ConfigError(f"auto.offset.reset is {start!r}, expected 'earliest' or 'latest'")
        self._start = _STARTS[start]
        self._topic = topic
        self._assignee: Assignee | None = None
        self._positions: dict[int, int | None] = {}  # next offset per partition held; None until its first record
        self._ends: dict[int, int] = {}  # as last reached: past markers of transactions, which are no records
        self._failure: Exception | None = None
        self._idle_since: float | None = None
        self._looked_at = 0.0  # when the last look for partitions that give nothing was
        self._lacking_since: dict[int, float] = {}  # of each partition that has something to give, and does not
        self._closed = False
        self._paused = False
        self._held_back: set[int] = set()
        self._passed_over: set[int] = set()  # partitions of which something came during the pause all the same
        self._down_since: float | None = None
        self._outage = Outage(settings)
        self._skip_gaps = skip_gaps
        self._remedy = remedy
        self.transient_errors = 0
        self.failed_commits = 0
        self._skipped_records = 0
        # In the newer protocol the broker assigns, and moves partitions one by one as cooperative-sticky does.
        assignor: dict[str, Setting] = (
            {} if newer_protocol(settings) else {"partition.assignment.strategy": "cooperative-sticky"}
        )
        self._log_ends = LogEnds(topic, settings)
        self._consumer = connect(
            lambda config: Consumer(config, logger=LOG),
            {
                **_DEFAULTS,
                **for_member(settings),
                **assignor,
                "group.id": group_id,
                "enable.auto.commit": False,
                # Out-of-range positions surface as an error instead of a jump; see `_STARTS` for the default start.
                "auto.offset.reset": "error",
                # A transaction's marker is an offset that no record comes of: only the end that is told lies behind it.
                "enable.partition.eof": True,
                "error_cb": self._on_error,
                "on_commit": self._on_commit,
            },
        )

    @property
    def topic(self) -> str:
        """The topic that is read."""
        return self._topic

    @property
    def skipped_records(self) -> int:
        """See `Source`."""
        return self._skipped_records

    def subscribe(self, assignee: Assignee) -> None:
        """Join the group; `assignee` hears of partitions from then on, during `poll` and `close`."""
        self._assignee = assignee
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See `Source`.

        Raises:
            TransportError: a fatal or hopeless error, no such topic, or a position outside the log.
            Exception: whatever the assignee raised while it was told of partitions.
        """
        if self._closed or self._assignee is None:
            state = "is closed" if self._closed else "has no subscriber; call subscribe() first"
            raise TransportError(f"topic {self._topic!r} cannot be polled: the source {state}")
        # consume() waits until the batch is full, not until the first message: wait with poll(), drain with consume().
        messages = self._consumer.consume(max_records, 0)
        if not messages:
            first = self._consumer.poll(timeout_s)
            messages = [] if first is None else [first]
            if messages and max_records > 1:
                messages += self._consumer.consume(max_records - 1, 0)
        records = [record for message in messages if (record := self._accept(message)) is not None]
        if self._failure is not None:
            raise self._failure
        self._check_connection(bool(messages))
        self._check_idle(bool(records))
        self._check_stalls(drained=len(messages) < max_records)
        return records

    def seek(self, positions: Mapping[int, int]) -> None:
        """Continue each partition at the given offset.

        Raises:
            TransportError: a partition is not held, or librdkafka did not accept the position in time.
        """
        for partition, offset in positions.items():
            if partition not in self._positions:
                raise TransportError(f"topic {self._topic!r}: cannot seek partition {partition}, it is not held here")
            self._seek(TopicPartition(self._topic, partition, offset))
            self._positions[partition] = offset
            self._ends.pop(partition, None)

    def pause(self) -> None:
        """See `Source`."""
        self._paused = True
        self._consumer.pause(self._held())

    def resume(self) -> None:
        """See `Source`."""
        self._paused = False
        self._consumer.resume([place for place in self._held() if place.partition not in self._held_back])
        again = {partition: self._positions.get(partition) for partition in self._passed_over}
        self._passed_over.clear()
        self.seek({partition: position for partition, position in again.items() if position is not None})

    def hold(self, partitions: Collection[int]) -> None:
        """See `Source`."""
        before, self._held_back = self._held_back, set(partitions) & self._positions.keys()
        self._consumer.pause([TopicPartition(self._topic, p) for p in self._held_back - before])
        if not self._paused:
            again = (before - self._held_back) & self._positions.keys()
            self._consumer.resume([TopicPartition(self._topic, p) for p in again])

    def disown(self, partitions: Sequence[int]) -> None:
        """See `Source`."""
        theirs = [partition for partition in partitions if partition in self._positions]
        self._consumer.pause([TopicPartition(self._topic, partition) for partition in theirs])
        for partition in theirs:
            del self._positions[partition]

    def commit(self, positions: Mapping[int, int]) -> None:
        """Tell Kafka's tools how far we are; asynchronous, refusals are counted in `failed_commits`."""
        offsets = [
            TopicPartition(
                self._topic, p, max(offset, self._ends.get(p, 0)) if offset == self._positions[p] else offset
            )
            for p, offset in positions.items()
            if p in self._positions
        ]
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException:
            self.failed_commits += 1

    def lag(self) -> Mapping[int, int]:
        """Offsets between our position and the end as last heard from the brokers; never blocks.

        0 at the end of what may be read: markers, and a transaction that is still open, lie beyond it.
        """
        told, lags = self._log_ends.look(self._positions), {}
        for partition, position in self._positions.items():
            first, fetched = self._known_range(partition)
            asked = told.get(partition, fetched)
            if asked is None:
                continue
            end = max(asked, fetched or 0)
            if position is None:  # nothing read yet: we stand where a partition starts by default
                position = first if self._start == OFFSET_BEGINNING else end
            reached = self._ends.get(partition, -1)  # where there was nothing more to read
            whole = position <= reached and (told.get(partition) or 0) <= reached
            lags[partition] = 0 if whole else max(0, end - max(position, reached))
        return lags

    def stopped(self) -> Collection[int]:
        """See `Source`."""
        return self._positions.keys() if self._paused else ()

    def connected(self) -> bool:
        """See `Source`."""
        return self._down_since is None

    def exhausted(self) -> bool:
        """Never: a topic may always grow."""
        return False

    def close(self) -> None:
        """Hand partitions back, leave the group and disconnect. Raises what the assignee raised, after leaving."""
        if self._closed:
            return
        self._closed = True
        self._failure = None
        self._consumer.close()
        if self._failure is not None:
            raise self._failure

    # librdkafka's callbacks. They run inside poll, consume and close; an exception there would be lost or leave the
    # group half way, so it is kept for `poll` and `close` to raise once librdkafka has had its answer.

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = sorted(partition.partition for partition in partitions)
        starts: Mapping[int, int | None] = {}
        if numbers and self._assignee is not None:
            try:
                starts = self._assignee.assigned(numbers)
            except Exception as error:
                self._failure = error
        self._positions.update({number: starts.get(number) for number in numbers})
        consumer.incremental_assign([self._at(number, starts.get(number)) for number in numbers])
        new = [TopicPartition(self._topic, number) for number in numbers]
        self._held_back -= set(numbers)
        (consumer.pause if self._paused else consumer.resume)(new)  # a pause outlives its assignment

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._assignee is not None:
            self._let_go(consumer, partitions, self._assignee.revoked)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._assignee is not None:
            self._let_go(consumer, partitions, self._assignee.lost)

    def _let_go(
        self, consumer: Consumer, partitions: list[TopicPartition], goodbye: Callable[[Sequence[int]], None]
    ) -> None:
        numbers = sorted(partition.partition for partition in partitions)
        try:
            goodbye(numbers)
        except Exception as error:
            self._failure = error
        for number in numbers:
            self._positions.pop(number, None)
            self._ends.pop(number, None)
        consumer.incremental_unassign(partitions)

    def _at(self, partition: int, offset: int | None) -> TopicPartition:
        return TopicPartition(self._topic, partition, self._start if offset is None else offset)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._down_since is None:
            self._down_since = time.monotonic()
        self._judge(error)

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        if error is not None or any(partition.error is not None for partition in partitions):
            self.failed_commits += 1

    # What came of a poll.

    def _accept(self, message: Message) -> Record | None:
        partition, offset = message.partition() or 0, message.offset() or 0
        if (error := message.error()) is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._ends[partition] = offset
            else:
                self._judge(error, message.partition())
            return None
        position = self._positions.get(partition, _NOT_HELD)
        self._lacking_since.pop(partition, None)
        # A batch may hold messages fetched before a partition left, or before a seek: they are not ours to handle.
        if position is not None and offset < position:
            return None
        if self._paused:
            self._passed_over.add(partition)
            if position is None:
                self._positions[partition] = offset
            return None
        self._positions[partition] = offset + 1
        return record_of(message, self._topic)

    def _judge(self, error: KafkaError, partition: int | None = None) -> None:
        code = error.code()
        if code == KafkaError._AUTO_OFFSET_RESET:
            self._failure = self._lost_place(partition, error.str())
        elif error.fatal() or code in HOPELESS:
            self._failure = TransportError(f"topic {self._topic!r} cannot be read: {error.str()}; restart once mended")
        elif code == KafkaError.UNKNOWN_TOPIC_OR_PART and not self._topic_exists():
            self._failure = TransportError(f"topic {self._topic!r} does not exist; make it: `streamrec topics apply`")
        else:
            self.transient_errors += 1
            EVENTS.debug("librdkafka goes on trying", topic=self._topic, error=error.str())

    def _topic_exists(self) -> bool:
        # Asked of the whole list: asking for one name makes some brokers create it.
        try:
            return self._topic in self._consumer.list_topics(timeout=_CALL_LIMIT_S).topics
        except KafkaException:
            return True  # nobody answers: that passes, a missing topic does not

    def _seek(self, position: TopicPartition) -> None:
        deadline = time.monotonic() + _CALL_LIMIT_S
        while True:
            try:
                self._consumer.seek(position)
                return
            except KafkaException as error:
                # A partition just assigned is not yet being fetched, and cannot be sought until it is.
                starting = error.args[0].code() == KafkaError._STATE
                if not starting or time.monotonic() > deadline:
                    raise TransportError(
                        f"topic {self._topic!r} partition {position.partition}: could not seek to {position.offset} "
                        f"within {_CALL_LIMIT_S:.0f} s: {error.args[0].str()}"
                    ) from error
            time.sleep(0.02)

    def _check_connection(self, heard: bool) -> None:
        """Look again: librdkafka tells when the last broker has gone, and not when one is back."""
        if heard and self._down_since is not None:
            self._down_since = None
            self._outage.over()
        if self._down_since is None or time.monotonic() - self._down_since < _RECONNECTED_CHECK_S:
            return
        try:
            self._consumer.list_topics(timeout=_RECONNECTED_CHECK_S / 2)
            self._down_since = None
            self._outage.over()
        except KafkaException:
            self._down_since = time.monotonic()
            self._outage.goes_on()

    def _check_stalls(self, drained: bool) -> None:
        """Fetch a partition anew that the client has lost sight of: it has records to come, and gives none.

        Of one whose records wait behind those of others, or that nobody has polled for long, nothing is known.
        """
        now = time.monotonic()
        if not drained or now - self._looked_at > 2 * _IDLE_CHECK_S:
            self._looked_at = now
            self._lacking_since.clear()
        if now - self._looked_at < _IDLE_CHECK_S:
            return
        self._looked_at, lags = now, self.lag()
        lacking = [p for p in self._positions if lags.get(p) and not self._paused and p not in self._held_back]
        self._lacking_since = {p: self._lacking_since.get(p, now) for p in lacking}
        for partition in sorted(p for p, since in self._lacking_since.items() if now - since >= _STALL_S):
            self._lacking_since[partition] = now
            self.transient_errors += 1
            position = self._positions[partition]
            EVENTS.warning(
                "a partition gives nothing though it has more; it is fetched anew",
                topic=self._topic,
                partition=partition,
                position=position,
                to_come=lags[partition],
            )
            self._begin_anew(partition, position)

    def _begin_anew(self, partition: int, offset: int | None) -> None:
        """Let librdkafka forget how it fetches a partition, and fetch it from here on."""
        place = self._at(partition, offset)
        self._consumer.incremental_unassign([place])
        self._consumer.incremental_assign([place])
        (self._consumer.pause if self._paused else self._consumer.resume)([place])

    def _held(self) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in self._positions]

    def _check_idle(self, busy: bool) -> None:
        """Not every broker refuses a position past the end; one that stays there would wait in silence for ever."""
        now = time.monotonic()
        if busy or self._idle_since is None:
            self._idle_since = now
        if busy or now - self._idle_since < _IDLE_CHECK_S:
            return
        self._idle_since = now
        for partition, position in self._positions.items():
            _, end = self._known_range(partition)
            if position is not None and end is not None and position > end:
                try:  # what we last heard may be old: ask
                    _, end = self._consumer.get_watermark_offsets(
                        TopicPartition(self._topic, partition), timeout=_CALL_LIMIT_S
                    )
                except KafkaException:
                    continue
                if position > end:
                    raise self._out_of_range(partition, f"the log ends at {end}")

    def _known_range(self, partition: int) -> tuple[int, int | None]:
        """(first offset, end) as of the last fetch; end None before the first."""
        try:
            known = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        except KafkaException:
            known = None
        return (0, None) if known is None or known[1] < 0 else (max(0, known[0]), known[1])

    def _lost_place(self, partition: int | None, detail: str) -> TransportError | None:
        """Go on at the log's start where that may be; the error where it may not."""
        position = None if partition is None else self._positions.get(partition)
        if not self._skip_gaps or partition is None or position is None:
            return self._out_of_range(partition, detail)
        place = TopicPartition(self._topic, partition)
        first, _ = self._consumer.get_watermark_offsets(place, timeout=_CALL_LIMIT_S)
        if position >= first:  # past the end: another log, and no gap in this one
            return self._out_of_range(partition, detail)
        self._skipped_records += first - position
        EVENTS.warning(
            "records were deleted before they were read; going on after them",
            topic=self._topic,
            partition=partition,
            offsets=(position, first - 1),
        )
        self._begin_anew(partition, first)  # librdkafka has stopped fetching it, and cannot seek what is not fetched
        self._positions[partition] = first
        return None

    def _out_of_range(self, partition: int | None, detail: str | None) -> TransportError:
        position = self._positions.get(partition) if partition is not None else None
        return TransportError(
            f"topic {self._topic!r} partition {partition}: position {position} is not in the log ({detail}); "
            f"{self._remedy}"
        )
