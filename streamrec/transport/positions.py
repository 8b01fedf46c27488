"""Finds offsets in a topic by time or by record, and reads ranges, without joining a group or committing anything.

Knows nothing of events: the caller says which time a record belongs to.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

# These names are public, but the library's type hints do not say so.
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription  # type: ignore[attr-defined]

from streamrec.errors import TransportError
from streamrec.transport import Record
from streamrec.transport.librdkafka import LOG, Settings, connect, for_admin, for_consumer, record_of

_CALL_LIMIT_S = 10.0
_BATCH = 1_000
_BATCH_WAIT_S = 0.2
_RESTING = (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD, ConsumerGroupState.UNKNOWN)
_SETTLING = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
"""What brokers say of a partition that was just made, until all of them know of it."""
_SETTLING_PAUSE_S = 0.1

Answer = TypeVar("Answer")
EventTime = Callable[[Record], int | None]
"""From a record to the time of its event, in ms; None for a record without one."""


class TopicReader:
    """Reads one topic from outside any consumer group.

    Positions are offsets per partition, all partitions at once.
    """

    def __init__(self, topic: str, settings: Settings) -> None:
        """Connect, waiting at most ten seconds.

        Raises:
            TransportError: no broker answers, or there is no such topic.
            ConfigError: librdkafka does not know a setting.
        """
        self.topic = topic
        self._brokers = settings.get("bootstrap.servers")
        self._consumer = connect(
            lambda config: Consumer(config, logger=LOG),
            {
                **for_consumer(settings),
                "group.id": f"streamrec-survey-{uuid.uuid4()}",  # needed by librdkafka, never joined
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,  # at the end of a partition a broker waits so long before it says so
            },
        )
        self.partitions = self._count_partitions()

    def beginning(self) -> dict[int, int]:
        """The offset of the first record still kept, by partition; of an empty partition its end."""
        ask, places = self._consumer.get_watermark_offsets, self._places(0)
        ranges = self._answered(lambda: [ask(place, timeout=_CALL_LIMIT_S) for place in places])
        return {place.partition: first for place, (first, _) in zip(places, ranges, strict=True)}

    def end(self) -> dict[int, int]:
        """The offset after the last record, by partition."""
        said = self._first(self._places(OFFSET_END), lambda record: True)
        # Tansu counts batches there, which are fewer than records: what lies past its answer is read to the end.
        places = [TopicPartition(self.topic, partition, offset) for partition, offset in said.items()]
        return self._first(places, lambda record: False)

    def since(self, ts: int, event_time: EventTime) -> dict[int, int]:
        """The offset of the first record sent at `ts` (ms) or later whose event is of `ts` or later; else the end.

        A record is sent after its event, so no event since `ts` was sent before it. A topic that was filled from a log,
        long after the events, is read from its beginning until they are recent enough.
        """

        def recent(record: Record) -> bool:
            ts_ms = event_time(record)
            return ts_ms is not None and ts_ms >= ts

        return self._first(self._sent_since(ts), recent)

    def record(self, partition: int, offset: int) -> Record | None:
        """The record at one place; None where it is kept no longer, or has not come yet."""
        if partition >= self.partitions or offset < self.beginning()[partition]:
            return None
        place = TopicPartition(self.topic, partition, offset)
        self._consumer.assign([place])
        self._consumer.resume([place])  # a pause outlives its assignment
        deadline, message = time.monotonic() + _CALL_LIMIT_S, None
        while message is None and time.monotonic() < deadline:
            message = self._consumer.poll(_BATCH_WAIT_S)
        self._consumer.unassign()
        # Past the end, Kafka has one begin anew at the beginning, and Tansu says nothing.
        if message is None or self._ended(message) or message.offset() != offset:
            return None
        return record_of(message, self.topic)

    def find(self, ts: int, span_ms: int, wanted: Callable[[Record], bool]) -> Record | None:
        """A wanted record sent at `ts` (ms) or up to `span_ms` later; None when there is none."""
        found: list[Record] = []

        def done(record: Record) -> bool:
            if not found and ts <= record.timestamp_ms <= ts + span_ms and wanted(record):
                found.append(record)
            return bool(found) or record.timestamp_ms > ts + span_ms

        self._first(self._sent_since(ts), done)
        return found[0] if found else None

    def oldest(self, count: int) -> list[Record]:
        """At most so many records of each partition, from its beginning."""
        records: list[Record] = []
        left = dict.fromkeys(range(self.partitions), count)

        def enough(record: Record) -> bool:
            records.append(record)
            left[record.partition] -= 1
            return left[record.partition] == 0

        self._first(self._places(OFFSET_BEGINNING), enough)
        return records

    def read(
        self, starts: Mapping[int, int], each: Callable[[Record], None], ends: Mapping[int, int] | None = None
    ) -> None:
        """Every record from these positions to the end as of now, in order within a partition.

        With `ends` nothing at or past these positions is read, however fast the topic grows meanwhile.
        """

        def goes_on(record: Record) -> bool:
            if ends is None:
                each(record)
                return False
            end = ends.get(record.partition, 0)
            if record.offset < end:
                each(record)
            return record.offset + 1 >= end

        self._first([TopicPartition(self.topic, partition, offset) for partition, offset in starts.items()], goes_on)

    def read_whole(self, each: Callable[[Record], None]) -> None:
        """Every record that is kept, to the end as of now, in order within a partition; also of a topic just made."""
        self.read(dict.fromkeys(range(self.partitions), OFFSET_BEGINNING), each)

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _places(self, offset: int) -> list[TopicPartition]:
        return [TopicPartition(self.topic, partition, offset) for partition in range(self.partitions)]

    def _sent_since(self, ts: int) -> list[TopicPartition]:
        """About the first record sent at `ts` or later, Tansu may begin earlier; OFFSET_END where there is none."""
        ask, times = self._consumer.offsets_for_times, self._places(ts)
        return self._answered(lambda: ask(times, timeout=_CALL_LIMIT_S))

    def _first(self, starts: list[TopicPartition], wanted: Callable[[Record], bool]) -> dict[int, int]:
        """The offset of the first wanted record of each partition from its start on, else of the partition's end."""
        found: dict[int, int] = {}
        self._consumer.assign(starts)
        self._consumer.resume(starts)  # a pause outlives its assignment
        heard_at = time.monotonic()
        while len(found) < len(starts):
            messages = self._consumer.consume(_BATCH, _BATCH_WAIT_S)
            for message in messages:
                partition = message.partition() or 0
                if partition not in found and (self._ended(message) or wanted(record_of(message, self.topic))):
                    found[partition] = message.offset() or 0
                    self._consumer.pause([TopicPartition(self.topic, partition)])
            heard_at = time.monotonic() if messages else heard_at
            if time.monotonic() - heard_at > _CALL_LIMIT_S:
                raise self._unanswered(f"nothing came for {_CALL_LIMIT_S:.0f} s")
        self._consumer.unassign()
        return found

    def _ended(self, message: Message) -> bool:
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            raise self._unanswered(error.str())
        return error is not None

    def _count_partitions(self) -> int:
        # The whole list: asking for a topic by name makes some brokers create it.
        there = self._answered(lambda: self._consumer.list_topics(timeout=_CALL_LIMIT_S)).topics
        if self.topic not in there:
            raise TransportError(f"topic {self.topic!r} does not exist; make it: `streamrec topics apply`")
        return len(there[self.topic].partitions)

    def _answered(self, call: Callable[[], Answer]) -> Answer:
        deadline = time.monotonic() + _CALL_LIMIT_S
        while True:
            try:
                return call()
            except KafkaException as error:
                if error.args[0].code() not in _SETTLING or time.monotonic() > deadline:
                    raise self._unanswered(error.args[0].str()) from error
            time.sleep(_SETTLING_PAUSE_S)

    def _unanswered(self, detail: str) -> TransportError:
        return TransportError(
            f"topic {self.topic!r} cannot be looked through: {detail}; does a broker answer at {self._brokers}?"
        )


def group_is_live(group_id: str, settings: Settings) -> bool:
    """Whether this consumer group has members; False where the brokers do not say."""
    admin = connect(lambda config: AdminClient(config, logger=LOG), dict(for_admin(settings)))
    try:
        answers = admin.describe_consumer_groups([group_id], request_timeout=_CALL_LIMIT_S)
        group: ConsumerGroupDescription = answers[group_id].result(_CALL_LIMIT_S + 1.0)
    except (KafkaException, TimeoutError):
        return False
    return group.state not in _RESTING
