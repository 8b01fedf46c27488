"""Where a topic's partitions end, asked of the brokers in the background.

A consumer knows the end of what it fetches: of a partition that is not fetched, for whatever reason, it knows nothing,
and so cannot tell that it stands still. Knows nothing of groups or positions.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from streamrec.transport.librdkafka import EVENTS, LOG, Settings, connect, for_admin

_ASK_EVERY_S = 5.0
_ANSWER_LIMIT_S = 10.0


class LogEnds:
    """The ends of one topic's partitions: the offsets after the last records that may be read, transactions heeded."""

    def __init__(self, topic: str, settings: Settings) -> None:
        """Make a client of its own; connects in the background.

        Raises:
            ConfigError: librdkafka does not know a setting.
        """
        self._topic = topic
        uncommitted = str(settings.get("isolation.level", "read_committed")).lower() == "read_uncommitted"
        self._isolation = IsolationLevel.READ_UNCOMMITTED if uncommitted else IsolationLevel.READ_COMMITTED
        self._admin = connect(lambda config: AdminClient(config, logger=LOG), dict(for_admin(settings)))
        self._asked_at = float("-inf")
        self._answers: dict[int, Future[Any]] = {}
        self._ends: dict[int, int | None] = {}

    def look(self, partitions: Collection[int]) -> dict[int, int | None]:
        """The ends as last heard, at most some seconds old; None where no broker told one when asked. Never blocks."""
        self._admin.poll(0)  # its log lines, and its tokens
        if self._answers and all(answer.done() for answer in self._answers.values()):
            self._ends = {partition: _offset(answer) for partition, answer in self._answers.items()}
            self._answers = {}
        if partitions and not self._answers and time.monotonic() - self._asked_at > _ASK_EVERY_S:
            self._asked_at = time.monotonic()
            latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
            wanted = {TopicPartition(self._topic, partition): latest for partition in partitions}
            answers = self._admin.list_offsets(wanted, isolation_level=self._isolation, request_timeout=_ANSWER_LIMIT_S)
            self._answers = {place.partition: answer for place, answer in answers.items()}
        return self._ends


def _offset(answer: Future[Any]) -> int | None:
    try:
        return int(answer.result(0).offset)
    except KafkaException as error:
        EVENTS.info("the end of a partition was not told", error=error.args[0].str())
        return None
