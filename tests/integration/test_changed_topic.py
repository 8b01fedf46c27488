"""A topic that changes under its workers, on a real Apache Kafka: they stop, and say what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.errors import TransportUnavailable
from streamrec.testing import shop
from streamrec.transport.identity import IdentityReader
from streamrec.transport.librdkafka import for_admin
from streamrec.transport.topics import apply, plan
from tests.support.deployment import Deployment, until

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


def test_a_worker_started_on_a_topic_that_was_made_anew_refuses_and_says_what_to_do(deploy: Deploy) -> None:
    deployment = deploy(2)
    deployment.send(LOG)
    handled(deployment)
    make_anew(deployment)
    deployment.send([*LOG, *LOG])  # more than the old positions: every one of them is inside the new topic
    with deployment.worker() as worker:
        assert worker.wait(60.0) == 1
        assert "is not the one whose positions are stored" in worker.said
        assert "Traceback" not in worker.said
    assert deployment.committed() == len(LOG)


def test_a_running_worker_stops_when_partitions_were_added(deploy: Deploy) -> None:
    deployment = deploy(2)
    deployment.send(LOG)
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == len(LOG), worker)
        grow(deployment, 5)
        assert worker.wait(60.0) == 1
        assert "`streamrec topics rescale --partitions 5`" in worker.said
    assert deployment.committed() == len(LOG)


def test_a_running_worker_notices_that_its_topic_was_made_anew(deploy: Deploy) -> None:
    deployment = deploy(1)
    deployment.send(LOG)
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == len(LOG), worker)
        make_anew(deployment)
        deployment.send([*LOG, *LOG])
        assert worker.wait(60.0) == 1
        assert "Traceback" not in worker.said
    assert deployment.committed() == len(LOG)
