"""The ends of topics of Kafka: asked for in the background, and read back when somebody must know what was said there.

Knows nothing of what the records say; `settings` are librdkafka's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import Any

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from streamrec.errors import TransportError, TransportUnavailable
from streamrec.transport import Ends, Record
from streamrec.transport.librdkafka import EVENTS, LOG, Settings, connect, for_admin
from streamrec.transport.positions import TopicReader

ASK_EVERY_S = 5.0
ANSWER_LIMIT_S = 10.0
SETTLING_S = 0.1


class KafkaTail:
    """The ends of some topics of one cluster.

    One thread owns the object. Guarantee: as `Tail`. Ends are those of what may be read, transactions heeded; of a
    partition whose end no broker told, the last one told holds on, for no record to come lies before that either.
    """

    def __init__(self, topics: Sequence[str], settings: Settings) -> None:
        """Make a client; connects in the background, so a broker that is away is no error here.

        Raises:
            ConfigError: librdkafka does not know a setting.
        """
        self._topics = tuple(topics)
        self._settings = settings
        self._admin = connect(lambda config: AdminClient(config, logger=LOG), dict(for_admin(settings)))
        self._partitions: list[TopicPartition] = []
        self._asked_at = float("-inf")
        self._answers: dict[TopicPartition, Future[Any]] = {}
        self._ends: Ends = {topic: {} for topic in self._topics}

    def ends(self, wait_s: float = 0.0) -> Ends:
        """See `Tail`."""
        self._admin.poll(0)  # its log lines, and its tokens
        if wait_s > 0:
            self._find_out(wait_s)
        elif self._answers and all(answer.done() for answer in self._answers.values()):
            self._take(None)
        elif not self._answers and time.monotonic() - self._asked_at > ASK_EVERY_S:
            self._answers = self._asked(ANSWER_LIMIT_S)
        return {topic: dict(ends) for topic, ends in self._ends.items()}

    def read(self, starts: Ends, each: Callable[[Record], None]) -> None:
        """See `Tail`."""
        try:
            self._count(ANSWER_LIMIT_S)
            for topic in dict.fromkeys(place.topic for place in self._partitions):
                with closing(TopicReader(topic, self._settings)) as reader:
                    known = starts.get(topic, {})
                    reader.read({number: known.get(number, 0) for number in range(reader.partitions)}, each)
        except TransportUnavailable:
            raise
        except TransportError as error:
            raise TransportUnavailable(str(error)) from error

    def close(self) -> None:
        """Nothing but a client that ends with this object."""

    def _find_out(self, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        while True:
            self._count(wait_s)
            self._answers = self._asked(wait_s)
            try:
                return self._take(wait_s)
            except TransportUnavailable:  # of a partition that was just made, brokers know nothing for a moment
                if time.monotonic() + SETTLING_S > deadline:
                    raise
            time.sleep(SETTLING_S)

    def _count(self, wait_s: float) -> None:
        try:  # asked of the whole list: asking for one name makes some brokers create it
            there = self._admin.list_topics(timeout=wait_s).topics
        except KafkaException as error:
            raise TransportUnavailable(f"no broker says how topics end: {error.args[0].str()}") from error
        self._partitions = [
            TopicPartition(topic, number)
            for topic in self._topics
            if topic in there
            for number in sorted(there[topic].partitions)
        ]

    def _asked(self, wait_s: float) -> dict[TopicPartition, Future[Any]]:
        self._asked_at = time.monotonic()
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wanted = {TopicPartition(place.topic, place.partition): latest for place in self._partitions}
        return self._admin.list_offsets(wanted, request_timeout=wait_s) if wanted else {}

    def _take(self, wait_s: float | None) -> None:
        """Take what was answered. `wait_s` None: all are done, and a partition that is not told keeps its end."""
        answers, self._answers = self._answers, {}
        for place, answer in answers.items():
            try:
                self._ends[place.topic][place.partition] = int(answer.result(wait_s or 0).offset)
            except (KafkaException, TimeoutError) as error:
                if wait_s is not None:
                    raise TransportUnavailable(f"the end of topic {place.topic!r} was not told: {error}") from error
                EVENTS.info("the end of a partition was not told", topic=place.topic, error=str(error))
