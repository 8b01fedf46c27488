"""The small client for other people's programs: events go out checked, slates come in decoded."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from streamrec import codec
from streamrec.client import EventProducer, RecommendationConsumer
from streamrec.demo.embedded import EmbeddedBroker
from streamrec.engine.scenarios.scenario import Needs
from streamrec.errors import BadEvent, RequestRefused, TransportError
from streamrec.events import Event, EventType, Filters, RequestRefusal, Slate, SlateItem
from streamrec.transport.confluent import KafkaSink

MakeTopic = Callable[[int], str]
NOBODY = "127.0.0.1:9"


def slate(rec_id: str) -> Slate:
    place = SlateItem(item_id="i1", position=1, score=0.5, propensity=0.25, shares={"popular": 1.0})
    return Slate(rec_id=rec_id, user_id="u1", ts=1, items=(place,), policy="greedy", version="0", candidates=1)


def publish(broker: EmbeddedBroker, topic: str, *values: bytes) -> None:
    sink = KafkaSink(broker.settings)
    for value in values:
        sink.publish(topic, b"u1", value, [(codec.CONTENT_TYPE, codec.JSON.encode())])
    sink.flush(10.0)
    sink.close()


@pytest.mark.parametrize("content_type", [codec.JSON, codec.MSGPACK])
def test_a_sent_event_can_be_read_by_any_client(
    broker: EmbeddedBroker, make_topic: MakeTopic, content_type: str
) -> None:
    topic = make_topic(1)
    given = Event(type=EventType.VIEW, user_id="u1", item_id="i1", ts=1_700_000_000_000)
    before_ms = time.time_ns() // 1_000_000
    with EventProducer(broker.bootstrap, topic=topic, content_type=content_type) as events:
        events.send(given)
        sent = events.send(type="purchase", user_id="u2", item_id="i2", value=3)
        assert before_ms <= sent.ts <= time.time_ns() // 1_000_000

    reader = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": topic, "enable.auto.commit": False})
    reader.assign([TopicPartition(topic, 0, 0)])
    messages = reader.consume(2, 15)
    reader.close()
    assert [message.key() for message in messages] == [b"u1", b"u2"]
    assert [message.headers() for message in messages] == [[("content-type", content_type.encode())]] * 2
    headers = [("content-type", content_type.encode())]
    assert [codec.decode_event(message.value(), headers) for message in messages] == [given, sent]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"type": "view", "user_id": "u"}, "item_id"),
        ({"type": "stare", "user_id": "u", "item_id": "i"}, "type"),
        ({"type": "view", "user_id": "u", "item_id": "i", "ts": "yesterday"}, "ts"),
        ({"type": "view", "user_id": "u", "item_id": "i", "colour": "red"}, "colour"),
    ],
)
def test_an_event_the_worker_would_refuse_is_never_sent(fields: dict[str, str], named: str) -> None:
    events = EventProducer(NOBODY)
    with pytest.raises(BadEvent, match=named):
        events.send(**fields)
    with pytest.raises(BadEvent, match="user_id"):
        events.send(Event(type=EventType.REQUEST, user_id="", ts=1))
    events.close()  # would raise, had anything been sent: nobody answers there


def test_a_request_says_all_that_a_scenario_may_need(broker: EmbeddedBroker, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    filters = Filters(categories=("lamp",), price_max=20.0)
    with EventProducer(broker.bootstrap, topic=topic) as events:
        sent = events.request(
            "u1",
            scenario="bundle",
            basket=["i1", "i2"],
            item_id="i3",
            query="red lamp",
            filters=filters,
            candidates=["i4", "i5"],
            k=100,
            explain=True,
            session_id="s1",
            context={"device": "phone"},
            ts=1_700_000_000_000,
        )
        plain = events.request("u1")
    assert sent == Event(
        type=EventType.REQUEST,
        user_id="u1",
        ts=1_700_000_000_000,
        event_id=sent.event_id,
        scenario="bundle",
        basket=("i1", "i2"),
        item_id="i3",
        query="red lamp",
        filters=filters,
        candidates=("i4", "i5"),
        k=100,
        explain=True,
        session_id="s1",
        context={"device": "phone"},
    )
    reader = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": topic, "enable.auto.commit": False})
    reader.assign([TopicPartition(topic, 0, 0)])
    read = [codec.decode_event(message.value(), message.headers()) for message in reader.consume(2, 15)]
    reader.close()
    assert read == [sent, plain]
    assert plain.event_id != sent.event_id
    assert (plain.scenario, plain.basket, plain.filters) == (None, None, None)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scenario": "hoome"}, "field 'scenario' is 'hoome', expected one of similar, search"),
        ({"scenario": "similar"}, "field 'item_id' is missing: a request of scenario 'similar' needs it"),
        ({"scenario": "search"}, "field 'query' is missing"),
        ({"k": 101}, "k"),
        ({"basket": ["i"] * 33}, "basket"),
        ({"filters": {"price": 3}}, "filters"),
    ],
)
def test_a_request_the_workers_would_refuse_is_never_sent(fields: dict[str, Any], said: str) -> None:
    events = EventProducer(NOBODY, scenarios={"similar": Needs.ITEM, "search": Needs.QUERY})
    with pytest.raises(BadEvent, match=said):
        events.request("u1", **fields)
    events.close()  # would raise, had anything been sent: nobody answers there


def test_an_answer_is_told_by_its_request_and_others_are_let_go(broker: EmbeddedBroker, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    asked = Event(type=EventType.REQUEST, user_id="u1", ts=1, event_id="mine")
    mine = msgspec.structs.replace(slate("r1"), request_id="mine")
    publish(broker, topic, codec.encode(slate("r0")), codec.encode(mine), codec.encode(slate("r2")))
    with RecommendationConsumer(broker.bootstrap, topic=topic, from_beginning=True) as slates:
        assert slates.answer(asked, 15.0) == mine
        assert slates.answer(msgspec.structs.replace(asked, event_id="another"), 0.3) is None


def test_who_asked_in_vain_is_told_at_once_and_why(broker: EmbeddedBroker, make_topic: MakeTopic) -> None:
    topic, said = make_topic(1), "field 'scenario' is 'hoome', expected one of home, similar"
    asked = Event(type=EventType.REQUEST, user_id="u1", ts=1, event_id="mine")
    why = RequestRefusal(reason="invalid", detail=said, field="scenario")
    refused = msgspec.structs.replace(slate("r1"), request_id="mine", items=(), refused=why)
    publish(broker, topic, codec.encode(slate("r0")), codec.encode(refused))
    with RecommendationConsumer(broker.bootstrap, topic=topic, from_beginning=True) as slates:
        with pytest.raises(RequestRefused) as caught:
            slates.answer(asked, 15.0)
        assert (caught.value.reason, caught.value.detail, caught.value.field) == ("invalid", said, "scenario")
        assert str(caught.value) == f"the workers refused the request: {said}"
    with RecommendationConsumer(broker.bootstrap, topic=topic, from_beginning=True) as slates:
        assert [slates.poll(15.0), slates.poll(15.0)] == [slate("r0"), refused]


def test_slates_are_read_from_the_beginning(broker: EmbeddedBroker, make_topic: MakeTopic) -> None:
    topic = make_topic(2)
    publish(broker, topic, *(codec.encode(slate(f"r{number}")) for number in range(3)))
    with RecommendationConsumer(broker.bootstrap, topic=topic, from_beginning=True) as slates:
        seen = [next(iter(slates)) for _ in range(3)]
        assert slates.poll(0.2) is None
    assert seen == [slate("r0"), slate("r1"), slate("r2")]


def test_without_a_beginning_only_new_slates_come(broker: EmbeddedBroker, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    publish(broker, topic, codec.encode(slate("old")))
    with RecommendationConsumer(broker.bootstrap, topic=topic) as slates:
        assert slates.poll(1.0) is None
        publish(broker, topic, codec.encode(slate("new")))
        assert slates.poll(15.0) == slate("new")


def test_a_slate_that_comes_right_after_the_consumer_was_made_is_not_missed(
    broker: EmbeddedBroker, make_topic: MakeTopic
) -> None:
    topic = make_topic(1)
    with RecommendationConsumer(broker.bootstrap, topic=topic) as slates:
        publish(broker, topic, codec.encode(slate("first")))
        assert slates.poll(15.0) == slate("first")


def test_a_message_that_is_no_slate_is_skipped_and_counted(broker: EmbeddedBroker, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    publish(broker, topic, b"{", b'{"rec_id": 7}', codec.encode(slate("good")))
    with RecommendationConsumer(broker.bootstrap, topic=topic, from_beginning=True) as slates:
        assert slates.poll(15.0) == slate("good")
        assert slates.undecodable == 2


def test_a_group_goes_on_where_it_was(broker: EmbeddedBroker, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    for name in ("first", "second"):
        publish(broker, topic, codec.encode(slate(name)))
        with RecommendationConsumer(
            broker.bootstrap, topic=topic, group_id=topic, from_beginning=True, settings=broker.settings
        ) as slates:
            assert slates.poll(20.0) == slate(name)
            assert slates.poll(0.3) is None


def test_a_topic_that_is_not_there_is_told_at_once(apache_kafka: EmbeddedBroker) -> None:
    with pytest.raises(TransportError, match="streamrec topics apply"):
        RecommendationConsumer(apache_kafka.bootstrap, topic="no-such-topic")


def test_the_client_loads_no_torch() -> None:
    program = "import sys, streamrec.client; sys.exit('torch' in sys.modules or 'river' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
