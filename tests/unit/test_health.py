"""Alive, ready, and what a worker says of both over HTTP."""

from __future__ import annotations

import platform
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from threading import Event, Thread

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from streamrec.config.groups import preset_settings
from streamrec.config.settings import Settings
from streamrec.errors import ConfigError
from streamrec.state.memory import MemoryStore
from streamrec.testing import records, shop
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_worker
from streamrec.worker.health import Health, Need
from streamrec.worker.http import serve
from streamrec.worker.loop import Worker
from tests.support.deployment import until


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_that_does_not_come_round_is_not_alive() -> None:
    clock = Clock()
    health = Health(stuck_s=10.0, clock=clock)
    clock.now = 9.9
    assert health.stuck() is None
    clock.now = 10.0
    assert health.stuck() == "the loop has not come round for 10 s, expected less than 10 s"
    health.beat()
    assert health.stuck() is None


def test_a_partition_that_gives_nothing_although_it_has_records_is_not_alive() -> None:
    clock = Clock()
    health = Health(stuck_s=10.0, clock=clock)

    def look(lag: dict[int, int], seconds: int = 12, stopped: tuple[int, ...] = (), drained: bool = True) -> str | None:
        for _ in range(seconds):
            clock.now += 1.0
            health.beat()
            health.read([0])
            health.watch(lag, stopped, drained)
        return health.stuck()

    assert look({0: 5, 1: 0}) is None  # nothing to read is no standstill, nor is being behind and read
    assert look({0: 5, 1: 7}, stopped=(1,)) is None
    assert look({0: 5, 1: 7}, drained=False) is None  # the others' records come first
    assert look({0: 5, 1: 7}, 9) is None
    health.lack(Need.STATE, "Redis is away")
    assert look({0: 5, 1: 7}, 9) is None
    health.read([1])
    assert look({0: 5, 1: 7}, 9) is None
    assert health.standstill_s() == 8.0
    assert look({0: 5, 1: 7}, 3) == "partition 1 has records to read, and has given none for 11 s"
    clock.now += 1_000.0  # one long step is not held against it
    assert look({0: 5}, 1) is None


def test_ready_is_who_misses_nothing() -> None:
    health = Health()
    assert set(health.missing()) == {"partitions", "models"}
    health.have(Need.PARTITIONS, Need.MODELS)
    assert health.missing() == {}
    health.lack(Need.STATE, "Redis is away")
    assert health.missing() == {"state": "Redis is away"}
    health.have(Need.STATE)
    health.have(Need.STATE)
    assert health.missing() == {}


@dataclass
class Asked:
    """A worker that answers over HTTP."""

    worker: Worker
    source: LocalSource
    port: int

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def asked(request: pytest.FixtureRequest) -> Iterator[Asked]:
    settings = Settings.model_validate({**preset_settings("fast"), "stuck_s": 5.0})
    source = LocalSource("user-events", records("user-events", shop(50)), growing=True)
    worker = build_worker(settings, source, LocalSink(), MemoryStore(), None)
    server = serve(worker.metrics.registry, worker.health, 0, "127.0.0.1")
    yield Asked(worker, source, server.server_port)
    server.shutdown()
    server.server_close()


def test_a_worker_is_ready_once_it_has_its_partitions_and_not_before(asked: Asked) -> None:
    assert asked.get("/livez") == (200, "alive\n")
    status, why = asked.get("/readyz")
    assert status == 503
    assert why.splitlines() == ["partitions: the consumer group has assigned none yet", "models: not restored yet"]
    thread = Thread(target=asked.worker.run)
    thread.start()
    until(lambda: asked.get("/readyz") == (200, "ready\n"))
    assert "streamrec_events_total" in asked.get("/metrics")[1]
    assert asked.get("/anything")[0] == 404
    asked.source.end()
    thread.join(60)
    assert not thread.is_alive()


def test_a_worker_that_hangs_in_a_step_says_so(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, go_on = Event(), Event()

    def hang(*arguments: object) -> None:
        hanging.set()
        go_on.wait(60)

    monkeypatch.setattr(asked.worker, "step", hang)
    monkeypatch.setattr(asked.worker.health, "_stuck_s", 0.5)
    thread = Thread(target=asked.worker.run)
    thread.start()
    assert hanging.wait(60)
    until(lambda: asked.get("/livez")[0] == 503)
    assert "has not come round" in asked.get("/livez")[1]
    go_on.set()
    until(lambda: asked.get("/livez")[0] == 200)
    asked.worker.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_a_worker_whose_partition_stands_still_shows_it_and_is_not_alive(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked.worker.health, "_stuck_s", 1.5)
    monkeypatch.setattr(asked.source, "_disowned", {0})  # as if somebody had paused it behind the source's back
    monkeypatch.setattr(asked.source, "stopped", tuple)
    thread = Thread(target=asked.worker.run)
    thread.start()
    until(lambda: asked.get("/livez")[0] == 503)
    assert "partition 0 has records to read, and has given none for" in asked.get("/livez")[1]
    shown = {sample.name: sample.value for family in told(asked) for sample in family.samples}
    assert shown["streamrec_lag"] == 50.0
    assert shown["streamrec_standstill_seconds"] >= 1.5
    monkeypatch.setattr(asked.source, "_disowned", set())
    until(lambda: asked.get("/livez")[0] == 200)
    until(lambda: asked.worker.metrics.registry.get_sample_value("streamrec_lag", {"partition": "0"}) == 0)
    asked.worker.stop()
    thread.join(60)
    assert not thread.is_alive()


def told(asked: Asked) -> list[Metric]:
    """What `/metrics` says, read as Prometheus reads it."""
    return list(text_string_to_metric_families(asked.get("/metrics")[1]))


def test_what_only_grows_is_a_counter_and_the_process_tells_of_itself(asked: Asked) -> None:
    metrics = asked.worker.metrics
    for total in (2, 5, 5, 3, 4):  # a total that falls began anew
        metrics.skipped.reach(total)
        metrics.refused.labels("popularity").reach(total)
    families = {family.name: family for family in told(asked)}
    assert {family.type for name, family in families.items() if name.startswith("streamrec_")} <= {
        *("counter", "gauge", "histogram")
    }
    for name in ("skipped_records", "refused_updates"):
        assert families[f"streamrec_{name}"].type == "counter"
        assert families[f"streamrec_{name}"].samples[0].name == f"streamrec_{name}_total"
        assert families[f"streamrec_{name}"].samples[0].value == 6.0
    [build] = families["streamrec_build_info"].samples
    assert build.labels == {"version": version("streamrec"), "python": platform.python_version()}
    of_the_process = {"process_cpu_seconds", "process_resident_memory_bytes", "python_info", "python_gc_collections"}
    assert of_the_process <= families.keys()


def test_a_port_that_is_taken_is_a_clear_error(asked: Asked) -> None:
    with pytest.raises(ConfigError, match=f"metrics_port is {asked.port} on 127.0.0.1"):
        serve(asked.worker.metrics.registry, asked.worker.health, asked.port, "127.0.0.1")
