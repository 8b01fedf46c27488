"""What every reader of the ends of topics promises: in memory, on Tansu and on Apache Kafka."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from streamrec.demo.embedded import EmbeddedBroker
from streamrec.errors import TransportUnavailable
from streamrec.transport import Ends, Record, Tail
from streamrec.transport.confluent_sink import KafkaSink
from streamrec.transport.confluent_tail import KafkaTail
from streamrec.transport.local import LocalSink, LocalTail
from streamrec.transport.topics import MissingTopic, apply

NOW_S = 10.0


class LocalTopics:
    """Two topics in memory."""

    def __init__(self) -> None:
        self.names = ("slates", "outcomes")
        self._sink = LocalSink()

    def write(self, topic: str, values: Sequence[bytes]) -> None:
        for value in values:
            self._sink.publish(topic, value, value)

    def tail(self) -> Tail:
        return LocalTail(self._sink)


class KafkaTopics:
    """Two topics of three partitions on a broker."""

    def __init__(self, settings: dict[str, str | int]) -> None:
        self.settings = settings
        self.names = tuple(f"{name}-{uuid.uuid4().hex[:8]}" for name in ("slates", "outcomes"))
        apply([MissingTopic(name, 3, 1) for name in self.names], settings)

    def write(self, topic: str, values: Sequence[bytes]) -> None:
        with closing(KafkaSink(self.settings)) as sink:
            for value in values:
                sink.publish(topic, value, value)

    def tail(self) -> Tail:
        return KafkaTail(self.names, self.settings)


Topics = LocalTopics | KafkaTopics


@pytest.fixture(params=["local", "tansu", "apache_kafka"])
def topics(request: pytest.FixtureRequest) -> Topics:
    return LocalTopics() if request.param == "local" else KafkaTopics(request.getfixturevalue(request.param).settings)


def numbers(first: int, count: int) -> list[bytes]:
    return [b"%d" % n for n in range(first, first + count)]


def read(tail: Tail, starts: Ends) -> list[Record]:
    found: list[Record] = []
    tail.read(starts, found.append)
    return found


def values(records: Sequence[Record], topic: str) -> set[bytes | None]:
    return {record.value for record in records if record.topic == topic}


def test_from_the_ends_on_there_is_what_came_since_and_all_of_it(topics: Topics) -> None:
    slates, outcomes = topics.names
    topics.write(slates, numbers(0, 50))
    with closing(topics.tail()) as tail:
        ends = tail.ends(NOW_S)
        topics.write(slates, numbers(50, 30))
        topics.write(outcomes, numbers(0, 5))
        found = read(tail, ends)
    # Tansu tells of batches, which are fewer: what it names as an end lies before it, and more is read.
    assert values(found, slates) >= set(numbers(50, 30))
    assert len(values(found, slates)) == 30 or isinstance(topics, KafkaTopics)
    assert values(found, outcomes) == set(numbers(0, 5))
    for partition in range(3):
        offsets = [r.offset for r in found if (r.topic, r.partition) == (slates, partition)]
        assert offsets == sorted(offsets)


def test_what_nothing_is_known_of_is_read_from_its_beginning(topics: Topics) -> None:
    slates, outcomes = topics.names
    for topic in topics.names:
        topics.write(topic, numbers(0, 20))
    with closing(topics.tail()) as tail:
        found = read(tail, {})
        assert values(found, slates) == values(found, outcomes) == set(numbers(0, 20))


def test_ends_come_to_be_known_without_waiting(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.transport.confluent_tail.ASK_EVERY_S", 0.05)
    slates, _ = topics.names
    with closing(topics.tail()) as tail:
        before = sum(tail.ends(NOW_S).get(slates, {}).values())
        topics.write(slates, numbers(0, 40))
        deadline = time.monotonic() + 20
        while sum(tail.ends().get(slates, {}).values()) == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)


# Of brokers alone


def test_only_what_came_since_is_read_of_a_broker_that_knows_its_ends(apache_kafka: EmbeddedBroker) -> None:
    topics = KafkaTopics(apache_kafka.settings)
    slates, _ = topics.names
    topics.write(slates, numbers(0, 50))
    with closing(topics.tail()) as tail:
        ends = tail.ends(NOW_S)
        assert sum(ends[slates].values()) == 50
        assert read(tail, ends) == []
        topics.write(slates, numbers(50, 3))
        assert values(read(tail, ends), slates) == set(numbers(50, 3))


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(apache_kafka: EmbeddedBroker) -> None:
    topics = KafkaTopics(apache_kafka.settings)
    slates, _ = topics.names
    topics.write(slates, numbers(0, 50))
    with closing(topics.tail()) as tail:
        ends = tail.ends(NOW_S)
        admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap})  # held in a name until it has answered
        admin.delete_topics([slates])[slates].result(20)
        assert wait_for(lambda: slates not in read_names(apache_kafka))
        assert read(tail, ends) == []  # a topic that is not there holds nothing
        apply([MissingTopic(slates, 3, 1)], apache_kafka.settings)
        topics.write(slates, numbers(0, 4))
        assert values(read(tail, ends), slates) == set(numbers(0, 4))


def test_brokers_that_do_not_answer_are_away_for_the_time_given_and_no_longer() -> None:
    nobody = {"bootstrap.servers": "127.0.0.1:1"}
    with closing(KafkaTail(["slates"], nobody)) as tail:
        began = time.monotonic()
        with pytest.raises(TransportUnavailable):
            tail.ends(0.5)
        assert time.monotonic() - began < 5
        assert tail.ends() == {"slates": {}}  # never blocks


def test_what_was_forgotten_is_not_sent_and_the_sink_goes_on(apache_kafka: EmbeddedBroker) -> None:
    topics = KafkaTopics(apache_kafka.settings)
    slates, _ = topics.names
    with closing(KafkaSink({**apache_kafka.settings, "linger.ms": 60_000})) as sink:
        for value in numbers(0, 20):
            sink.publish(slates, value, value)
        sink.forget()
        for value in numbers(20, 3):
            sink.publish(slates, value, value)
        sink.flush(20)
    with closing(topics.tail()) as tail:
        assert values(read(tail, {}), slates) == set(numbers(20, 3))


def read_names(broker: EmbeddedBroker) -> set[str]:
    return set(Producer({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=10).topics)


def wait_for(condition: Callable[[], bool], limit_s: float = 20.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
