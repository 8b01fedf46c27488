"""A topic that changes under its workers, on a real Apache Kafka: they stop, and say what to do."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from streamrec.cli.commands import topics_adopt, topics_rescale
from streamrec.codec import MSGPACK, decode_slate, encode_event
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.errors import ConfigError, StateError, TransportError, TransportUnavailable
from streamrec.events import Event, Slate
from streamrec.state import Kind, PartitionMark
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.testing import HEADERS, partition_of, recount, shop
from streamrec.transport.identity import IdentityReader
from streamrec.transport.librdkafka import for_admin
from streamrec.transport.positions import TopicReader
from streamrec.transport.topics import apply, plan
from streamrec.wiring import build_store
from tests.support.deployment import Deployment, until
from tests.support.oracle import assert_counts_equal_a_recount, assert_each_request_has_its_answer

LOG = shop(300, seed=21)
Deploy = Callable[[int], Deployment]


@pytest.fixture
def deploy(apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path) -> Deploy:
    def deploy(partitions: int) -> Deployment:
        # Half a minute until clients see new partitions is long for a test.
        kafka = {**apache_kafka.settings, "topic.metadata.refresh.interval.ms": 1_000}
        return Deployment(tmp_path, kafka, redis_server.url, partitions, "fast", limits={"max_items": 512})

    return deploy


def admin(deployment: Deployment) -> AdminClient:
    return AdminClient(for_admin(deployment.settings.kafka))


def make_anew(deployment: Deployment) -> None:
    """Delete the events topic and make it again under its name."""
    client, name = admin(deployment), deployment.settings.topics.events
    client.delete_topics([name])[name].result(20)
    until(lambda: name not in client.list_topics(timeout=10).topics)
    apply(plan(deployment.settings.topics, deployment.settings.kafka), deployment.settings.kafka)


def grow(deployment: Deployment, partitions: int) -> None:
    """What somebody does who knows nothing of users."""
    client, name = admin(deployment), deployment.settings.topics.events
    client.create_partitions([NewPartitions(name, partitions)])[name].result(20)


def handled(deployment: Deployment) -> None:
    """Let a worker handle everything that was sent."""
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == len(LOG), worker)
        assert worker.stop() == 0, worker.said


KILLED = """
import os, signal, sys
from streamrec.cli import main
from streamrec.state.redis import RedisStore
commit, left = RedisStore.commit, [int(sys.argv.pop(1))]
def killed(self, checkpoint):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    commit(self, checkpoint)
RedisStore.commit = killed
main()
"""
"""A command that is killed before it commits for the n-th time."""


def test_partitions_are_added_and_every_user_goes_along_though_that_is_killed(
    deploy: Deploy, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = deploy(2)
    rescale = partial(topics_rescale.run, deployment.settings, 5, misplaced=False, as_json=False)
    deployment.send(LOG[:200])
    with pytest.raises(StateError, match="200 records are not handled yet"):
        rescale(dry_run=False)
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == 200, worker)
        with pytest.raises(StateError, match="are running; stop them first"):
            rescale(dry_run=False)
        assert worker.stop() == 0, worker.said
    capsys.readouterr()
    rescale(dry_run=True)
    assert re.fullmatch(r".*: 2 > 5 partitions; \d+ of \d+ users move\nnothing was changed\n", capsys.readouterr().out)
    with pytest.raises(ConfigError, match=r"--partitions is 1, .* takes none away"):
        topics_rescale.run(deployment.settings, 1, misplaced=False, dry_run=False, as_json=False)
    assert partitions(deployment) == 2

    command = [sys.executable, "-c", KILLED, "9", "topics", "rescale", "--partitions", "5"]
    killed = subprocess.run([*command, "--config", deployment.config], capture_output=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    with deployment.worker() as worker:
        assert worker.wait() == 1
        assert "`streamrec topics rescale --partitions 5`" in worker.said
    done = deployment.command("topics", "rescale", "--partitions", "5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "as before there are" in done.stdout
    assert "note:" not in done.stdout
    topics = deployment.settings.topics
    assert {partitions(deployment, name) for name in (topics.events, topics.recommendations, topics.outcomes)} == {5}

    deployment.send(LOG[200:])
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == len(LOG), worker)
        assert worker.stop() == 0, worker.said
    with closing(build_store(deployment.settings)) as store:
        assert_counts_equal_a_recount(store, LOG)
        assert {len(store.find(Kind.USER, user_id)) for user_id in recount(LOG).users} == {1}
    assert_each_request_has_its_answer(slates(deployment), LOG)


def test_partitions_added_under_a_worker_stop_it_and_what_came_to_the_former_ones_is_put_together(
    deploy: Deploy, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = deploy(2)
    deployment.send(LOG[:200])
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == 200, worker)
        grow(deployment, 5)
        assert worker.wait() == 1
        assert "has 5 partitions, its users were spread over 2" in worker.said
    late = [event for event in LOG[200:] if placed(event, 5) != placed(event, 2)]
    produce(deployment, late, 2)
    topics_rescale.run(deployment.settings, 5, misplaced=False, dry_run=False, as_json=False)
    assert f"note: {len(late)} records wait on partitions that their users have left" in capsys.readouterr().out
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == 200 + len(late), worker)
        assert worker.stop() == 0, worker.said
    with pytest.raises(StateError, match="add --misplaced"):
        topics_rescale.run(deployment.settings, 5, misplaced=False, dry_run=False, as_json=True)
    topics_rescale.run(deployment.settings, 5, misplaced=True, dry_run=False, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["former"], said["done"]["grown"], said["done"]["misplaced"]) == (5, [], {})
    assert said["moving"] == said["done"]["moved"]["user"] > said["done"]["merged"]["user"] > 0
    with closing(build_store(deployment.settings)) as store:
        assert_counts_equal_a_recount(store, [*LOG[:200], *late])
        for user_id in recount(LOG[:200]).users:
            assert list(store.find(Kind.USER, user_id)) == [partition_of(user_id, 5)]


def placed(event: Event, among: int) -> int:
    return partition_of(event.user_id, among)


def produce(deployment: Deployment, events: Sequence[Event], among: int) -> None:
    """As a producer that has not heard of new partitions."""
    producer = Producer({"bootstrap.servers": deployment.settings.kafka["bootstrap.servers"]})
    for event in events:
        producer.produce(
            deployment.settings.topics.events,
            key=event.user_id.encode(),
            value=encode_event(event, MSGPACK),
            headers=list(HEADERS),
            partition=placed(event, among),
        )
    assert producer.flush(20) == 0


def partitions(deployment: Deployment, name: str | None = None) -> int:
    with closing(TopicReader(name or deployment.settings.topics.events, deployment.settings.kafka)) as topic:
        return topic.partitions


def slates(deployment: Deployment) -> list[Slate]:
    published = deployment.read(deployment.settings.topics.recommendations)
    return [decode_slate(record.value or b"", record.headers) for record in published]


def test_a_broker_that_cannot_add_partitions_says_so_and_nothing_is_changed(
    tansu: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, tansu.settings, redis_server.url, 2, "fast")
    with pytest.raises(TransportError, match="could not add partitions to topic"):
        topics_rescale.run(deployment.settings, 3, misplaced=False, dry_run=False, as_json=False)
    with closing(build_store(deployment.settings)) as store:
        assert store.marks() == {}


def test_a_topic_s_id_is_another_one_once_it_was_made_anew(
    broker: EmbeddedBroker, make_topic: Callable[[int], str]
) -> None:
    name = make_topic(2)
    reader = IdentityReader(name, broker.settings)
    first = reader.identity()
    assert first == IdentityReader(name, broker.settings).identity()
    assert first.topic_id
    assert first.cluster_id
    assert first.partitions == 2
    assert IdentityReader(make_topic(2), broker.settings).identity().topic_id != first.topic_id
    with pytest.raises(TransportUnavailable, match="did not tell which topic 'no-such' is"):
        IdentityReader("no-such", broker.settings).identity()


def test_a_worker_started_on_a_topic_that_was_made_anew_refuses_and_says_what_to_do(
    deploy: Deploy, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = deploy(2)
    deployment.send(LOG)
    handled(deployment)
    make_anew(deployment)
    later = [msgspec.structs.replace(event, event_id=f"later-{n}") for n, event in enumerate([*LOG, *LOG])]
    deployment.send(later)  # the old positions lie within the new topic
    with deployment.worker() as worker:
        assert worker.wait(60.0) == 1
        assert "is not the one whose positions are stored" in worker.said
        assert "Traceback" not in worker.said
    assert deployment.committed() == len(LOG)
    topics_adopt.run(deployment.settings, "earliest", as_json=True)
    assert json.loads(capsys.readouterr().out)["starts"] == {"0": 0, "1": 0}
    with pytest.raises(StateError, match="nothing to adopt"):
        topics_adopt.run(deployment.settings, "earliest", as_json=True)
    [adopted] = {mark.snapshot for mark in marks(deployment).values()}
    snapshots = SnapshotDirectory(deployment.settings.snapshots.url, 3)
    assert snapshots.describe(adopted or "").watermarks == {0: 0, 1: 0}
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == 2 * len(LOG), worker)
        assert worker.stop() == 0, worker.said
    with closing(build_store(deployment.settings)) as store:
        assert_counts_equal_a_recount(store, [*LOG, *later])


def marks(deployment: Deployment) -> dict[int, PartitionMark]:
    with closing(build_store(deployment.settings)) as store:
        return store.marks()


def test_a_running_worker_notices_that_its_topic_was_made_anew(deploy: Deploy) -> None:
    deployment = deploy(1)
    deployment.send(LOG)
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == len(LOG), worker)
        make_anew(deployment)
        deployment.send([*LOG, *LOG])
        assert worker.wait(60.0) == 1
        # Whichever comes first: it asks, its position is beyond the end, or the topic is just not there.
        assert re.search("made anew|does not exist", worker.said)
        assert "Traceback" not in worker.said
    assert deployment.committed() == len(LOG)
