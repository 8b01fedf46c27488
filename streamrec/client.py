"""For programs of your own: send events, receive slates.

    with EventProducer("localhost:9092") as events:
        events.send(type="click", user_id="u1", item_id="i7")

    for slate in RecommendationConsumer("localhost:9092"):
        print(slate.user_id, [place.item_id for place in slate.items])

Any Kafka client can do the same with the schema of `docs/events.md`; this one checks events before they are sent.
Knows nothing of models, state or configuration files.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import msgspec
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamrec import codec
from streamrec.errors import BadEvent, TransportError
from streamrec.events import Event, Slate
from streamrec.transport.confluent_sink import KafkaSink
from streamrec.transport.librdkafka import HOPELESS, LOG, Settings, connect, for_consumer

_FLUSH_LIMIT_S = 30.0
_CALL_LIMIT_S = 10.0
_ITERATION_S = 0.5  # so often an iteration comes up for air and hears an interrupt


class EventProducer:
    """Sends events, keyed by user so that each user's stay in order. Leaving the `with` block flushes.

    Guarantee: an event is stored once `flush` has returned; none is sent twice by a retry.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        topic: str = "user-events",
        content_type: str = codec.MSGPACK,
        settings: Settings | None = None,
    ) -> None:
        """Connect in the background to `bootstrap` (host:port, more after commas); `settings` are librdkafka's.

        Raises:
            ConfigError: librdkafka does not know a setting.
        """
        self._topic = topic
        self._content_type = content_type
        self._headers = ((codec.CONTENT_TYPE, content_type.encode()),)
        self._sink = KafkaSink({**(settings or {}), "bootstrap.servers": bootstrap})

    def send(self, event: Event | None = None, /, **fields: Any) -> Event:
        """Send an event, given whole or as fields (`type`, `user_id`, `item_id`, ...); `ts` is now when left out.

        Returns the event as sent. Blocks while the queue is full, up to half a minute.

        Raises:
            BadEvent: the worker would refuse it; nothing was sent.
            PublishFailed: this event or an earlier one cannot be delivered.
        """
        given = msgspec.to_builtins(event) if event is not None else {"ts": time.time_ns() // 1_000_000}
        try:
            checked = msgspec.convert({**given, **fields}, Event)
        except msgspec.ValidationError as error:
            raise BadEvent("invalid", f"not an event: {error}; see docs/events.md") from None
        value = codec.encode_event(checked, self._content_type)
        self._sink.publish(self._topic, checked.user_id.encode(), value, self._headers)
        return checked

    def flush(self, timeout_s: float = _FLUSH_LIMIT_S) -> None:
        """Wait until everything sent is stored.

        Raises:
            PublishFailed: something was not stored within `timeout_s`.
        """
        self._sink.flush(timeout_s)

    def close(self) -> None:
        """Flush and let go."""
        self._sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class RecommendationConsumer:
    """Slates as they are published, for as long as one iterates.

    Without a `group_id` every consumer sees every slate, from now on or, `from_beginning`, from the oldest kept. With
    one, the members of the group share the slates and go on where the group was.

    Guarantee: within a user, slates come in order. A message that is no slate is skipped and counted in `undecodable`.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        topic: str = "recommendations",
        group_id: str | None = None,
        from_beginning: bool = False,
        settings: Settings | None = None,
    ) -> None:
        """Connect to `bootstrap`, waiting at most ten seconds for it.

        Raises:
            TransportError: nobody answers, or there is no such topic.
            ConfigError: librdkafka does not know a setting.
        """
        self.undecodable = 0
        self._topic = topic
        self._closed = False
        self._failure: TransportError | None = None
        self._consumer = connect(
            lambda config: Consumer(config, logger=LOG),
            {
                "auto.offset.reset": "earliest" if from_beginning else "latest",
                **for_consumer(settings or {}),
                "bootstrap.servers": bootstrap,
                "group.id": group_id
                or f"streamrec-client-{uuid.uuid4()}",  # needed by librdkafka, joined only if given
                "enable.auto.commit": group_id is not None,
                "error_cb": self._judge,
            },
        )
        try:
            partitions = self._partitions()
            if group_id is not None:
                self._consumer.subscribe([topic])
            else:
                start = OFFSET_BEGINNING if from_beginning else OFFSET_END
                self._consumer.assign([TopicPartition(topic, partition, start) for partition in partitions])
        except BaseException:
            self.close()
            raise

    def poll(self, timeout_s: float = 1.0) -> Slate | None:
        """The next slate, None when there is none within `timeout_s`.

        Raises:
            TransportError: the topic cannot be read and will not recover by itself, or the consumer is closed.
        """
        if self._closed:
            raise TransportError("the consumer is closed; make a new one")
        deadline = time.monotonic() + timeout_s
        while True:
            message = self._consumer.poll(max(0.0, deadline - time.monotonic()))
            if message is not None and (slate := self._decode(message)) is not None:
                return slate
            if self._failure is not None:
                raise self._failure
            if time.monotonic() >= deadline:
                return None

    def __iter__(self) -> Iterator[Slate]:
        """Slates for ever, until `close`."""
        while not self._closed:
            slate = self.poll(_ITERATION_S)
            if slate is not None:
                yield slate

    def close(self) -> None:
        """Leave and disconnect."""
        self._closed = True
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _decode(self, message: Message) -> Slate | None:
        if (error := message.error()) is not None:
            self._judge(error)
            return None
        pairs = message.headers()
        headers = (
            [(name, value) for name, value in pairs if isinstance(value, bytes)] if isinstance(pairs, list) else []
        )
        try:
            return codec.decode_slate(message.value() or b"", headers)
        except BadEvent:
            self.undecodable += 1
            return None

    def _judge(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in HOPELESS:
            self._failure = TransportError(
                f"topic {self._topic!r} cannot be read: {error.str()}; connect anew once mended"
            )

    def _partitions(self) -> list[int]:
        try:
            there = self._consumer.list_topics(timeout=_CALL_LIMIT_S).topics
        except KafkaException as error:
            raise TransportError(f"no broker answered within {_CALL_LIMIT_S:.0f} s: {error.args[0].str()}") from error
        if self._topic not in there:
            raise TransportError(f"topic {self._topic!r} does not exist; make it with `streamrec topics apply`")
        return sorted(there[self._topic].partitions)
