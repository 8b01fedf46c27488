"""The checks every follower of a compacted topic passes: in memory, on Tansu and on Apache Kafka."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import closing

import pytest
from confluent_kafka import Producer

from streamrec.transport import Follower, Record
from streamrec.transport.confluent_follower import KafkaFollower
from streamrec.transport.local_follower import LocalFollower
from streamrec.transport.topics import MissingTopic, apply

SimulationNotes = tuple[bytes, bytes | None]


class LocalTopic:
    """A topic in memory; who follows it from then on gets what is appended."""

    def __init__(self) -> None:
        self.name = "things"
        self._held: list[Record] = []
        self._followers: list[LocalFollower] = []

    def write(self, *told: SimulationNotes) -> None:
        new = [Record(self.name, 0, len(self._held) + n, key, value) for n, (key, value) in enumerate(told)]
        self._held += new
        for follower in self._followers:
            follower.append(new)

    def follow(self) -> Follower:
        self._followers.append(LocalFollower(self.name, self._held))
        return self._followers[-1]


class KafkaTopic:
    """A compacted topic of three partitions."""

    def __init__(self, settings: dict[str, str | int]) -> None:
        self.name = f"things-{uuid.uuid4().hex[:8]}"
        self._settings = settings
        apply([MissingTopic(self.name, 3, 1, {"cleanup.policy": "compact"})], settings)

    def write(self, *told: SimulationNotes) -> None:
        producer = Producer({"bootstrap.servers": self._settings["bootstrap.servers"]})
        for key, value in told:
            producer.produce(self.name, key=key, value=value)
        assert producer.flush(20) == 0

    def follow(self) -> Follower:
        return KafkaFollower(self.name, self._settings)


Topic = LocalTopic | KafkaTopic


@pytest.fixture(params=["local", "tansu", "apache_kafka"])
def topic(request: pytest.FixtureRequest) -> Topic:
    return LocalTopic() if request.param == "local" else KafkaTopic(request.getfixturevalue(request.param).settings)


def read(follower: Follower, done: Callable[[list[Record]], bool], most: int = 7) -> list[Record]:
    found: list[Record] = []
    deadline = time.monotonic() + 30
    while not done(found):
        assert time.monotonic() < deadline, f"only {len(found)} records came"
        looked = follower.look(most, 0.1)
        assert len(looked) <= most
        found += looked
    return found


def newest(records: list[Record]) -> dict[bytes | None, bytes | None]:
    return {record.key: record.value for record in records}


def test_everything_there_is_comes_first_and_then_what_is_new(topic: Topic) -> None:
    topic.write(*((b"%d" % n, b"first") for n in range(20)), *((b"%d" % n, b"then") for n in range(10)), (b"3", None))
    with closing(topic.follow()) as follower:
        assert not follower.whole()
        held = read(follower, lambda found: follower.whole())
        expected = {b"%d" % n: b"then" if n < 10 else b"first" for n in range(20)} | {b"3": None}
        assert newest(held) == expected
        assert list(follower.look(7)) == []
        topic.write((b"4", b"at last"), (b"new", b"here"))
        assert newest(read(follower, lambda found: len(found) >= 2)) == {b"4": b"at last", b"new": b"here"}
        assert follower.whole()


def test_everybody_is_told_everything(topic: Topic) -> None:
    topic.write(*((b"%d" % n, b"x") for n in range(30)))
    with closing(topic.follow()) as first, closing(topic.follow()) as second:
        for follower in (first, second):
            assert len(read(follower, lambda found, each=follower: each.whole())) == 30


def test_an_empty_topic_is_whole_soon(topic: Topic) -> None:
    with closing(topic.follow()) as follower:
        assert read(follower, lambda found: follower.whole()) == []


def test_a_topic_that_is_not_there_is_empty_and_found_once_it_is_made(
    tansu: object, apache_kafka: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamrec.transport.confluent_follower._MISSING_AGAIN_S", 0.2)
    for broker in (tansu, apache_kafka):
        name = f"later-{uuid.uuid4().hex[:8]}"
        with closing(KafkaFollower(name, broker.settings)) as follower:
            read(follower, lambda found, each=follower: each.whole())
            apply([MissingTopic(name, 1, 1, {"cleanup.policy": "compact"})], broker.settings)
            producer = Producer({"bootstrap.servers": broker.settings["bootstrap.servers"]})
            producer.produce(name, key=b"k", value=b"v")
            assert producer.flush(20) == 0
            assert newest(read(follower, lambda found: len(found) > 0)) == {b"k": b"v"}


def test_brokers_that_are_away_are_waited_for() -> None:
    with closing(KafkaFollower("things", {"bootstrap.servers": "127.0.0.1:1"})) as follower:
        began = time.monotonic()
        assert list(follower.look(7, 0.1)) == []
        assert list(follower.look(7, 0.1)) == []
        assert not follower.whole()
        assert time.monotonic() - began < 30
