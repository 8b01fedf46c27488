"""Members that freeze, come and go, and brokers that go away: what the consumer group makes of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis, apache_kafka_home, embedded_broker
from tests.chaos.faulty_worker import Fault
from tests.chaos.scene import READY_AGAIN_S, Scene, rest
from tests.chaos.workers import ForkedWorker
from tests.support.deployment import until

MOST_MEMBERS = 4
VARIANTS = [
    "classic",
    pytest.param("static", marks=pytest.mark.whole),
    pytest.param("newer protocol", marks=pytest.mark.whole),
]
"""How members are known to the group: by a name the broker gives, by one of their own, or as KIP-848 has it."""


def test_a_worker_that_froze_past_its_session_cannot_undo_what_its_successor_wrote(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int
) -> None:
    scene = Scene(tmp_path, apache_kafka.settings, redis_server.url, seed=seed, partitions=2)
    scene.send(200)
    with scene.worker(Fault("commit", "before", 3, signal.SIGSTOP)) as zombie:
        until(lambda: scene.committed() > 0, zombie)
        with scene.traffic(100):
            until(lambda: "fault:" in zombie.said, zombie)
            with scene.worker() as successor:
                rest(1.0)
                scene.until_progress(successor, READY_AGAIN_S)
                written = scene.marks()
                zombie.signal(signal.SIGCONT)
                until(lambda: sum(mark.refused for mark in scene.marks().values()) > 0, successor)
                rest(3.0)
                after = scene.marks()
                assert all((after[p].watermark or 0) >= (mark.watermark or 0) for p, mark in written.items())
                if zombie.running:  # it is a member of the group again, or was told to leave
                    until(zombie.ready, zombie)
                    assert zombie.stop() == 0
        scene.send(50)
        scene.finish()
    scene.assert_exact()


def test_a_worker_that_froze_before_it_answered_leaves_the_answers_to_its_successor(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int
) -> None:
    scene = Scene(tmp_path, apache_kafka.settings, redis_server.url, seed=seed, partitions=2)
    scene.send(300)
    with scene.worker(Fault("credit", "before", 1, signal.SIGSTOP)) as zombie:
        until(lambda: "fault:" in zombie.said, zombie)
        with scene.worker() as successor:
            scene.until_caught_up(successor)
            zombie.signal(signal.SIGCONT)
            until(lambda: zombie.metric("streamrec_refused_checkpoints") > 0, zombie)
            scene.send(50)
            scene.until_caught_up(successor)
            assert successor.stop() == zombie.stop() == 0
    scene.finish()
    scene.assert_exact()


@pytest.mark.parametrize("variant", VARIANTS)
def test_members_that_come_and_go_leave_no_partition_idle_and_no_event_uncounted(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int, whole: bool, variant: str
) -> None:
    protocol = {"group.protocol": "consumer"} if variant == "newer protocol" else {}
    scene = Scene(tmp_path, {**apache_kafka.settings, **protocol}, redis_server.url, seed=seed, partitions=4)
    moves, apart_s = (20, 3.0) if whole else (5, 4.0)
    members: dict[int, ForkedWorker] = {}

    def join() -> None:
        place = next(place for place in range(MOST_MEMBERS) if place not in members)
        name = {"STREAMREC_KAFKA__GROUP_INSTANCE_ID": f"member-{place}"} if variant == "static" else {}
        members[place] = scene.worker(environment=name)

    def leave() -> None:
        member = members.pop(scene.draw.choice(sorted(members)))
        if scene.draw.random() < 0.5:
            until(member.ready, member)  # one that is asked to end while it starts has nothing to leave in order
            assert member.stop() == 0, member.said
        else:
            member.kill()

    try:
        with scene.traffic(100):
            join()
            join()
            for _ in range(moves):
                rest(apart_s * scene.draw.uniform(0.5, 1.5))
                crowd = len(members)
                (join if crowd < 2 or (crowd < MOST_MEMBERS and scene.draw.random() < 0.5) else leave)()
        scene.send(200)
        scene.until_caught_up(next(iter(members.values())))
        assert all(member.running for member in members.values())
    finally:
        for member in members.values():
            member.kill()
    scene.assert_exact()


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """Apache Kafka for this test alone, to be killed."""
    if apache_kafka_home() is None:
        pytest.skip("no Apache Kafka here: set KAFKA_HOME to a folder with libs/*.jar, and install Java")
    with embedded_broker(tmp_path / "kafka", apache=True) as broker:
        yield broker


def test_brokers_and_workers_that_are_killed_together_leave_one_slate_to_each_request(
    own_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int, whole: bool
) -> None:
    scene = Scene(tmp_path / "scene", own_kafka.settings, redis_server.url, seed=seed)
    with scene.worker() as survivor, scene.traffic(200):
        scene.until_progress(survivor)
        for _ in range(6 if whole else 1):
            with scene.worker() as other:
                until(other.ready, other)
                rest(scene.draw.uniform(0.5, 1.5))
                own_kafka.kill()
                rest(scene.draw.uniform(0.0, 6.0))
                other.kill()
                own_kafka.restart()
                scene.until_progress(survivor)
    scene.finish()
    scene.assert_exact()


def test_a_broker_that_is_away_is_waited_for_and_the_lag_drains(
    own_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int, whole: bool
) -> None:
    scene = Scene(tmp_path / "scene", own_kafka.settings, redis_server.url, seed=seed)
    away_s = 60.0 if whole else 8.0
    with scene.worker() as one, scene.worker() as other:
        for member in (one, other):  # it has its partitions: a worker that waits for them says that, not what we ask
            until(member.ready, member)
        until(lambda: len(scene.members()) == 2, one)
        scene.send(100)
        scene.until_caught_up(one)
        with scene.traffic(100):
            rest(1.0)
            own_kafka.kill()
            gone = time.monotonic()
            until(lambda: "\nlog: " in "\n" + one.health("/readyz")[1], one)
            rest(away_s - (time.monotonic() - gone))
            assert one.health("/livez")[0] == other.health("/livez")[0] == 200
            own_kafka.restart()
            scene.until_progress(one)
        scene.until_caught_up(one)
        until(one.ready, one)
        assert one.stop() == other.stop() == 0
    scene.assert_exact()
