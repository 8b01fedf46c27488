"""What every transport promises, as checks that can be run on any: `check_transport(transport)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from streamrec.errors import TransportError
from streamrec.testing.expectations import expect, expect_equal, expect_raised, run_all
from streamrec.transport import Record, Sink, Source

PATIENCE_S = 30.0
THREE = [[b"a0", b"a1", b"a2"], [b"b0"], [b"c0", b"c1"]]
"""The values of a topic of three partitions."""


class Transport(Protocol):
    """A transport as the checks use it."""

    def topic(self, values: Sequence[Sequence[bytes]]) -> str:
        """A new topic that holds these values by partition, each with the key `k` and the header `from: test`."""

    def source(self, topic: str) -> Source:
        """A new reader of that topic, of a group of its own; it sees what its sinks have published by now."""

    def sink(self) -> Sink:
        """A new sink."""


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


@contextmanager
def reading(transport: Transport, topic: str, reader: Reader | None = None) -> Iterator[Source]:
    """A source with a subscriber, closed afterwards."""
    with closing(transport.source(topic)) as source:
        source.subscribe(reader or Reader())
        yield source


def read(source: Source, count: int, *, portion: int = 1_000) -> list[Record]:
    """`count` records, then whatever else comes in a moment: reading too much must show."""
    records: list[Record] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(records) < count and time.monotonic() < deadline:
        polled = source.poll(portion, 0.2)
        expect(len(polled) <= portion, f"{len(polled)} records came at once, expected at most {portion}")
        records += polled
    return records + list(source.poll(portion, 0.2))


def _values(records: Sequence[Record]) -> list[bytes]:
    return sorted(record.value or b"" for record in records)


def every_record_comes_once_and_in_order_within_its_partition(transport: Transport) -> None:
    """Offsets count from 0."""
    with reading(transport, transport.topic(THREE)) as source:
        records = read(source, 6, portion=2)
    for partition, values in enumerate(THREE):
        mine = [record for record in records if record.partition == partition]
        expect_equal([record.offset for record in mine], list(range(len(values))), f"partition {partition}'s offsets")
        expect_equal([record.value for record in mine], values, f"what came of partition {partition}")
    expect_equal(len(records), 6, "the number of records")


def a_record_keeps_its_key_headers_and_topic(transport: Transport) -> None:
    """Byte for byte."""
    topic = transport.topic([[b"v"]])
    with reading(transport, topic) as source:
        came = [(record.topic, record.key, record.value, record.headers) for record in read(source, 1)]
    expect_equal(came, [(topic, b"k", b"v", (("from", b"test"),))], "what came")


def the_assignee_hears_of_all_partitions_before_the_first_record(transport: Transport) -> None:
    """During `poll`, not before."""
    reader = Reader()
    with reading(transport, transport.topic(THREE), reader) as source:
        expect_equal(reader.heard, [], "what was heard before the first poll")
        read(source, 6)
        expect_equal(reader.heard, [("assigned", (0, 1, 2))], "what was heard")


def reading_starts_where_the_assignee_says(transport: Transport) -> None:
    """By partition."""
    with reading(transport, transport.topic(THREE), Reader(starts={0: 2, 2: 2})) as source:
        expect_equal(_values(read(source, 2)), [b"a2", b"b0"], "what came")


def seeking_back_reads_the_same_records_again(transport: Transport) -> None:
    """Only of the partitions that are sought."""
    with reading(transport, transport.topic(THREE)) as source:
        read(source, 6)
        source.seek({0: 1, 2: 0})
        expect_equal(_values(read(source, 4)), [b"a1", b"a2", b"c0", b"c1"], "what came again")


def seeking_forward_skips(transport: Transport) -> None:
    """Whatever has been fetched already."""
    with reading(transport, transport.topic([[b"%d" % n for n in range(50)]])) as source:
        first = read(source, 1, portion=1)
        source.seek({0: 48})
        expect_equal([record.offset for record in first], [0, 1], "the offsets before")
        expect_equal([record.offset for record in read(source, 2)], [48, 49], "the offsets after")


def a_partition_not_held_cannot_be_sought(transport: Transport) -> None:
    """The message names it."""
    with reading(transport, transport.topic(THREE)) as source:
        read(source, 6)
        expect_raised(TransportError, "partition 9", lambda: source.seek({9: 0}))


def a_start_past_the_end_is_an_error_and_not_a_silent_jump(transport: Transport) -> None:
    """The log has lost what a checkpoint stands for."""
    with reading(transport, transport.topic([[b"a", b"b"]]), Reader(starts={0: 500})) as source:
        expect_raised(TransportError, "position 500", lambda: read(source, 1))


def lag_counts_what_is_left(transport: Transport) -> None:
    """Nothing is known before anything was polled."""
    with reading(transport, transport.topic([[b"%d" % n for n in range(10)]]), Reader(starts={0: 4})) as source:
        expect_equal(dict(source.lag()), {}, "the lag before the first poll")
        polled = read(source, 1, portion=1)
        expect_equal(dict(source.lag()), {0: 6 - len(polled)}, "the lag")
        read(source, 4)
        expect_equal(dict(source.lag()), {0: 0}, "the lag at the end")
        source.pause()
        expect_equal(list(source.stopped()), [0], "what is stopped during a pause")
        source.resume()
        expect_equal(list(source.stopped()), [], "what is stopped after it")


def committing_neither_moves_the_reader_nor_where_the_next_one_starts(transport: Transport) -> None:
    """Committed positions are for lag displays alone."""
    topic = transport.topic([[b"a", b"b", b"c"]])
    with reading(transport, topic) as source:
        read(source, 3)
        source.commit({0: 3})
        expect_equal(list(source.poll(10, 0.1)), [], "what came after a commit")
        with reading(transport, topic) as another:
            expect_equal(len(read(another, 3)), 3, "the number of records that the next reader got")


def closing_hands_partitions_back_and_ends_polling(transport: Transport) -> None:
    """Closing twice does no harm."""
    reader = Reader()
    with reading(transport, transport.topic(THREE), reader) as source:
        read(source, 6)
        source.close()
        source.close()
        expect_equal(reader.heard, [("assigned", (0, 1, 2)), ("revoked", (0, 1, 2))], "what was heard")
        expect_raised(TransportError, "closed", lambda: source.poll(1, 0.0))


def a_source_without_a_subscriber_cannot_be_polled(transport: Transport) -> None:
    """The message says to subscribe."""
    with closing(transport.source(transport.topic([[b"a"]]))) as source:
        expect_raised(TransportError, "subscribe", lambda: source.poll(1, 0.0))


def an_empty_poll_returns_within_its_time(transport: Transport) -> None:
    """Or soon after it."""
    with reading(transport, transport.topic([[b"a"]])) as source:
        read(source, 1)
        began = time.monotonic()
        expect_equal(list(source.poll(100, 0.3)), [], "what came")
        took = time.monotonic() - began
    expect(took < PATIENCE_S, f"an empty poll of 0.3 s took {took:.1f} s")


def what_is_published_and_flushed_is_stored_in_order(transport: Transport) -> None:
    """With keys and headers, or without."""
    topic = transport.topic([[]])
    with closing(transport.sink()) as sink:
        for number in range(500):
            sink.publish(topic, b"user", b"%d" % number, [("n", b"%d" % number)])
        sink.publish(topic, None, None)
        sink.flush(10.0)
        with reading(transport, topic) as source:
            records = read(source, 501)
    expected = [*(b"%d" % number for number in range(500)), None]
    expect_equal([record.value for record in records], expected, "what is stored")
    expect_equal(records[7].headers, (("n", b"7"),), "the headers")
    expect_equal(records[500].key, None, "the missing key")


def flushing_nothing_is_quick_and_silent(transport: Transport) -> None:
    """It does not wait for its time limit."""
    with closing(transport.sink()) as sink:
        began = time.monotonic()
        sink.flush(10 * PATIENCE_S)
        took = time.monotonic() - began
    expect(took < PATIENCE_S, f"flushing nothing took {took:.1f} s")


def a_pause_hands_out_nothing_and_loses_nothing(transport: Transport) -> None:
    """Pausing twice is pausing once."""
    with reading(transport, transport.topic([[b"%d" % n for n in range(200)]])) as source:
        records: list[Record] = []
        while not records:
            records += source.poll(7, 1.0)
        for _ in range(3):
            source.pause()
            source.pause()
            came = [record for _ in range(4) for record in source.poll(50, 0.05)]
            expect_equal(came, [], "what came during a pause")
            source.resume()
            records += source.poll(7, 5.0)
        records += read(source, 200 - len(records))
    expect_equal([record.offset for record in records], list(range(200)), "the offsets")


def partitions_that_come_during_a_pause_wait_for_its_end(transport: Transport) -> None:
    """The assignee hears of them meanwhile."""
    reader = Reader({0: 1})
    with reading(transport, transport.topic(THREE), reader) as source:
        source.pause()
        deadline = time.monotonic() + PATIENCE_S
        came: list[Record] = []
        while not reader.heard and time.monotonic() < deadline:
            came += source.poll(10, 0.1)
        came += [record for _ in range(5) for record in source.poll(10, 0.1)]
        expect_equal(came, [], "what came during the pause")
        source.resume()
        expect_equal(_values(read(source, 5)), [b"a1", b"a2", b"b0", b"c0", b"c1"], "what came after it")


def of_a_disowned_partition_nothing_comes_any_more(transport: Transport) -> None:
    """Of the others everything does."""
    with reading(transport, transport.topic(THREE)) as source:
        first: list[Record] = []
        while not first:
            first += source.poll(1, 1.0)
        gone = first[0].partition
        source.disown([gone])
        rest = read(source, 6 - len(THREE[gone]))
    expect_equal({record.partition for record in rest}, {0, 1, 2} - {gone}, "the partitions that records came of")
    expect_equal(len(rest), 6 - len(THREE[gone]), "the number of records")


def a_source_that_can_be_read_is_connected_and_a_flushed_sink_is_empty(transport: Transport) -> None:
    """What health checks and backpressure ask."""
    topic = transport.topic([[b"a"]])
    with reading(transport, topic) as source, closing(transport.sink()) as sink:
        read(source, 1)
        expect(source.connected(), "a source that was just read says that it is not connected")
        sink.publish(topic, b"k", b"v")
        sink.flush(10.0)
        expect_equal(sink.fullness(), 0.0, "the fullness of a flushed sink")


TRANSPORT_CHECKS: tuple[Callable[[Transport], None], ...] = (
    every_record_comes_once_and_in_order_within_its_partition,
    a_record_keeps_its_key_headers_and_topic,
    the_assignee_hears_of_all_partitions_before_the_first_record,
    reading_starts_where_the_assignee_says,
    seeking_back_reads_the_same_records_again,
    seeking_forward_skips,
    a_partition_not_held_cannot_be_sought,
    a_start_past_the_end_is_an_error_and_not_a_silent_jump,
    lag_counts_what_is_left,
    committing_neither_moves_the_reader_nor_where_the_next_one_starts,
    closing_hands_partitions_back_and_ends_polling,
    a_source_without_a_subscriber_cannot_be_polled,
    an_empty_poll_returns_within_its_time,
    what_is_published_and_flushed_is_stored_in_order,
    flushing_nothing_is_quick_and_silent,
    a_pause_hands_out_nothing_and_loses_nothing,
    partitions_that_come_during_a_pause_wait_for_its_end,
    of_a_disowned_partition_nothing_comes_any_more,
    a_source_that_can_be_read_is_connected_and_a_flushed_sink_is_empty,
)


def check_transport(transport: Transport) -> None:
    """Check that sources and sinks keep every promise of `streamrec.transport`.

    Raises:
        AssertionError: they do not; the message says which promise, and what was expected.
    """
    run_all(TRANSPORT_CHECKS, lambda: transport)
