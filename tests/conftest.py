"""What tests share: a broker and a Redis server, started once per run on free loopback ports and ended with it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis, apache_kafka_home, embedded_broker, embedded_redis
from tests.support.redis_servers import Servers, running_cluster, running_sentinels
from tests.support.s3 import S3Server, s3_server

# How long an example takes is the machine's affair, and no reason to fail.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `tools/chaos` passes on."""
    parser.addoption("--chaos", choices=["quick", "whole"], default="quick", help="how much of tests/chaos to run")
    parser.addoption("--chaos-seed", type=int, default=1, help="where and when faults strike")
    parser.addoption("--soak", type=float, default=0.0, metavar="MINUTES", help="faults at random for so long")


def pytest_configure(config: pytest.Config) -> None:
    """Tests that run only when they are asked for."""
    config.addinivalue_line("markers", "whole: runs with --chaos whole")
    config.addinivalue_line("markers", "soak: runs with --soak MINUTES")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what was not asked for."""
    asked = {"whole": config.getoption("--chaos") == "whole", "soak": config.getoption("--soak") > 0}
    unasked = [name for name, wanted in asked.items() if not wanted]
    left_out = [item for item in items if any(item.get_closest_marker(name) is not None for name in unasked)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """A Redis server of the tests' own."""
    with embedded_redis() as redis:
        yield redis


@pytest.fixture(scope="session")
def redis_sentinels() -> Iterator[Servers]:
    """A master and a replica under Sentinels. End none of them: start others for that."""
    with running_sentinels() as servers:
        yield servers


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[Servers]:
    """A cluster of three masters with replicas. End none of them: start others for that."""
    with running_cluster() as servers:
        yield servers


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server of the tests' own."""
    with s3_server() as running:
        yield running


@pytest.fixture(scope="session")
def tansu() -> Iterator[EmbeddedBroker]:
    """The bundled broker. Do not end it: start another for that."""
    with embedded_broker(apache=False) as running:
        yield running


@pytest.fixture(scope="session")
def apache_kafka() -> Iterator[EmbeddedBroker]:
    """Apache Kafka, where it is installed. Do not end it: start another for that."""
    if apache_kafka_home() is None:
        pytest.skip("no Apache Kafka here: set KAFKA_HOME to a folder with libs/*.jar, and install Java")
    with embedded_broker(apache=True) as running:
        yield running


@pytest.fixture(params=["tansu", "apache_kafka"])
def broker(request: pytest.FixtureRequest) -> EmbeddedBroker:
    """Every kind of broker in turn; each is started once."""
    running: EmbeddedBroker = request.getfixturevalue(request.param)
    return running


@pytest.fixture
def make_topic(broker: EmbeddedBroker) -> Callable[[int], str]:
    """Makes a topic with so many partitions and a name of its own."""
    from streamrec.transport.topics import MissingTopic, apply

    def make(partitions: int = 1) -> str:
        name = f"test-{uuid.uuid4().hex[:12]}"
        apply([MissingTopic(name, partitions, 1)], broker.settings)
        return name

    return make


@pytest.fixture(scope="session")
def streamrec_data() -> Path:
    """The folder with the large public logs."""
    folder = os.environ.get("STREAMREC_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no large logs here: set STREAMREC_DATA to the folder that holds them")
    return Path(folder)
