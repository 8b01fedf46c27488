"""The checks every transport passes: the same ones for the log in memory and for Kafka."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import pytest
from confluent_kafka import Producer

from streamrec.demo.embedded import EmbeddedBroker
from streamrec.errors import PublishFailed, TransportError
from streamrec.testing import TRANSPORT_CHECKS, Transport
from streamrec.testing.transports import Reader
from streamrec.transport import Record, Sink, Source
from streamrec.transport.confluent import KafkaSink, KafkaSource
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.transport.time_order import TimeOrderedSource
from streamrec.transport.topics import MissingTopic, apply


class LocalTransport:
    """A log in memory."""

    def __init__(self) -> None:
        self._logs: dict[str, list[Record]] = {}
        self._sinks: list[LocalSink] = []

    def topic(self, values: Sequence[Sequence[bytes]]) -> str:
        name = f"topic-{len(self._logs)}"
        self._logs[name] = [
            Record(name, partition, offset, b"k", value, (("from", b"test"),))
            for partition, part in enumerate(values)
            for offset, value in enumerate(part)
        ]
        return name

    def source(self, topic: str) -> Source:
        records = self._logs[topic] + [record for sink in self._sinks for record in sink.records(topic)]
        return LocalSource(topic, records, partitions=max((r.partition for r in records), default=0) + 1)

    def sink(self) -> Sink:
        self._sinks.append(LocalSink())
        return self._sinks[-1]


class KafkaTransport:
    """A broker."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self._broker = broker

    def topic(self, values: Sequence[Sequence[bytes]]) -> str:
        name = f"test-{uuid.uuid4().hex[:12]}"
        apply([MissingTopic(name, len(values), 1)], self._broker.settings)
        producer = Producer({"bootstrap.servers": self._broker.bootstrap, "linger.ms": 0})
        for partition, part in enumerate(values):
            for value in part:
                producer.produce(name, key=b"k", value=value, partition=partition, headers=[("from", b"test")])
        assert producer.flush(10) == 0
        return name

    def source(self, topic: str) -> Source:
        return KafkaSource(topic, self._broker.settings, f"group-{time.monotonic_ns()}")

    def sink(self) -> Sink:
        return KafkaSink(self._broker.settings)


class TimeOrdered:
    """Another transport, its partitions read as one log."""

    def __init__(self, transport: Transport) -> None:
        self.topic, self.sink, self._transport = transport.topic, transport.sink, transport

    def source(self, topic: str) -> Source:
        return TimeOrderedSource(self._transport.source(topic), lambda record: record.timestamp_ms)


@pytest.fixture(params=["local", "local in time order", "tansu", "apache_kafka", "apache_kafka in time order"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Every transport in turn."""
    name, _, ordered = request.param.partition(" ")
    transport = LocalTransport() if name == "local" else KafkaTransport(request.getfixturevalue(name))
    return TimeOrdered(transport) if ordered else transport


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
def test_a_transport_keeps_its_promises(check: Callable[[Transport], None], transport: Transport) -> None:
    check(transport)


# What is particular to the log in memory.


def test_a_lazy_log_is_drawn_only_as_it_is_read() -> None:
    drawn: list[int] = []

    def records() -> Iterator[Record]:
        for offset in range(1_000_000):
            drawn.append(offset)
            yield Record("t", 0, offset, None, b"x")

    source = LocalSource("t", records())
    source.subscribe(Reader())
    assert [record.offset for record in source.poll(10, 0.0)] == list(range(10))
    assert len(drawn) == 10
    assert source.lag() == {}
    assert not source.exhausted()


def test_a_spent_iterator_cannot_go_back_but_a_callable_can() -> None:
    def records() -> Iterator[Record]:
        return (Record("t", 0, offset, None, b"%d" % offset) for offset in range(20))

    spent, again = LocalSource("t", records()), LocalSource("t", records)
    for source in (spent, again):
        source.subscribe(Reader())
        assert len(source.poll(15, 0.0)) == 15
        source.seek({0: 3})
    with pytest.raises(TransportError, match="cannot go back to 3"):
        spent.poll(1, 0.0)
    assert [record.offset for record in again.poll(100, 0.0)] == list(range(3, 20))


def test_a_log_is_exhausted_when_all_is_read_and_nothing_can_be_added() -> None:
    records = [Record("t", 0, offset, None, b"x") for offset in range(3)]
    for source in (LocalSource("t", records), LocalSource("t", iter(records)), LocalSource("t", lambda: iter(records))):
        source.subscribe(Reader())
        assert not source.exhausted()
        assert len(source.poll(10, 0.0)) == 3
        source.poll(10, 0.0)
        assert source.exhausted()


def test_a_growing_log_waits_for_more_until_it_is_ended() -> None:
    source = LocalSource("t", [], growing=True)
    source.subscribe(Reader())
    assert list(source.poll(10, 0.01)) == []
    assert not source.exhausted()
    source.append([Record("t", 0, 0, None, b"x")])
    assert len(source.poll(10, 0.0)) == 1
    source.end()
    assert source.exhausted()


def test_records_out_of_order_are_refused() -> None:
    records = [Record("t", 0, 5, None, b"x"), Record("t", 0, 4, None, b"y")]
    with pytest.raises(TransportError, match="offset order"):
        LocalSource("t", records)
    lazy = LocalSource("t", iter(records))
    lazy.subscribe(Reader())
    with pytest.raises(TransportError, match="offset order"):
        lazy.poll(10, 0.0)


def test_a_refused_record_breaks_the_local_sink_for_good() -> None:
    sink = LocalSink()
    sink.fail("disk full", after=1)
    sink.publish("t", b"k", b"stored")
    sink.publish("t", b"k", b"refused")
    for _ in range(2):
        with pytest.raises(PublishFailed, match="disk full"):
            sink.flush(1.0)
    assert [record.value for record in sink.records("t")] == [b"stored"]


def test_the_local_sink_keeps_the_newest_and_passes_on_all() -> None:
    passed: list[Record] = []
    sink = LocalSink(passed.append, keep=2)
    for number in range(5):
        sink.publish("t", None, b"%d" % number)
    assert [record.value for record in sink.records("t")] == [b"3", b"4"]
    assert [record.offset for record in passed] == [0, 1, 2, 3, 4]
    assert sink.published["t"] == 5
