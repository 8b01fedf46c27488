"""Workers that die or freeze at any place, under load."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from tests.chaos.faulty_worker import MOMENTS, STEPS, Fault
from tests.chaos.scene import READY_AGAIN_S, Scene, rest
from tests.support.deployment import until

STRUCK_AT: dict[str, tuple[int, ...]] = {
    "open": (1, 2),
    "restore": (1,),
    "former": (1, 2),
    "load": (1, 3),
    "credit": (7,),
    "learn": (1,),
    "publish": (1, 7),
    "close": (2,),
    "flush": (1,),
    "snapshot": (1,),
    "write": (1, 2),
    "commit": (1, 2, 3),
    "note": (1,),
    "offsets": (1,),
}
FAULTS = [Fault(step, moment, nth) for step, calls in STRUCK_AT.items() for nth in calls for moment in MOMENTS]
LAST_CALLS = [fault for fault in FAULTS if fault.nth == STRUCK_AT[fault.step][-1]]
"""Each step once, for where time is short."""
QUICK_SESSION = {"session.timeout.ms": 1_000, "heartbeat.interval.ms": 250}
"""A dead worker's partitions are free after a second: many die here, one after the other."""


def test_kills_at_random_points_under_load_change_no_count_and_no_answer(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int, whole: bool
) -> None:
    scene = Scene(tmp_path, apache_kafka.settings, redis_server.url, seed=seed)
    kills, took_s = 50 if whole else 4, []
    with scene.traffic(150):
        for _ in range(kills):
            with scene.worker() as worker:
                took_s.append(scene.until_progress(worker, READY_AGAIN_S))
                rest(scene.draw.uniform(0.0, 1.2))
                worker.kill()
    assert max(took_s) < READY_AGAIN_S
    scene.finish()
    scene.assert_exact()


def test_a_kill_at_each_step_of_a_batch_and_of_a_checkpoint_in_turn_changes_no_count_and_no_answer(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int, whole: bool
) -> None:
    scene = Scene(tmp_path, {**apache_kafka.settings, **QUICK_SESSION}, redis_server.url, seed=seed)
    scene.send(200)
    with scene.worker() as worker:
        scene.until_caught_up(worker)  # so that there is something to restore
        worker.kill()
    faults = FAULTS if whole else LAST_CALLS
    for fault in random.Random(seed).sample(faults, len(faults)):
        scene.send(40)
        with scene.worker(fault) as worker:
            assert worker.wait() == -signal.SIGKILL, f"{fault}: {worker.said}"
            assert f"fault: {fault}" in worker.said
    scene.finish()
    scene.assert_exact()


@pytest.mark.whole
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_kill_at_one_step_changes_no_count_and_no_answer(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int, fault: Fault
) -> None:
    scene = Scene(tmp_path, apache_kafka.settings, redis_server.url, seed=seed)
    scene.send(300)
    with scene.worker() as worker:
        until(lambda: scene.committed() > 0, worker)
        worker.kill()
    scene.send(200)
    with scene.worker(fault) as worker:
        assert worker.wait() == -signal.SIGKILL, worker.said
    scene.finish()
    scene.assert_exact()


def test_every_step_of_a_faulty_worker_is_struck() -> None:
    assert set(STRUCK_AT) == set(STEPS)
