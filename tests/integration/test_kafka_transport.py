"""What is particular to Kafka: groups that share, brokers that go away, settings, topics."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from streamrec.client import RecommendationConsumer
from streamrec.codec import encode
from streamrec.config.groups import Topics
from streamrec.demo.embedded import EmbeddedBroker, embedded_broker
from streamrec.errors import ConfigError, PublishDelayed, PublishFailed, TransportError
from streamrec.events import Slate
from streamrec.transport import Record, confluent
from streamrec.transport.confluent import KafkaSink, KafkaSource
from streamrec.transport.confluent_follower import KafkaFollower
from streamrec.transport.librdkafka import CONSUMER_ONLY, PRODUCER_ONLY, for_admin, for_consumer, for_producer
from streamrec.transport.positions import TopicReader
from streamrec.transport.topics import DifferentSetting, MissingTopic, apply, plan, wanted

PATIENCE_S = 40.0
NOBODY = "127.0.0.1:9"  # the discard port: nothing answers there

MakeTopic = Callable[[int], str]


class Member:
    """A source and its assignee in one: holds partitions, counts what it reads, starts where it last was."""

    def __init__(self, source: KafkaSource, positions: dict[int, int]) -> None:
        self.source = source
        self.held: set[int] = set()
        self.read: list[tuple[int, int]] = []
        self._positions = positions  # shared by all members, as a store would be
        source.subscribe(self)

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        self.held.update(partitions)
        return {partition: self._positions.get(partition) for partition in partitions}

    def revoked(self, partitions: Sequence[int]) -> None:
        self.held.difference_update(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        self.held.difference_update(partitions)

    def step(self) -> None:
        for record in self.source.poll(100, 0.05):
            assert record.partition in self.held, "a record came of a partition that was handed back"
            self.read.append((record.partition, record.offset))
            self._positions[record.partition] = record.offset + 1


class Startled:
    """An assignee whose store is down."""

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        raise RuntimeError("the store is down")

    def revoked(self, partitions: Sequence[int]) -> None: ...

    def lost(self, partitions: Sequence[int]) -> None: ...


def until(condition: Callable[[], bool], *steps: Callable[[], None]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        for step in steps:
            step()


def fill(settings: Mapping[str, str | int], topic: str, records: int) -> None:
    with closing(KafkaSink(settings)) as sink:
        for number in range(records):
            sink.publish(topic, b"user-%d" % number, b"x")
        sink.flush(10.0)


def test_two_members_share_a_topic_and_every_record_is_read_once(broker: EmbeddedBroker, make_topic: MakeTopic) -> None:
    topic = make_topic(4)
    positions: dict[int, int] = {}
    first = Member(KafkaSource(topic, broker.settings, topic), positions)
    until(lambda: len(first.held) == 4, first.step)
    fill(broker.settings, topic, 200)
    until(lambda: len(first.read) >= 100, first.step)

    second = Member(KafkaSource(topic, broker.settings, topic), positions)
    until(lambda: len(first.held) == len(second.held) == 2, first.step, second.step)
    assert first.held.isdisjoint(second.held)
    fill(broker.settings, topic, 200)
    until(lambda: sum(positions.values()) == 400, first.step, second.step)
    assert second.read

    second.source.close()
    until(lambda: len(first.held) == 4, first.step)
    fill(broker.settings, topic, 100)
    until(lambda: sum(positions.values()) == 500, first.step)
    first.source.close()
    assert len(first.read) + len(second.read) == len({*first.read, *second.read}) == 500


NEWER = {"group.protocol": "consumer"}
"""KIP-848: the broker assigns partitions."""


def test_members_of_the_newer_protocol_share_a_topic_too(apache_kafka: EmbeddedBroker) -> None:
    topic = f"newer-{uuid.uuid4().hex[:8]}"
    apply([MissingTopic(topic, 4, 1)], apache_kafka.settings)
    settings, positions = {**apache_kafka.settings, **NEWER}, {}  # type: dict[str, str | int], dict[int, int]
    fill(settings, topic, 100)
    first = Member(KafkaSource(topic, settings, topic), positions)
    until(lambda: len(first.held) == 4 and sum(positions.values()) == 100, first.step)
    second = Member(KafkaSource(topic, settings, topic), positions)
    until(lambda: len(first.held) == len(second.held) == 2, first.step, second.step)
    fill(settings, topic, 100)
    until(lambda: sum(positions.values()) == 200, first.step, second.step)
    second.source.close()
    until(lambda: len(first.held) == 4, first.step)
    first.source.close()
    assert second.read
    assert len(first.read) + len(second.read) == len({*first.read, *second.read}) == 200


def test_a_static_member_that_comes_back_finds_its_partitions_where_they_were(apache_kafka: EmbeddedBroker) -> None:
    topic = f"static-{uuid.uuid4().hex[:8]}"
    apply([MissingTopic(topic, 4, 1)], apache_kafka.settings)
    positions: dict[int, int] = {}

    def member(name: str) -> Member:
        settings = {**apache_kafka.settings, "group.instance.id": name, "session.timeout.ms": 20_000}
        return Member(KafkaSource(topic, settings, topic), positions)

    stays, leaves = member("stays"), member("leaves")
    until(lambda: len(stays.held) == len(leaves.held) == 2, stays.step, leaves.step)
    before, theirs = set(stays.held), set(leaves.held)
    leaves.source.close()
    for _ in range(20):
        stays.step()
    assert stays.held == before
    back = member("leaves")
    until(lambda: len(back.held) == 2, stays.step, back.step)
    assert (stays.held, back.held) == (before, theirs)
    back.source.close()
    stays.source.close()


MEMBER = """
import sys
from streamrec.transport.confluent import KafkaSource

class Holder:
    def assigned(self, partitions):
        print("holds", *partitions, flush=True)
        return {}

    def revoked(self, partitions): ...
    def lost(self, partitions): ...

topic, bootstrap = sys.argv[1:]
source = KafkaSource(topic, {"bootstrap.servers": bootstrap}, topic)
source.subscribe(Holder())
while True:
    source.poll(100, 0.05)
"""


def test_what_a_killed_member_held_is_read_by_another_within_15_seconds(apache_kafka: EmbeddedBroker) -> None:
    topic, settings = f"failover-{uuid.uuid4().hex[:8]}", {"bootstrap.servers": apache_kafka.bootstrap}
    apply([MissingTopic(topic, 4, 1)], settings)
    stays = Member(KafkaSource(topic, settings, topic), {})
    until(lambda: len(stays.held) == 4, stays.step)
    with subprocess.Popen([sys.executable, "-c", MEMBER, topic, apache_kafka.bootstrap]) as leaves:
        until(lambda: len(stays.held) == 2, stays.step)
        kept = set(stays.held)
        fill(settings, topic, 200)
        leaves.kill()
        killed_at = time.monotonic()
    until(lambda: {partition for partition, _ in stays.read} - kept != set(), stays.step)
    assert time.monotonic() - killed_at < 15.0
    stays.source.close()


def cut_off(settings: Mapping[str, str | int], topic: str, before: int) -> None:
    """Delete the records of partition 0 before an offset, as retention does."""
    admin = AdminClient(dict(settings))  # without a name it would be gone before the answer comes
    for deleted in admin.delete_records([TopicPartition(topic, 0, before)]).values():
        assert deleted.result(10).low_watermark == before


def test_a_position_before_the_start_of_the_log_stops_or_skips_as_told(apache_kafka: EmbeddedBroker) -> None:
    topic = f"gap-{uuid.uuid4().hex[:8]}"
    apply([MissingTopic(topic, 1, 1)], apache_kafka.settings)
    fill(apache_kafka.settings, topic, 30)
    cut_off({"bootstrap.servers": apache_kafka.bootstrap}, topic, 20)
    strict = Member(KafkaSource(topic, apache_kafka.settings, "g-strict"), {0: 5})
    with pytest.raises(TransportError, match=r"position 5 is not in the log"):
        until(lambda: False, strict.step)
    strict.source.close()
    lenient = Member(KafkaSource(topic, apache_kafka.settings, "g-lenient", skip_gaps=True), {0: 5})
    until(lambda: len(lenient.read) == 10, lenient.step)
    assert lenient.read[0] == (0, 20)
    assert lenient.source.skipped_records == 15
    lenient.source.close()


def test_another_log_of_the_same_name_is_no_gap_to_skip(apache_kafka: EmbeddedBroker) -> None:
    topic = f"anew-{uuid.uuid4().hex[:8]}"
    apply([MissingTopic(topic, 1, 1)], apache_kafka.settings)
    fill(apache_kafka.settings, topic, 5)
    member = Member(KafkaSource(topic, apache_kafka.settings, "g-anew", skip_gaps=True), {0: 99})
    with pytest.raises(TransportError, match="made anew"):
        until(lambda: False, member.step)
    member.source.close()


def test_an_error_of_the_assignee_comes_out_of_poll(broker: EmbeddedBroker, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    with closing(KafkaSource(topic, broker.settings, topic)) as source:
        source.subscribe(Startled())
        with pytest.raises(RuntimeError, match="the store is down"):
            until(lambda: False, lambda: source.poll(10, 0.1) and None)


def test_committed_offsets_reach_the_lag_tools_only(broker: EmbeddedBroker, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    fill(broker.settings, topic, 10)
    member = Member(KafkaSource(topic, broker.settings, topic), {})
    until(lambda: len(member.read) == 10, member.step)
    member.source.commit({0: 7})
    with closing(Consumer({"bootstrap.servers": broker.bootstrap, "group.id": topic})) as lag_tool:
        place = TopicPartition(topic, 0)
        until(lambda: lag_tool.committed([place], timeout=10)[0].offset == 7, member.step)
    member.source.close()
    assert member.source.failed_commits == 0

    again = Member(KafkaSource(topic, broker.settings, topic), {})
    until(lambda: len(again.read) == 10, again.step)
    again.source.close()


def transactions(broker: EmbeddedBroker, topic: str, *sizes: int) -> None:
    """Write transactions of so many records to partition 0, those of a negative size aborted."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": f"writes-{topic}"})
    producer.init_transactions(20)
    for size in sizes:
        producer.begin_transaction()
        for _ in range(abs(size)):
            producer.produce(topic, SLATE, b"k", partition=0)
        producer.flush(10)
        (producer.commit_transaction if size > 0 else producer.abort_transaction)(20)


SLATE = encode(Slate(rec_id="r", user_id="u", ts=1, items=(), policy="fused", version="1", candidates=0))


def test_everything_that_reads_passes_over_what_was_aborted_and_reaches_the_end(apache_kafka: EmbeddedBroker) -> None:
    topic, settings = f"committed-{uuid.uuid4().hex[:8]}", apache_kafka.settings
    apply([MissingTopic(topic, 1, 1)], settings)
    transactions(apache_kafka, topic, -50, 3, -20)  # each ends in a marker: the log ends at 76
    member = Member(KafkaSource(topic, settings, topic), {})
    until(lambda: len(member.read) == 3 and member.source.lag() == {0: 0}, member.step)
    member.source.commit({0: 54})
    with closing(Consumer({"bootstrap.servers": apache_kafka.bootstrap, "group.id": topic})) as lag_tool:
        place = TopicPartition(topic, 0)
        until(lambda: lag_tool.committed([place], timeout=10)[0].offset == 76, member.step)
    member.source.seek({0: 0})
    until(lambda: len(member.read) == 6 and member.source.lag() == {0: 0}, member.step)
    member.source.close()
    assert member.read == [(0, 51), (0, 52), (0, 53)] * 2

    followed: list[Record] = []
    with closing(KafkaFollower(topic, settings)) as follower:
        until(follower.whole, lambda: followed.extend(follower.look(100, 0.1)))
    assert [record.offset for record in followed] == [51, 52, 53]
    with closing(TopicReader(topic, settings)) as reader:
        found: list[Record] = []
        reader.read_whole(found.append)
        assert [record.offset for record in found] == [51, 52, 53]
        assert reader.end() == {0: 76}
        assert reader.oldest(10) == found
    with RecommendationConsumer(apache_kafka.bootstrap, topic=topic, from_beginning=True) as slates:
        until(lambda: slates.poll(0.5) is not None, lambda: None)
        assert [slates.poll(1.0) is not None for _ in range(3)] == [True, True, False]

    uncommitted = Member(KafkaSource(topic, {**settings, "isolation.level": "read_uncommitted"}, "g-all"), {})
    until(lambda: len(uncommitted.read) == 73 and uncommitted.source.lag() == {0: 0}, uncommitted.step)
    uncommitted.source.close()


def test_an_open_transaction_is_waited_for_and_hides_no_end(apache_kafka: EmbeddedBroker) -> None:
    topic, settings = f"open-{uuid.uuid4().hex[:8]}", apache_kafka.settings
    apply([MissingTopic(topic, 1, 1)], settings)
    transactions(apache_kafka, topic, 2)
    producer = Producer({"bootstrap.servers": apache_kafka.bootstrap, "transactional.id": f"open-{topic}"})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, b"x", b"k", partition=0)
    producer.flush(10)
    with closing(TopicReader(topic, settings)) as reader:
        found: list[Record] = []
        reader.read_whole(found.append)
        assert [record.offset for record in found] == [0, 1]
        assert reader.end() == {0: 3}
    member = Member(KafkaSource(topic, settings, topic), {})
    until(lambda: len(member.read) == 2 and member.source.lag() == {0: 0}, member.step)
    producer.commit_transaction(20)
    until(lambda: len(member.read) == 3 and member.source.lag() == {0: 0}, member.step)
    member.source.close()


def test_a_partition_that_the_client_has_lost_sight_of_is_fetched_anew(
    apache_kafka: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(confluent, "_STALL_S", 2.0)
    topic, settings = f"lost-{uuid.uuid4().hex[:8]}", apache_kafka.settings
    apply([MissingTopic(topic, 1, 1)], settings)
    fill(settings, topic, 3)
    member = Member(KafkaSource(topic, settings, topic), {})
    until(lambda: len(member.read) == 3, member.step)
    member.source._consumer.pause([TopicPartition(topic, 0)])  # behind the source's back
    fill(settings, topic, 4)
    until(lambda: len(member.read) == 7, member.step)
    assert member.read == [(0, offset) for offset in range(7)]
    assert "a partition gives nothing though it has more" in caplog.text
    member.source.close()


def test_the_lag_of_a_partition_that_is_not_fetched_grows_all_the_same(apache_kafka: EmbeddedBroker) -> None:
    topic, settings = f"still-{uuid.uuid4().hex[:8]}", apache_kafka.settings
    apply([MissingTopic(topic, 1, 1)], settings)
    fill(settings, topic, 3)
    member = Member(KafkaSource(topic, settings, topic), {})
    until(lambda: len(member.read) == 3 and member.source.lag() == {0: 0}, member.step)
    member.source._consumer.pause([TopicPartition(topic, 0)])  # behind the source's back
    fill(settings, topic, 4)
    until(lambda: member.source.lag() == {0: 4}, member.step)
    assert member.source.stopped() == ()
    member.source.pause()
    assert list(member.source.stopped()) == [0]
    member.source.resume()
    until(lambda: len(member.read) == 7 and member.source.lag() == {0: 0}, member.step)
    member.source.close()


def test_a_missing_topic_is_an_error_that_says_what_to_do(apache_kafka: EmbeddedBroker) -> None:
    # The bundled broker creates a topic when it is asked about it; only Apache Kafka can be missing one.
    with closing(KafkaSource("no-such-topic", apache_kafka.settings, "g")) as source:
        source.subscribe(Startled())
        with pytest.raises(TransportError, match="streamrec topics apply"):
            until(lambda: False, lambda: source.poll(10, 0.1) and None)


def test_a_latest_start_skips_what_is_there(apache_kafka: EmbeddedBroker) -> None:
    apply([MissingTopic("latest", 1, 1)], apache_kafka.settings)
    fill(apache_kafka.settings, "latest", 5)
    member = Member(KafkaSource("latest", {**apache_kafka.settings, "auto.offset.reset": "latest"}, "g-latest"), {})
    until(lambda: member.held == {0} and member.source.lag() == {0: 0}, member.step)
    fill(apache_kafka.settings, "latest", 3)
    until(lambda: len(member.read) == 3, member.step)
    assert member.read == [(0, 5), (0, 6), (0, 7)]
    member.source.close()


def test_a_source_and_a_sink_outlive_a_broker_that_crashes(
    apache_kafka: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with embedded_broker(apache=True) as broker:
        apply([MissingTopic("t", 1, 1)], broker.settings)
        fill(broker.settings, "t", 50)
        sink, member = KafkaSink(broker.settings), Member(KafkaSource("t", broker.settings, "g"), {})
        until(lambda: len(member.read) == 50, member.step)
        broker.kill()
        sink.publish("t", b"k", b"while the broker was away")
        until(lambda: not member.source.connected(), member.step)
        with pytest.raises(PublishDelayed):
            sink.flush(0.1)
        until(lambda: "no broker answers" in caplog.text, member.step)
        assert "answers again" not in caplog.text
        broker.restart()
        sink.flush(30.0)
        until(lambda: len(member.read) == 51, member.step)
        assert member.source.connected()
        assert member.read == [(0, offset) for offset in range(51)]
        assert caplog.text.count("a broker answers again") == 1
        # Each connection says it once: the consumer's, its coordinator's and the producer's.
        assert sum("Connection refused" in message for message in caplog.messages) <= 3
        sink.close()
        member.source.close()


def test_flush_says_when_nobody_acknowledges() -> None:
    sink = KafkaSink({"bootstrap.servers": NOBODY}, block_s=0.2)
    sink.publish("t", b"k", b"v")
    with pytest.raises(PublishFailed, match="1 records were not acknowledged"):
        sink.flush(0.2)
    with pytest.raises(PublishFailed):
        sink.close()


def test_a_full_queue_blocks_only_up_to_its_limit() -> None:
    sink = KafkaSink({"bootstrap.servers": NOBODY, "queue.buffering.max.messages": 10}, block_s=0.5)
    for _ in range(10):
        sink.publish("t", b"k", b"v")
    began = time.monotonic()
    with pytest.raises(PublishFailed, match="stayed full"):
        sink.publish("t", b"k", b"v")
    assert 0.4 < time.monotonic() - began < PATIENCE_S
    with pytest.raises(PublishFailed):
        sink.close()


def test_a_record_given_up_breaks_the_sink_for_good() -> None:
    sink = KafkaSink({"bootstrap.servers": NOBODY, "message.timeout.ms": 300, "linger.ms": 1}, block_s=0.2)
    sink.publish("t", b"k", b"v")

    def given_up() -> bool:
        with pytest.raises(PublishFailed) as failure:
            sink.flush(0.1)
        return "make a new sink" in str(failure.value)

    until(given_up)
    for call in (lambda: sink.flush(1.0), lambda: sink.publish("t", b"k", b"w"), lambda: sink.flush(1.0)):
        with pytest.raises(PublishFailed, match="make a new sink"):
            call()


def test_a_record_too_large_for_the_log_is_refused_at_once(tansu: EmbeddedBroker) -> None:
    with closing(KafkaSink(tansu.settings)) as sink, pytest.raises(PublishFailed, match="not taken"):
        sink.publish("t", b"k", b"x" * 2_000_000)


def test_settings_that_are_wrong_are_told_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"no\.such\.setting"):
        KafkaSink({"bootstrap.servers": NOBODY, "no.such.setting": 1})
    with pytest.raises(ConfigError, match=r"enable\.auto\.commit cannot be set"):
        KafkaSource("t", {"bootstrap.servers": NOBODY, "enable.auto.commit": True}, "g")
    with pytest.raises(ConfigError, match="expected 'earliest' or 'latest'"):
        KafkaSource("t", {"bootstrap.servers": NOBODY, "auto.offset.reset": "yesterday"}, "g")


def test_one_table_of_settings_serves_every_client_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    table: dict[str, str | int] = {
        "bootstrap.servers": NOBODY,
        "client.id": "test",
        "session.timeout.ms": 7_000,
        "fetch.min.bytes": 1,
        "isolation.level": "read_committed",
        "batch.size": 100_000,
        "partitioner": "murmur2",
        "retries": 5,
    }
    with caplog.at_level(logging.WARNING, "streamrec.kafka"):
        source, sink = KafkaSource("t", table, "g"), KafkaSink(table)
        member = Member(source, {})
        member.step()
        sink.flush(0.1)
        member.source.close()
        sink.close()
    assert [line for line in caplog.messages if "CONFWARN" in line] == []
    assert set(for_admin(table)) == {"bootstrap.servers", "client.id"}
    assert CONSUMER_ONLY.isdisjoint(PRODUCER_ONLY)
    assert for_consumer(table).keys() & PRODUCER_ONLY == for_producer(table).keys() & CONSUMER_ONLY == set()


@pytest.fixture
def empty_cluster(broker: EmbeddedBroker) -> Iterator[EmbeddedBroker]:
    """The broker, with the topics of this test taken away afterwards."""
    yield broker
    names = [topic.topic for topic in wanted(TOPICS)]
    admin = AdminClient(for_admin(broker.settings))  # held until all have answered: they are cancelled with it
    for answer in admin.delete_topics(names, request_timeout=10).values():
        answer.exception(10)
    until(lambda: not admin.list_topics(timeout=5).topics.keys() & set(names), lambda: time.sleep(0.05))


TOPICS = Topics(
    events="p-events",
    items="p-items",
    recommendations="p-recommendations",
    outcomes="p-outcomes",
    trends="p-trends",
    dead_letters="p-dlq",
    examples="p-examples",
    model_updates="p-model-updates",
    partitions=3,
    retention_ms=86_400_000,
)


def test_a_plan_names_what_is_missing_and_apply_makes_just_that(empty_cluster: EmbeddedBroker) -> None:
    settings = {**empty_cluster.settings, "linger.ms": 1}
    changes = plan(TOPICS, settings)
    assert changes == wanted(TOPICS)
    configs = {change.topic: change.config for change in wanted(TOPICS)}
    assert configs["p-items"] == configs["p-trends"] == {"cleanup.policy": "compact"}
    assert configs["p-events"]["retention.ms"] == "86400000"
    assert configs["p-dlq"]["retention.ms"] == configs["p-outcomes"]["retention.ms"] == str(4 * 86_400_000)

    assert apply(changes, settings) == changes
    assert plan(TOPICS, settings) == []
    assert apply(changes, settings) == []  # somebody else made them in the meantime: no error


def test_what_exists_otherwise_is_reported_and_left_alone(empty_cluster: EmbeddedBroker) -> None:
    settings = empty_cluster.settings
    apply([MissingTopic("p-events", 2, 1, {"cleanup.policy": "compact", "retention.ms": "5000"})], settings)
    changes = plan(TOPICS, settings)
    differences = [change for change in changes if isinstance(change, DifferentSetting)]
    assert differences == [
        DifferentSetting("p-events", "partitions", "3", "2"),
        DifferentSetting("p-events", "cleanup.policy", "delete", "compact"),
        DifferentSetting("p-events", "retention.ms", "86400000", "5000"),
    ]
    apply(changes, settings)
    assert plan(TOPICS, settings) == differences


def test_a_plan_without_a_broker_fails_within_its_time() -> None:
    began = time.monotonic()
    with pytest.raises(TransportError, match=r"bootstrap\.servers"):
        plan(TOPICS, {"bootstrap.servers": NOBODY}, timeout_s=0.5)
    assert time.monotonic() - began < PATIENCE_S
