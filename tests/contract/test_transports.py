"""The checks every transport passes: the same ones for the log in memory and for Kafka."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from confluent_kafka import Producer

from streamrec.demo.embedded import EmbeddedBroker
from streamrec.errors import PublishFailed, TransportError
from streamrec.transport import Record, Sink, Source
from streamrec.transport.confluent import KafkaSink, KafkaSource
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.transport.topics import MissingTopic, apply

PATIENCE_S = 30.0


@dataclass
class Reader:
    """An assignee that starts where it is told and writes down what it hears."""

    starts: Mapping[int, int] = field(default_factory=dict)
    heard: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        self.heard.append(("assigned", tuple(partitions)))
        return {partition: self.starts.get(partition) for partition in partitions}

    def revoked(self, partitions: Sequence[int]) -> None:
        self.heard.append(("revoked", tuple(partitions)))

    def lost(self, partitions: Sequence[int]) -> None:
        self.heard.append(("lost", tuple(partitions)))


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


Transport = LocalTransport | KafkaTransport


@pytest.fixture(params=["local", "kafka-on-tansu", "kafka-on-apache"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Every transport in turn."""
    if request.param == "local":
        return LocalTransport()
    broker: EmbeddedBroker = request.getfixturevalue("tansu" if "tansu" in request.param else "apache_kafka")
    return KafkaTransport(broker)


@pytest.fixture
def opened() -> Iterator[Callable[[Source, Reader], Source]]:
    """Subscribes a reader to a source, and closes the source after the test."""
    sources: list[Source] = []

    def open_source(source: Source, reader: Reader) -> Source:
        sources.append(source)
        source.subscribe(reader)
        return source

    yield open_source
    for source in sources:
        source.close()


def read(source: Source, count: int, *, portion: int = 1_000) -> list[Record]:
    """`count` records, then whatever else comes in a moment: reading too much must show."""
    records: list[Record] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(records) < count and time.monotonic() < deadline:
        polled = source.poll(portion, 0.2)
        assert len(polled) <= portion
        records += polled
    return records + list(source.poll(portion, 0.2))


Opened = Callable[[Source, Reader], Source]
THREE = [[b"a0", b"a1", b"a2"], [b"b0"], [b"c0", b"c1"]]


def test_every_record_comes_once_and_in_order_within_its_partition(transport: Transport, opened: Opened) -> None:
    source = opened(transport.source(transport.topic(THREE)), Reader())
    records = read(source, 6, portion=2)
    for partition, values in enumerate(THREE):
        mine = [record for record in records if record.partition == partition]
        assert [record.offset for record in mine] == list(range(len(values)))
        assert [record.value for record in mine] == values
    assert len(records) == 6


def test_a_record_keeps_its_key_headers_and_topic(transport: Transport, opened: Opened) -> None:
    topic = transport.topic([[b"v"]])
    (record,) = read(opened(transport.source(topic), Reader()), 1)
    assert (record.topic, record.key, record.value, record.headers) == (topic, b"k", b"v", (("from", b"test"),))


def test_the_assignee_hears_of_all_partitions_before_the_first_record(transport: Transport, opened: Opened) -> None:
    reader = Reader()
    source = opened(transport.source(transport.topic(THREE)), reader)
    assert reader.heard == []
    read(source, 6)
    assert reader.heard == [("assigned", (0, 1, 2))]


def test_reading_starts_where_the_assignee_says(transport: Transport, opened: Opened) -> None:
    source = opened(transport.source(transport.topic(THREE)), Reader(starts={0: 2, 2: 2}))
    assert sorted(record.value or b"" for record in read(source, 2)) == [b"a2", b"b0"]


def test_seeking_back_reads_the_same_records_again(transport: Transport, opened: Opened) -> None:
    source = opened(transport.source(transport.topic(THREE)), Reader())
    read(source, 6)
    source.seek({0: 1, 2: 0})
    assert sorted(record.value or b"" for record in read(source, 4)) == [b"a1", b"a2", b"c0", b"c1"]


def test_seeking_forward_skips(transport: Transport, opened: Opened) -> None:
    source = opened(transport.source(transport.topic([[b"%d" % n for n in range(50)]])), Reader())
    first = read(source, 1, portion=1)
    source.seek({0: 48})
    assert [record.offset for record in first] == [0, 1]
    assert [record.offset for record in read(source, 2)] == [48, 49]


def test_a_partition_not_held_cannot_be_sought(transport: Transport, opened: Opened) -> None:
    source = opened(transport.source(transport.topic(THREE)), Reader())
    read(source, 6)
    with pytest.raises(TransportError, match="partition 9"):
        source.seek({9: 0})


def test_a_start_past_the_end_is_an_error_and_not_a_silent_jump(transport: Transport, opened: Opened) -> None:
    source = opened(transport.source(transport.topic([[b"a", b"b"]])), Reader(starts={0: 500}))
    with pytest.raises(TransportError, match="position 500"):
        read(source, 1)


def test_lag_counts_what_is_left(transport: Transport, opened: Opened) -> None:
    source = opened(transport.source(transport.topic([[b"%d" % n for n in range(10)]])), Reader(starts={0: 4}))
    assert source.lag() is None
    polled = read(source, 1, portion=1)
    assert source.lag() == 6 - len(polled)
    read(source, 4)
    assert source.lag() == 0


def test_committing_neither_moves_the_reader_nor_where_the_next_one_starts(
    transport: Transport, opened: Opened
) -> None:
    topic = transport.topic([[b"a", b"b", b"c"]])
    source = opened(transport.source(topic), Reader())
    read(source, 3)
    source.commit({0: 3})
    assert list(source.poll(10, 0.1)) == []
    assert len(read(opened(transport.source(topic), Reader()), 3)) == 3


def test_closing_hands_partitions_back_and_ends_polling(transport: Transport, opened: Opened) -> None:
    reader = Reader()
    source = opened(transport.source(transport.topic(THREE)), reader)
    read(source, 6)
    source.close()
    source.close()
    assert reader.heard == [("assigned", (0, 1, 2)), ("revoked", (0, 1, 2))]
    with pytest.raises(TransportError, match="closed"):
        source.poll(1, 0.0)


def test_a_source_without_a_subscriber_cannot_be_polled(transport: Transport) -> None:
    source = transport.source(transport.topic([[b"a"]]))
    with pytest.raises(TransportError, match="subscribe"):
        source.poll(1, 0.0)
    source.close()


def test_an_empty_poll_returns_within_its_time(transport: Transport, opened: Opened) -> None:
    source = opened(transport.source(transport.topic([[b"a"]])), Reader())
    read(source, 1)
    began = time.monotonic()
    assert list(source.poll(100, 0.3)) == []
    assert time.monotonic() - began < PATIENCE_S


def test_what_is_published_and_flushed_is_stored_in_order(transport: Transport, opened: Opened) -> None:
    topic = transport.topic([[]])
    sink = transport.sink()
    for number in range(500):
        sink.publish(topic, b"user", b"%d" % number, [("n", b"%d" % number)])
    sink.publish(topic, None, None)
    sink.flush(10.0)
    records = read(opened(transport.source(topic), Reader()), 501)
    assert [record.value for record in records] == [*(b"%d" % number for number in range(500)), None]
    assert records[7].headers == (("n", b"7"),)
    assert records[500].key is None
    sink.close()


def test_flushing_nothing_is_quick_and_silent(transport: Transport) -> None:
    sink = transport.sink()
    began = time.monotonic()
    sink.flush(10 * PATIENCE_S)
    assert time.monotonic() - began < PATIENCE_S
    sink.close()


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
    assert source.lag() is None
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


def test_a_pause_hands_out_nothing_and_loses_nothing(transport: Transport, opened: Opened) -> None:
    source = opened(transport.source(transport.topic([[b"%d" % n for n in range(200)]])), Reader())
    records: list[Record] = []
    while not records:
        records += source.poll(7, 1.0)
    for _ in range(3):
        source.pause()
        source.pause()
        assert not [record for _ in range(4) for record in source.poll(50, 0.05)]
        source.resume()
        records += source.poll(7, 5.0)
    records += read(source, 200 - len(records))
    assert [record.offset for record in records] == list(range(200))


def test_partitions_that_come_during_a_pause_wait_for_its_end(transport: Transport, opened: Opened) -> None:
    reader = Reader({0: 1})
    source = opened(transport.source(transport.topic(THREE)), reader)
    source.pause()
    deadline = time.monotonic() + PATIENCE_S
    while not reader.heard and time.monotonic() < deadline:
        assert not source.poll(10, 0.1)
    assert not [record for _ in range(5) for record in source.poll(10, 0.1)]
    source.resume()
    assert sorted(record.value for record in read(source, 5)) == [b"a1", b"a2", b"b0", b"c0", b"c1"]


def test_of_a_disowned_partition_nothing_comes_any_more(transport: Transport, opened: Opened) -> None:
    source = opened(transport.source(transport.topic(THREE)), Reader())
    first: list[Record] = []
    while not first:
        first += source.poll(1, 1.0)
    gone = first[0].partition
    source.disown([gone])
    rest = read(source, 6 - len(THREE[gone]))
    assert {record.partition for record in rest} == {0, 1, 2} - {gone}
    assert len(rest) == 6 - len(THREE[gone])


def test_a_source_that_can_be_read_is_connected_and_a_flushed_sink_is_empty(
    transport: Transport, opened: Opened
) -> None:
    topic = transport.topic([[b"a"]])
    source, sink = opened(transport.source(topic), Reader()), transport.sink()
    read(source, 1)
    assert source.connected()
    sink.publish(topic, b"k", b"v")
    sink.flush(10.0)
    assert sink.fullness() == 0.0
    sink.close()
