"""Redis killed, emptied, full, slow or cut off, under load."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis, embedded_redis
from tests.chaos.proxy import Proxy
from tests.chaos.scene import Scene, rest
from tests.chaos.workers import FAILED, ForkedWorker, Supervised
from tests.support.deployment import until

SLOW_S = 0.005
"""Each way: a command takes 10 ms then, where it took a few tenths."""
GROWTH_BYTES = 64 * 1024 * 1024
"""How much more memory a worker may hold while Redis is slow: buffers of librdkafka, not a queue of ours."""
CHECKPOINTS = {"interval_s": 0.3, "share": 0.5}
"""Snapshots of the last seconds stay, for a Redis that comes back with marks a second old."""


@dataclass
class Shop:
    """A deployment whose Redis, reached by way of a proxy, is its own; its worker is started again when it fails."""

    scene: Scene
    redis: EmbeddedRedis
    proxy: Proxy
    supervised: Supervised

    @property
    def worker(self) -> ForkedWorker:
        """The one that runs now."""
        return self.supervised.worker

    def configure(self, settings: Mapping[str, str | int]) -> None:
        """CONFIG SET at runtime."""
        with closing(redis.Redis.from_url(self.redis.url)) as client:
            for name, value in settings.items():
                client.config_set(name, value)

    def used_bytes(self) -> int:
        """The memory that Redis counts as used."""
        with closing(redis.Redis.from_url(self.redis.url)) as client:
            return int(client.info("memory")["used_memory"])


@pytest.fixture(scope="module")
def shop(
    apache_kafka: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Shop]:
    """One deployment for every fault that a worker must live through or come back from: state goes on from each."""
    directory = tmp_path_factory.mktemp("redis-trouble")
    seed = int(request.config.getoption("--chaos-seed"))
    with (
        embedded_redis(directory / "redis", appendonly=True) as server,
        Proxy(urlsplit(server.url).port or 0) as proxy,
    ):
        snapshots = {"url": str(directory / "snapshots"), "keep": 10}
        scene = Scene(
            directory,
            apache_kafka.settings,
            proxy.url,
            seed=seed,
            store_url=server.url,
            checkpoints=CHECKPOINTS,
            snapshots=snapshots,
        )
        with scene.supervised() as supervised:
            scene.send(100)
            scene.until_caught_up(supervised)
            yield Shop(scene, server, proxy, supervised)


def append_only_file(directory: Path) -> Path:
    """Where Redis adds every command it has done."""
    return max(directory.rglob("*.incr.aof"), key=lambda path: path.stat().st_mtime)


def test_a_slow_redis_makes_the_worker_slow_and_nothing_else(shop: Shop, whole: bool, seed: int) -> None:
    worker, members, most = shop.worker, shop.scene.members(), 0
    with shop.scene.traffic(100):
        rest(2.0)
        before = worker.resident_bytes()
        shop.proxy.delay_s = SLOW_S
        deadline = time.monotonic() + (60.0 if whole else 8.0)
        while time.monotonic() < deadline:
            most = max(most, worker.resident_bytes())
            rest(0.1)
        shop.scene.until_progress(worker)
    shop.proxy.delay_s = 0.0
    shop.scene.until_caught_up(shop.supervised)
    assert most - before < GROWTH_BYTES
    assert shop.worker is worker
    assert shop.scene.members() == members  # nobody was put out of the group and joined again
    shop.scene.assert_exact()


def test_a_connection_that_breaks_again_and_again_costs_nothing(shop: Shop, seed: int) -> None:
    with shop.scene.traffic(100):
        for _ in range(8):
            rest(shop.scene.draw.uniform(0.1, 0.6))
            shop.proxy.cut()
    shop.scene.until_caught_up(shop.supervised)
    shop.scene.assert_exact()


def test_a_full_redis_makes_the_worker_wait_and_no_half_of_a_checkpoint_is_written(shop: Shop, seed: int) -> None:
    worker = shop.worker
    shop.configure({"maxmemory-policy": "noeviction", "maxmemory": shop.used_bytes()})
    try:
        with shop.scene.traffic(100):
            until(lambda: shop.worker.health("/readyz")[0] == 503, worker)
            assert "memory" in shop.worker.health("/readyz")[1]
            rest(2.0)
            shop.scene.assert_no_half_write()
            assert shop.worker.health("/livez")[0] == 200
            behind = shop.scene.committed()
    finally:
        shop.configure({"maxmemory": 0})
    shop.scene.until_caught_up(shop.supervised)
    until(worker.ready, worker)
    assert shop.worker is worker  # it went on by itself
    assert behind < len(shop.scene.sent)
    shop.scene.assert_exact()


def test_a_redis_that_is_killed_and_comes_back_whole_costs_nothing(shop: Shop, whole: bool, seed: int) -> None:
    worker = shop.worker
    with shop.scene.traffic(100):
        for _ in range(5 if whole else 2):
            rest(shop.scene.draw.uniform(0.5, 1.5))
            shop.redis.kill()
            rest(shop.scene.draw.uniform(0.2, 1.5))
            shop.redis.restart()
            shop.scene.until_progress(shop.supervised)
    shop.scene.until_caught_up(shop.supervised)
    assert shop.worker is worker  # it waited
    shop.scene.assert_exact()


def test_a_redis_that_lost_its_last_second_is_caught_up_with_by_replay(shop: Shop, whole: bool, seed: int) -> None:
    for _ in range(3 if whole else 1):
        log = append_only_file(Path(shop.scene.deployment.directory))
        with shop.scene.traffic(100):
            rest(1.0)
            synced = log.stat().st_size
            shop.scene.until_progress(shop.supervised)
            rest(0.5)
            confirmed = shop.scene.committed()
            shop.redis.kill()
            with log.open("r+b") as file:  # what a power cut may take with appendfsync everysec
                file.truncate(synced)
            shop.redis.restart()
            assert shop.scene.committed() < confirmed
            shop.scene.until_progress(shop.supervised)
        shop.scene.until_caught_up(shop.supervised)
        shop.scene.assert_exact()
    assert set(shop.supervised.codes) <= {FAILED}
    assert "the store has lost checkpoints" in shop.supervised.said


def test_a_redis_that_was_emptied_stops_the_worker_and_every_later_one(
    apache_kafka: EmbeddedBroker, durable_redis: EmbeddedRedis, tmp_path: Path, seed: int
) -> None:
    scene = Scene(tmp_path, apache_kafka.settings, durable_redis.url, seed=seed)
    scene.send(200)
    with scene.worker() as worker:
        scene.until_caught_up(worker)
        with scene.traffic(100), closing(redis.Redis.from_url(durable_redis.url)) as client:
            client.flushall()
            assert worker.wait() == FAILED
    said = [worker.said]
    for _ in range(2):
        with scene.worker() as following:
            assert following.wait() == FAILED
            said.append(following.said)
    assert all("emptied" in each or "lost" in each for each in said)
    assert not any("Traceback" in each for each in said)
    assert scene.committed() == 0
    with closing(redis.Redis.from_url(durable_redis.url)) as client:
        # How far partitions are is a hint to other workers, and expires.
        assert [key for key in client.scan_iter() if not key.endswith(b":heads")] == []
