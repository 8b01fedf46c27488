"""Publishing to Apache Kafka, or anything that speaks its protocol, through librdkafka.

Knows nothing of what it publishes; `settings` are librdkafka's own, all of them pass through.
Reference: librdkafka's INTRODUCTION.md, "Idempotent Producer".
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamrec.errors import PublishDelayed, PublishFailed
from streamrec.transport.librdkafka import HOPELESS, LOG, Settings, connect, for_producer
from streamrec.transport.partitioners import LIBRDKAFKA

PARTITIONER_CHOOSES = -1
_COMPRESSION: Settings = {"compression.type": "gzip", "compression.level": 1}
"""What every client can read without further packages: some know neither lz4 nor zstd. The first level makes a
third of a slate in 0.1 ms, the sixth hardly less of it in 0.3 ms."""


class KafkaSink:
    """Publishes to any topic of a cluster, by an idempotent producer.

    Guarantee: as `Sink`. Per key, order is kept and no retry doubles a record. One lost record breaks the sink: every
    later call raises, so that nothing can be checkpointed past the loss.
    """

    def __init__(self, settings: Settings, *, block_s: float = 30.0) -> None:
        """Make a producer; connects in the background. `publish` waits at most `block_s` for room in the queue.

        Raises:
            ConfigError: librdkafka does not know a setting, or a value contradicts idempotence.
        """
        self._block_s = block_s
        self._refused: str | None = None
        self._closed = False
        self._published, self._bytes = 0, 0
        config: dict[str, Any] = {
            "linger.ms": 5,
            "partitioner": LIBRDKAFKA["murmur2"],  # as most clients have it: a user's events belong together
            **({} if settings.keys() & {"compression.type", "compression.codec"} else _COMPRESSION),
            "queue.buffering.max.messages": 100_000,
            "queue.buffering.max.kbytes": 65_536,
            **for_producer(settings),
            "enable.idempotence": True,
            "acks": "all",
            "error_cb": self._on_error,
            "on_delivery": self._on_delivery,
            "delivery.report.only.error": True,
        }
        self._max_records = int(config["queue.buffering.max.messages"])
        self._max_bytes = 1024 * int(config["queue.buffering.max.kbytes"])
        self._config = config
        self._producer = self._connected()

    def publish(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Iterable[tuple[str, bytes]] = (),
        *,
        partition: int = PARTITIONER_CHOOSES,
    ) -> None:
        """See `Sink`. `partition` names one, for what has to lie where it lay before."""
        deadline = time.monotonic() + self._block_s
        pairs: list[tuple[str, str | bytes | None]] = list(headers)
        while True:
            self._check()
            try:
                self._producer.produce(topic, value=value, key=key, headers=pairs, partition=partition)
                self._producer.poll(0)
                self._published += 1
                self._bytes += len(value or b"")
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise PublishFailed(
                        f"topic {topic!r}: the queue of {len(self._producer)} records stayed full for "
                        f"{self._block_s:.0f} s; are the brokers reachable?"
                    ) from None
                self._producer.poll(0.1)
            except KafkaException as error:
                raise PublishFailed(f"a record for topic {topic!r} was not taken: {error.args[0].str()}") from error

    def flush(self, timeout_s: float) -> None:
        """See `Sink`."""
        self._check()
        left = self._producer.flush(timeout_s)
        self._check()
        if left:
            raise PublishDelayed(f"{left} records were not acknowledged within {timeout_s:.1f} s; are the brokers up?")

    def forget(self) -> None:
        """See `Sink`. A producer of its own begins: the sequence of the former one has a gap."""
        former, self._producer = self._producer, self._connected()
        former.purge()
        former.poll(0)  # it says of each that it was purged, which is no loss
        self._refused = None

    def fullness(self) -> float:
        """See `Sink`; bytes are those of records of average size."""
        waiting = len(self._producer)
        mean_bytes = self._bytes / max(self._published, 1)
        return min(1.0, max(waiting / self._max_records, waiting * mean_bytes / self._max_bytes))

    def close(self, timeout_s: float | None = None) -> None:
        """See `Sink`."""
        if self._closed:
            return
        try:
            self.flush(self._block_s if timeout_s is None else timeout_s)
        finally:
            self._closed = True
            self._producer.purge()
            self._producer.poll(0)

    def _connected(self) -> Producer:
        return connect(lambda config: Producer(config, logger=LOG), dict(self._config))

    def _check(self) -> None:
        if self._closed:
            raise PublishFailed("the sink is closed; make a new one")
        if self._refused is not None:
            raise PublishFailed(f"{self._refused}; make a new sink and publish again from the last checkpoint")

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._refused is None:
            self._refused = f"a record for topic {message.topic()!r} was refused: {error.str()}"

    def _on_error(self, error: KafkaError) -> None:
        if (error.fatal() or error.code() in HOPELESS) and self._refused is None:
            self._refused = f"the producer cannot go on: {error.str()}"
