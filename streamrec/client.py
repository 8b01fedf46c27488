"""For programs of your own: send events, receive slates.

    with EventProducer("localhost:9092") as events:
        events.send(type="click", user_id="u1", item_id="i7")

    for slate in RecommendationConsumer("localhost:9092"):
        print(slate.user_id, [place.item_id for place in slate.items])

Or ask and wait for the answer:

    with EventProducer("localhost:9092") as events, RecommendationConsumer("localhost:9092") as slates:
        asked = events.request("u1", scenario="similar", item_id="i7", filters=Filters(price_max=20.0), k=10)
        slate = slates.answer(asked, timeout_s=5.0)  # or RequestRefused, with the reason

Any Kafka client can do the same with the schema of `docs/02-events-and-items.md`; this one checks events before they
are sent.
Knows nothing of models, state or configuration files.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamrec import codec
from streamrec.engine.scenarios.scenario import Needs, hold_to
from streamrec.errors import BadEvent, RequestRefused, TransportError
from streamrec.events import ContextValue, Event, EventType, Filters, Slate
from streamrec.transport.confluent_sink import KafkaSink
from streamrec.transport.librdkafka import HOPELESS, LOG, Settings, connect, for_member, headers_of

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
        scenarios: Mapping[str, Needs] | None = None,
    ) -> None:
        """Connect in the background to `bootstrap` (host:port, more after commas); `settings` are librdkafka's.

        `scenarios` are those that the workers know, and what a request of each must bring: others are not sent. Without
        them any name is, and is for the workers to judge.

        Raises:
            ConfigError: librdkafka does not know a setting.
        """
        self._topic = topic
        self._content_type = content_type
        self._scenarios = scenarios or {}
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
            said = codec.fault(error, {**given, **fields}, Event)
            raise BadEvent("invalid", f"not an event: {said}; see docs/02-events-and-items.md") from None
        hold_to(checked, self._scenarios)
        value = codec.encode_event(checked, self._content_type)
        self._sink.publish(self._topic, checked.user_id.encode(), value, self._headers)
        return checked

    def request(
        self,
        user_id: str,
        *,
        scenario: str | None = None,
        item_id: str | None = None,
        basket: Sequence[str] = (),
        query: str | None = None,
        filters: Filters | None = None,
        candidates: Sequence[str] = (),
        k: int | None = None,
        explain: bool = False,
        session_id: str | None = None,
        context: Mapping[str, ContextValue] | None = None,
        ts: int | None = None,
    ) -> Event:
        """Ask for a slate. The event gets an `event_id` of its own, which the slate repeats as its `request_id`.

        Args:
            user_id: who asks.
            scenario: a name of `[scenarios]`; `home` when left out.
            item_id: what others are to go with, as `similar` needs it.
            basket: several such items, as `bundle` needs them.
            query: the text to search for, as `search` needs it.
            filters: what every item of the slate must be.
            candidates: what is to be ranked, 1 to 100 items; anything may be when left out.
            k: items wanted, 1 to 100; `serving.k` when left out.
            explain: whether the slate shall say why each item is on it.
            session_id: the visit.
            context: anything else that is known.
            ts: when, in ms since 1970; now when left out.

        Returns the event as sent; see `RecommendationConsumer.answer`.

        Raises:
            BadEvent: the worker would refuse it; nothing was sent.
            PublishFailed: this event or an earlier one cannot be delivered.
        """
        return self.send(
            type=EventType.REQUEST,
            user_id=user_id,
            ts=time.time_ns() // 1_000_000 if ts is None else ts,
            event_id=uuid.uuid4().hex,
            scenario=scenario,
            item_id=item_id,
            basket=tuple(basket) or None,
            query=query,
            filters=filters,
            candidates=tuple(candidates) or None,
            k=k,
            explain=explain,
            session_id=session_id,
            context=None if context is None else dict(context),
        )

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
    A slate with `refused` answers a request that could not be used, and has no items.
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
            TransportError: no broker answers, or there is no such topic.
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
                **for_member(settings or {}),
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
                self._consumer.assign([self._start(partition, from_beginning) for partition in partitions])
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

    def answer(self, request: Event, timeout_s: float = 5.0) -> Slate | None:
        """The slate that answers a request with an `event_id`, None when it has not come within `timeout_s`.

        Slates for others that come meanwhile are let go. Make the consumer before the request is sent.

        Raises:
            RequestRefused: the workers could not use the request; says why, and which field was wrong.
            TransportError: as `poll`.
        """
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            slate = self.poll(left_s)
            if slate is not None and slate.user_id == request.user_id and slate.request_id == request.event_id:
                if (why := slate.refused) is not None:
                    raise RequestRefused(why.reason, why.detail, why.field)
                return slate
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
        try:
            return codec.decode_slate(message.value() or b"", headers_of(message))
        except BadEvent:
            self.undecodable += 1
            return None

    def _judge(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in HOPELESS:
            self._failure = TransportError(
                f"topic {self._topic!r} cannot be read: {error.str()}; connect anew once mended"
            )

    def _start(self, partition: int, from_beginning: bool) -> TopicPartition:
        """Where to begin. The end is looked up now: OFFSET_END is wherever it is once the first fetch has been sent."""
        place = TopicPartition(self._topic, partition, OFFSET_BEGINNING)
        if from_beginning:
            return place
        try:
            _, end = self._consumer.get_watermark_offsets(place, timeout=_CALL_LIMIT_S)
        except KafkaException as error:
            raise TransportError(f"topic {self._topic!r} did not say where it ends: {error.args[0].str()}") from error
        return TopicPartition(self._topic, partition, end)

    def _partitions(self) -> list[int]:
        try:
            there = self._consumer.list_topics(timeout=_CALL_LIMIT_S).topics
        except KafkaException as error:
            raise TransportError(f"no broker answered within {_CALL_LIMIT_S:.0f} s: {error.args[0].str()}") from error
        if self._topic not in there:
            raise TransportError(f"topic {self._topic!r} does not exist; make it with `streamrec topics apply`")
        return sorted(there[self._topic].partitions)
