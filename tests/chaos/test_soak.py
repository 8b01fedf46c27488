"""Faults at random for as long as asked, over a deployment of three workers; one of them is never harmed itself.

Only a Redis that was emptied, or has lost checkpoints, is left out: workers stop at it, as they must.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import redis

from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis, embedded_broker, embedded_redis
from tests.chaos.proxy import Proxy
from tests.chaos.scene import Scene, rest
from tests.chaos.workers import ForkedWorker, Supervised
from tests.support.deployment import until

EVENTS_PER_S = 80
BETWEEN_FAULTS_S = (1.0, 6.0)
WARM_SHARE = 0.3
"""Of the run: memory is expected to grow while tables and caches fill up."""
JUDGED_FROM_MINUTES = 10.0
"""A slope over less than this says more of the allocator than of the worker; it is printed all the same."""
STEEPEST_BYTES_PER_MINUTE = 1024 * 1024


@dataclass
class Stage:
    """Everything that can be harmed."""

    scene: Scene
    broker: EmbeddedBroker
    redis: EmbeddedRedis
    proxy: Proxy
    steady: ForkedWorker
    harmed: list[Supervised]
    struck: Counter[str] = field(default_factory=Counter)

    def strike(self) -> None:
        """One fault, drawn at random, from its beginning to its end."""
        faults: dict[str, Callable[[], None]] = {
            "a worker is killed": self.kill,
            "a worker freezes": self.freeze,
            "a broker is away": self.broker_away,
            "Redis is killed": self.redis_killed,
            "Redis is full": self.redis_full,
            "Redis is slow": self.redis_slow,
            "connections break": self.proxy.cut,
            "a worker comes and goes": self.come_and_go,
        }
        name = self.scene.draw.choice(sorted(faults))
        faults[name]()
        self.struck[name] += 1

    def kill(self) -> None:
        self.scene.draw.choice(self.harmed).worker.signal(signal.SIGKILL)

    def freeze(self) -> None:
        worker = self.scene.draw.choice(self.harmed).worker
        worker.signal(signal.SIGSTOP)
        rest(self.scene.draw.uniform(0.5, 6.0))  # the session ends after three
        worker.signal(signal.SIGCONT)

    def broker_away(self) -> None:
        self.broker.kill()
        rest(self.scene.draw.uniform(0.5, 10.0))
        self.broker.restart()

    def redis_killed(self) -> None:
        self.redis.kill()
        rest(self.scene.draw.uniform(0.1, 4.0))
        self.redis.restart()

    def redis_full(self) -> None:
        with closing(redis.Redis.from_url(self.redis.url)) as client:
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]))
            rest(self.scene.draw.uniform(0.5, 6.0))
            client.config_set("maxmemory", 0)

    def redis_slow(self) -> None:
        self.proxy.delay_s = 0.005
        rest(self.scene.draw.uniform(2.0, 8.0))
        self.proxy.delay_s = 0.0

    def come_and_go(self) -> None:
        with self.scene.worker() as worker:
            rest(self.scene.draw.uniform(0.5, 6.0), unless=lambda: not worker.running)
            worker.signal(self.scene.draw.choice([signal.SIGTERM, signal.SIGKILL]))
            worker.wait()


@contextmanager
def weighed(worker: ForkedWorker) -> Iterator[list[tuple[float, int]]]:
    """How much memory it holds, second by second: time and bytes."""
    samples: list[tuple[float, int]] = []
    leaving = threading.Event()

    def weigh() -> None:
        while not leaving.wait(1.0) and worker.running:
            samples.append((time.monotonic(), worker.resident_bytes()))

    thread = threading.Thread(target=weigh, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        leaving.set()
        thread.join()


@pytest.mark.soak
def test_faults_at_random_change_no_count_and_no_answer_and_memory_stays_level(
    tmp_path: Path, seed: int, pytestconfig: pytest.Config
) -> None:
    minutes = float(pytestconfig.getoption("--soak"))
    with (
        embedded_broker(tmp_path / "kafka", apache=True) as broker,
        embedded_redis(tmp_path / "redis", appendonly=True) as server,
        Proxy(urlsplit(server.url).port or 0) as proxy,
    ):
        scene = Scene(tmp_path / "scene", broker.settings, proxy.url, seed=seed, store_url=server.url, partitions=6)
        with scene.worker() as steady, scene.supervised() as one, scene.supervised() as other:
            stage = Stage(scene, broker, server, proxy, steady, [one, other])
            with weighed(steady) as samples, scene.traffic(EVENTS_PER_S):
                deadline = time.monotonic() + 60 * minutes
                while time.monotonic() < deadline:
                    rest(scene.draw.uniform(*BETWEEN_FAULTS_S))
                    stage.strike()
                    assert steady.running, f"after {stage.struck}: {steady.said}"
            scene.until_caught_up(steady)
            until(steady.ready, steady, 30.0)
        slope = bytes_per_minute(samples)
        restarts = [code for each in (one, other) for code in each.codes]
        print(
            f"{minutes:g} min, {len(scene.sent)} events, {stage.struck.total()} faults: {dict(stage.struck)}; "
            f"exit codes of workers started again: {dict(Counter(restarts))}; "
            f"memory of the one never harmed: {samples[-1][1] / 2**20:.0f} MiB, {slope / 2**10:+.0f} KiB a minute"
        )
        scene.assert_exact()
        assert minutes < JUDGED_FROM_MINUTES or slope < STEEPEST_BYTES_PER_MINUTE


def bytes_per_minute(samples: list[tuple[float, int]]) -> float:
    """The slope of a straight line through the samples after the warm-up (least squares)."""
    level = samples[int(len(samples) * WARM_SHARE) :]
    seconds, held = np.array(level, np.float64).T
    return 60 * float(np.polyfit(seconds - seconds[0], held, 1)[0])
