"""Disks that are full, and snapshots that are not what was saved."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.state.snapshots import MANIFEST, TENSORS, SnapshotDirectory
from tests.chaos.scene import Scene, rest
from tests.support.deployment import until

FULL_BYTES = 64 * 1024
"""The largest file that the kernel lets the worker write then: more than it says, less than a snapshot."""


def test_a_full_disk_makes_the_worker_wait_until_there_is_room(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int
) -> None:
    scene = Scene(tmp_path, apache_kafka.settings, redis_server.url, seed=seed)
    scene.send(200)
    with scene.worker() as worker:
        scene.until_caught_up(worker)
        _, most = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, most))
        with scene.traffic(100):
            until(lambda: worker.health("/readyz")[0] == 503, worker)
            assert "state" in worker.health("/readyz")[1]
            rest(1.0)
            scene.assert_no_half_write()
            stands = scene.committed()
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (most, most))
            until(lambda: scene.committed() > stands, worker)
        scene.until_caught_up(worker)
        until(worker.ready, worker)
        assert worker.stop() == 0
    scene.assert_exact()


def truncated(snapshot: Path) -> None:
    """As a disk that lied about having written."""
    tensors = snapshot / TENSORS
    tensors.write_bytes(tensors.read_bytes()[: tensors.stat().st_size // 2])


def flipped(snapshot: Path) -> None:
    """One bit of it."""
    content = bytearray((snapshot / TENSORS).read_bytes())
    content[len(content) // 2] ^= 1
    (snapshot / TENSORS).write_bytes(content)


def foreign(snapshot: Path) -> None:
    """A manifest of somebody else's."""
    manifest = json.loads((snapshot / MANIFEST).read_bytes())
    (snapshot / MANIFEST).write_bytes(json.dumps({**manifest, "schema": "another"}).encode())


def removed(snapshot: Path) -> None:
    """Not there any more."""
    shutil.rmtree(snapshot)


DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "truncated": truncated,
    "flipped": flipped,
    "foreign": foreign,
    "removed": removed,
}


@pytest.mark.parametrize(
    "damage", ["flipped", *(pytest.param(name, marks=pytest.mark.whole) for name in DAMAGES if name != "flipped")]
)
def test_a_damaged_snapshot_is_passed_over_for_an_older_one_and_an_alarm_is_raised(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int, damage: str
) -> None:
    scene = Scene(tmp_path, apache_kafka.settings, redis_server.url, seed=seed)
    with scene.worker() as worker:
        for _ in range(3):
            scene.send(100)
            scene.until_caught_up(worker)
        assert worker.stop() == 0
    directory = Path(scene.deployment.settings.snapshots.url)
    newest, *older = SnapshotDirectory(directory, 3).references()
    assert older
    DAMAGES[damage](directory / newest)
    scene.send(100)
    with scene.worker() as worker:
        scene.until_caught_up(worker)
        assert worker.metric("streamrec_skipped_snapshots_total") > 0
        assert worker.metric("streamrec_unlearned_events_total") > 0
        assert newest in worker.said
        assert worker.stop() == 0
    scene.assert_exact()
