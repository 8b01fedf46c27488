"""A compacted topic of Kafka, read from its beginning and then followed, by each process for itself.

Knows nothing of what the records say; `settings` are librdkafka's own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamrec.errors import TransportError
from streamrec.transport import Record
from streamrec.transport.librdkafka import EVENTS, HOPELESS, LOG, Settings, connect, for_consumer, record_of
from streamrec.transport.outage import Outage

_ASK_LIMIT_S = 1.0
_ASK_AGAIN_S = 1.0
_MISSING_AGAIN_S = 30.0
"""A topic that is not there is looked for again after so long."""
_DEFAULTS: Settings = {"queued.min.messages": 2_000, "queued.max.messages.kbytes": 4_096}


class KafkaFollower:
    """Every partition of a topic, without a consumer group: nothing is committed, and each follower reads all of it.

    One thread owns the object. Guarantee: as `Follower`. A topic that is not there is empty, with a warning, and is
    looked for again; brokers that are away are waited for.
    """

    def __init__(self, topic: str, settings: Settings, *, since_ms: int = 0) -> None:
        """Make a consumer; connects in the background, so a broker that is away is no error here.

        `since_ms`: of a topic that is not compacted, only what was sent then or later.

        Raises:
            ConfigError: librdkafka does not know a setting.
        """
        self._topic = topic
        self._since_ms = since_ms
        self._unread: set[int] | None = None  # partitions not read to their end yet; None before it is known which
        self._missing = False
        self._ask_at = 0.0
        self._failure: TransportError | None = None
        self._outage = Outage(settings)
        self._consumer = connect(
            lambda config: Consumer(config, logger=LOG),
            {
                **_DEFAULTS,
                "fetch.wait.max.ms": 100,  # at the end of a partition a broker waits so long before it says so
                **for_consumer(settings),
                "group.id": f"streamrec-follow-{uuid.uuid4()}",  # needed by librdkafka, never joined
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",  # of a topic that was made anew, or compacted meanwhile: all of it
                "error_cb": self._judge,
            },
        )

    @property
    def topic(self) -> str:
        """The topic that is followed."""
        return self._topic

    def look(self, most: int, wait_s: float = 0.0) -> Sequence[Record]:
        """See `Follower`.

        Raises:
            TransportError: a fatal or hopeless error.
        """
        if self._unread is None and not self._begin():
            if wait_s > 0:
                time.sleep(min(wait_s, max(0.0, self._ask_at - time.monotonic())))
            return []
        messages = self._consumer.consume(most, 0)
        if not messages and wait_s > 0:
            first = self._consumer.poll(wait_s)
            messages = [] if first is None else [first, *self._consumer.consume(most - 1, 0)]
        records = [record for message in messages if (record := self._accept(message)) is not None]
        if self._failure is not None:
            raise self._failure
        return records

    def whole(self) -> bool:
        """See `Follower`; of a topic that is not there, at once."""
        return self._missing if self._unread is None else not self._unread

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def _begin(self) -> bool:
        """Find out which partitions there are, and read them from their beginning; False: not now."""
        if time.monotonic() < self._ask_at:
            return False
        try:  # asked of the whole list: asking for one name makes some brokers create it
            there = self._consumer.list_topics(timeout=_ASK_LIMIT_S).topics
        except KafkaException as error:
            self._ask_at = time.monotonic() + _ASK_AGAIN_S
            if self._failure is not None:
                raise self._failure from error
            self._outage.goes_on()
            return False
        self._outage.over()
        if self._topic not in there:
            if not self._missing:
                EVENTS.warning("no such topic, nothing is read of it; `streamrec topics apply`", topic=self._topic)
            self._missing, self._ask_at = True, time.monotonic() + _MISSING_AGAIN_S
            return False
        partitions = sorted(there[self._topic].partitions)
        try:
            starts = [TopicPartition(self._topic, partition, self._since_ms) for partition in partitions]
            if self._since_ms:
                starts = self._consumer.offsets_for_times(starts, timeout=_ASK_LIMIT_S)  # the end, where there is none
        except KafkaException:
            self._ask_at = time.monotonic() + _ASK_AGAIN_S
            return False
        for start in starts:
            start.offset = start.offset if self._since_ms else OFFSET_BEGINNING
        self._unread = set(partitions)
        self._consumer.assign(starts)
        return True

    def _accept(self, message: Message) -> Record | None:
        partition = message.partition() or 0
        if (error := message.error()) is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                self._judge(error)
            elif self._unread is not None:
                self._unread.discard(partition)
            return None
        return record_of(message, self._topic)

    def _judge(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in HOPELESS:
            self._failure = TransportError(f"topic {self._topic!r} cannot be read: {error.str()}; restart once mended")
        else:
            EVENTS.debug("librdkafka goes on trying", topic=self._topic, error=error.str())
