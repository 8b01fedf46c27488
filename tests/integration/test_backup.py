"""Backups: taken between any two writes of a worker, brought back into an empty Redis, and nothing is counted twice."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from streamrec.cli.commands.backup import copy_snapshots
from streamrec.cli.commands.restore import bring_back_snapshots
from streamrec.demo.embedded import EmbeddedBroker, embedded_redis
from streamrec.engine.rollout.revisions import Mode, Revision
from streamrec.errors import ConfigError, StateError, StateUnavailable
from streamrec.state import Checkpoint, Key, Kind
from streamrec.state import backup as backup_module
from streamrec.state import backup_folder as folder_module
from streamrec.state.backup import CopiedState, RedisCopy
from streamrec.state.backup_folder import BackupFolder, BackupManifest
from streamrec.state.connection import Servers as Connected
from streamrec.state.redis import RedisStore
from streamrec.state.redrive_journal import RedriveJournal
from streamrec.state.rollouts import RedisRolloutStore
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.testing import records, shop
from tests.support.deployment import Deployment, WorkerProcess, until
from tests.support.ground import TOPIC, Ground, learned
from tests.support.oracle import assert_counts_equal_a_recount, by_id, wanted
from tests.support.s3 import S3Server

LOG = shop(1_000, seed=5)
Kept = TypeVar("Kept")
CREATED_MS = 1_700_000_000_000


class Servers:
    """Prefixes of their own on the tests' Redis: each is as good as a server."""

    def __init__(self, url: str) -> None:
        self.url = url
        connected = Connected(url, 10.0)
        self.client: Any = connected.client
        self._open: list[Any] = [connected]

    def store(self, prefix: str) -> RedisStore:
        return self._kept(RedisStore(self.url, prefix=prefix, topic=TOPIC, ttl_s=600, slate_ttl_s=300))

    def copy(self, prefix: str) -> RedisCopy:
        return self._kept(RedisCopy(self.url, prefix=prefix, topic=TOPIC))

    def _kept(self, thing: Kept) -> Kept:
        self._open.append(thing)
        return thing

    def close(self) -> None:
        for thing in self._open:
            thing.close()


@pytest.fixture(params=["redis_server", pytest.param("redis_cluster", marks=pytest.mark.whole)])
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    with closing(Servers(request.getfixturevalue(request.param).url)) as servers:
        yield servers


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "backup")


def finish(folder: BackupFolder, copied: CopiedState, snapshots: dict[str, int] | None = None) -> BackupManifest:
    return folder.finish(created_ms=CREATED_MS, prefix="p", topic=TOPIC, snapshots=snapshots or {}, **copied._asdict())


def commit(store: RedisStore, watermark: int, writes: dict[Key, bytes], partition: int = 0) -> None:
    epoch = store.marks()[partition].epoch
    store.commit(Checkpoint(partition, epoch, watermark, None, writes))


def users(count: int, value: bytes = b"1", partition: int = 0) -> dict[Key, bytes]:
    return {Key(partition, Kind.USER, f"u{n}"): value for n in range(count)}


def between(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Do something before each script of a backup, as another process would."""
    copy_some = RedisCopy._copy_some

    def then_copy(self: RedisCopy, *given: Any) -> Any:
        act()
        return copy_some(self, *given)

    monkeypatch.setattr(RedisCopy, "_copy_some", then_copy)


def test_a_backup_between_the_checkpoints_of_a_worker_goes_on_as_if_nothing_had_happened(
    servers: Servers, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_module, "KEYS_PER_SCRIPT", 16)
    monkeypatch.setattr(folder_module, "CHUNK_BYTES", 20_000)
    lost, found = uuid.uuid4().hex, uuid.uuid4().hex
    before = Ground(records(TOPIC, LOG, 3), servers.store(lost), tmp_path / "lost", 3)
    worker, source = before.worker()
    source.poll(0, 0.0)
    worker.step(source.poll(300, 0.0))
    worker.checkpoint()
    steps = 0

    def go_on() -> None:
        nonlocal steps
        steps += 1
        if steps % 3 == 0 and steps < 40:
            worker.step(source.poll(25, 0.0))
            worker.checkpoint()

    between(monkeypatch, go_on)
    folder = BackupFolder(place)
    copied = servers.copy(lost).back_up(folder)
    assert copied.snapshots
    manifest = finish(folder, copied, copy_snapshots(SnapshotDirectory(tmp_path / "lost"), folder, copied.snapshots))
    assert manifest.snapshots.keys() & set(copied.snapshots)  # the newest of them; older ones may be gone
    # It was under way while the worker wrote, and saw some of that.
    at_the_end = {partition: mark.watermark for partition, mark in before.store.marks().items()}
    assert (
        300 < sum(offset or 0 for offset in manifest.watermarks.values()) <= sum(at or 0 for at in at_the_end.values())
    )
    assert len([name for name in manifest.files if name.startswith("values/")]) > 1

    after = Ground(before.log, servers.store(found), tmp_path / "found", 3, sink=before.sink)
    again = BackupFolder(place)
    servers.copy(found).restore(again, again.manifest())
    bring_back_snapshots(again, manifest, str(tmp_path / "found"))
    assert {p: mark.watermark for p, mark in after.store.marks().items()} == manifest.watermarks
    last = after.work(seed=1)
    assert_counts_equal_a_recount(after.store, LOG)
    assert learned(last) == wanted(LOG)
    by_id(before.slates)  # none is published again: what was is read from where topics ended at the backup


def test_values_written_again_and_again_meanwhile_fit_the_watermark(
    servers: Servers, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value says at which watermark it was written: a copy of two moments would show."""
    monkeypatch.setattr(backup_module, "KEYS_PER_SCRIPT", 7)
    lost, found = uuid.uuid4().hex, uuid.uuid4().hex
    store, watermark = servers.store(lost), 1
    store.open(0)
    commit(store, watermark, users(60, b"1"))

    def write() -> None:
        nonlocal watermark
        if watermark < 25:
            watermark += 1
            changed = {**users(5 if watermark % 2 else 60, b"%d" % watermark), Key(0, Kind.USER, "u59"): b""}
            commit(store, watermark, changed)

    between(monkeypatch, write)
    folder = BackupFolder(place)
    manifest = finish(folder, servers.copy(lost).back_up(folder))
    servers.copy(found).restore(BackupFolder(place), manifest)
    restored = servers.store(found)
    assert manifest.watermarks == {0: 25}
    assert restored.load(list(users(60))) == [b"25"] * 5 + [b"24"] * 54 + [None]
    assert not list(servers.client.scan_iter(f"{lost}:*uncopied"))  # checkpoints list nothing any more


def test_everything_comes_back_and_values_expire_when_they_would_have(servers: Servers, place: str) -> None:
    lost, found = uuid.uuid4().hex, uuid.uuid4().hex
    store = servers.store(lost)
    store.open(0)
    store.open(4)
    store.known_topic({"id": "abc", "partitions": "6"})
    half = "\ud800"
    commit(store, 7, {Key(0, Kind.USER, f"a:b {half}"): b"ann", Key(0, Kind.SLATE, "ann"): b"slate"})
    journals = [RedriveJournal(servers.url, prefix=prefix, topic=TOPIC, keep_ms=60_000) for prefix in (lost, found)]
    rollouts = [RedisRolloutStore(servers.url, prefix=prefix, topic=TOPIC) for prefix in (lost, found)]
    store.note_ends({0: 1}, "where topics end")
    journals[0].begin({0: 9})
    journals[0].mark(["user-events.dlq:0:1"])
    rollouts[0].append(Revision(number=1, ts=1, mode=Mode.CANARY, policy="linucb", baseline="fused", share=0.1))
    rollouts[0].append(Revision(number=2, ts=2, mode=Mode.CANARY, policy="exp3", baseline="fused", share=0.1))
    folder = BackupFolder(place)
    with journals[0].held():  # by nobody any more, once it is brought back
        finish(folder, servers.copy(lost).back_up(folder))
    again = BackupFolder(place)
    servers.copy(found).restore(again, again.manifest())

    client = servers.client
    readers = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"zset": lambda key: client.zrange(key, 0, -1),
    }

    def kept(prefix: str) -> dict[bytes, tuple[Any, int]]:
        keys = list(client.scan_iter(f"{prefix}:*"))
        return {key[len(prefix) :]: (readers[client.type(key)](key), client.pttl(key)) for key in keys}

    one, other = kept(lost), kept(found)
    assert set(one) - set(other) == {b":{user-events:0}:sentinels"}
    for key in set(other):
        if not key.endswith(b":mark"):
            assert one[key][0] == other[key][0], key
            assert abs(one[key][1] - other[key][1]) < 2_000, key
    marks = servers.store(lost).marks(), servers.store(found).marks()
    assert [(p, mark.watermark, mark.snapshot, mark.ends) for p, mark in marks[0].items()] == [
        (p, mark.watermark, mark.snapshot, mark.ends) for p, mark in marks[1].items()
    ]
    assert marks[1][0].ends == "where topics end"
    assert marks[1][0].epoch > marks[0][0].epoch + 1_000
    assert servers.store(found).lost([0, 4]) == 0
    assert [revision.number for revision in rollouts[1].history()] == [2, 1]
    assert journals[1].unfinished() == {0: 9}
    for journal in journals:
        journal.close()
    for rollout in rollouts:
        rollout.close()


def test_an_owner_of_before_is_not_believed_after_a_restore(servers: Servers, place: str) -> None:
    prefix = uuid.uuid4().hex
    zombie = servers.store(prefix)
    zombie.open(0)
    commit(zombie, 5, users(1))
    folder = BackupFolder(place)
    manifest = finish(folder, servers.copy(prefix).back_up(folder))
    zombie.open(0)
    epoch = zombie.open(0).epoch
    for key in servers.client.scan_iter(f"{prefix}:*"):
        servers.client.delete(key)
    servers.copy(prefix).restore(BackupFolder(place), manifest)
    owner = servers.store(prefix)
    for _ in range(5):
        owner.open(0)
    with pytest.raises(StateError, match="newer owner"):
        zombie.commit(Checkpoint(0, epoch, 9, None, users(1, b"wrong")))


def test_what_was_damaged_or_cut_short_is_refused_before_anything_is_written(servers: Servers, place: str) -> None:
    lost, found = uuid.uuid4().hex, uuid.uuid4().hex
    store = servers.store(lost)
    store.open(0)
    commit(store, 1, users(50))
    folder = BackupFolder(place)
    copied = servers.copy(lost).back_up(folder)
    with pytest.raises(StateError, match=r"holds no backup: manifest.json, which is written last, is missing"):
        BackupFolder(place).manifest()
    finish(folder, copied)
    with pytest.raises(StateError, match="is not empty, expected a new or an empty folder"):
        BackupFolder(place).refuse_used()
    chunk = Path(place) / "values" / "00000000.msgpack"
    whole = chunk.read_bytes()
    for damaged in (whole[:-1], whole.replace(b"u7", b"u8"), whole + b"\0"):
        chunk.write_bytes(damaged)
        with pytest.raises(StateError, match=r"values/00000000.msgpack is not what was written; nothing was restored"):
            BackupFolder(place).manifest()
    chunk.unlink()
    with pytest.raises(StateError, match=r"values/00000000.msgpack is missing"):
        BackupFolder(place).manifest()
    assert not list(servers.client.scan_iter(f"{found}:*"))


def test_a_redis_with_something_in_it_is_refused_and_so_is_another_topic(servers: Servers, place: str) -> None:
    prefix, other = uuid.uuid4().hex, uuid.uuid4().hex
    store = servers.store(prefix)
    store.open(0)
    folder = BackupFolder(place)
    manifest = finish(folder, servers.copy(prefix).back_up(folder))
    with pytest.raises(StateError, match=r"is not empty: it holds .*expected nothing of this topic"):
        servers.copy(prefix).restore(BackupFolder(place), manifest)
    servers.client.set(f"{other}:{{{TOPIC}:3}}:user:ann", b"x")
    with pytest.raises(StateError, match="is not empty"):
        servers.copy(other).restore(BackupFolder(place), manifest)
    assert servers.store(other).marks() == {}
    with (
        closing(RedisCopy(servers.url, prefix=uuid.uuid4().hex, topic="another")) as copy,
        pytest.raises(ConfigError, match=r"the backup is of topic 'user-events', and topics\.events is 'another'"),
    ):
        copy.restore(BackupFolder(place), manifest)
    with pytest.raises(StateError, match="there is nothing to back up"):
        servers.copy(uuid.uuid4().hex).back_up(BackupFolder(place))


@pytest.mark.parametrize("cut", range(4))
def test_a_restore_that_was_cut_short_lets_nobody_begin_and_goes_on(
    servers: Servers, place: str, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    monkeypatch.setattr(backup_module, "KEYS_PER_SCRIPT", 10)
    lost, found = uuid.uuid4().hex, uuid.uuid4().hex
    store = servers.store(lost)
    for partition in (0, 1):
        store.open(partition)
        commit(store, 3, users(25, partition=partition), partition)
    folder = BackupFolder(place)
    manifest = finish(folder, servers.copy(lost).back_up(folder))
    copy, written = servers.copy(found), 0
    if cut < 3:
        put = RedisCopy._put

        def tear(self: RedisCopy, chunk: Any) -> None:
            put(self, list(chunk)[: 20 * cut])
            raise KeyboardInterrupt

        monkeypatch.setattr(RedisCopy, "_put", tear)
    else:  # all is there, and nothing is unsealed
        monkeypatch.setattr(RedisCopy, "_sealed", lambda self, manifest: [])
    with pytest.raises(KeyboardInterrupt) if cut < 3 else pytest.MonkeyPatch.context():
        copy.restore(BackupFolder(place), manifest)
    for partition in (0, 1):
        with pytest.raises(StateError, match="streamrec restore` go on where they stopped"):
            servers.store(found).open(partition)
    monkeypatch.undo()
    written = manifest.values
    copy.restore(BackupFolder(place), manifest)
    restored = servers.store(found)
    assert restored.open(0).watermark == restored.open(1).watermark == 3
    assert len(set(restored.scan())) == written == 50


def test_a_backup_gives_up_when_a_partition_is_sealed_or_another_backup_begins(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = uuid.uuid4().hex
    store, filling = servers.store(prefix), servers.store(prefix)
    store.open(0)
    commit(store, 1, users(3))
    with monkeypatch.context() as patch:
        between(patch, lambda: servers.copy(prefix)._begin([0]))
        with pytest.raises(StateError, match="or another backup began"):
            servers.copy(prefix).back_up(BackupFolder(str(tmp_path / "one")))

    def reseal() -> None:
        filling.seal([0])
        filling.unseal(0, 1, None)

    with monkeypatch.context() as patch:
        between(patch, reseal)
        with pytest.raises(StateError, match="partition 0 was sealed meanwhile"):
            servers.copy(prefix).back_up(BackupFolder(str(tmp_path / "two")))
    filling.seal([0])
    with pytest.raises(StateError, match="partition 0 is sealed"):
        servers.copy(prefix).back_up(BackupFolder(str(tmp_path / "three")))


def test_a_backup_gives_up_when_the_server_was_another_one_meanwhile(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may know less than was copied: values would be newer than the mark."""
    with embedded_redis(appendonly=True) as server, closing(Servers(server.url)) as servers:
        store = servers.store("p")
        store.open(0)
        commit(store, 1, users(3))
        restarted = False

        def restart() -> None:
            nonlocal restarted
            if not restarted:
                server.restart()
                restarted = True

        between(monkeypatch, restart)
        with pytest.raises(StateUnavailable, match="was restarted or failed over while taking a backup"):
            servers.copy("p").back_up(BackupFolder(place))


def saved(directory: SnapshotDirectory, value: float) -> str:
    return directory.save({"m": {"w": np.full(3, value)}}, {0: 7}, "s", now_ms=CREATED_MS)


@pytest.mark.parametrize("kind", ["disk", "object storage"])
def test_snapshots_are_copied_from_wherever_they_are_and_brought_back_unless_they_are_there_whole(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    s3: S3Server | None = request.getfixturevalue("s3") if kind == "object storage" else None
    lost, found, place = (str(tmp_path / name) if s3 is None else s3.url() for name in ("lost", "found", "place"))
    directory = SnapshotDirectory(lost, keep=3)
    named, older, newest = (saved(directory, value) for value in (1.0, 2.0, 3.0))
    folder = BackupFolder(place)
    folder.refuse_used()
    gone = "0000000009-0123456789abcdef"
    sizes = copy_snapshots(directory, folder, [named, gone])
    assert set(sizes) == {named, newest}
    manifest = finish(folder, CopiedState({0: {"epoch": "1"}}, {}, []), sizes)
    assert manifest.bytes == sum(directory.holdings()[reference] for reference in (named, newest))
    with pytest.raises(StateError, match=f"no snapshot that belongs to this state .*{gone}"):
        copy_snapshots(directory, folder, [gone])

    with pytest.raises(StateError, match="is not empty"):
        BackupFolder(place).refuse_used()
    again = BackupFolder(place)
    assert again.manifest() == manifest
    there = SnapshotDirectory(found, keep=3)
    directory.fetch(named, found)
    if s3 is None:  # as a disk may do to a file
        (Path(found) / named / "tensors.safetensors").write_bytes(b"x")
    bring_back_snapshots(again, manifest, found)
    assert [there.load(reference).arrays["m"]["w"][0] for reference in (named, newest)] == [1.0, 3.0]
    assert older not in there.references()


def test_a_damaged_snapshot_is_neither_copied_nor_brought_back(tmp_path: Path, place: str) -> None:
    directory = SnapshotDirectory(tmp_path / "lost", keep=3)
    reference = saved(directory, 1.0)
    folder = BackupFolder(place)
    manifest = finish(folder, CopiedState({0: {"epoch": "1"}}, {}, []), copy_snapshots(directory, folder, [reference]))
    for damaged in (Path(place, "snapshots", reference), tmp_path / "lost" / reference):
        (damaged / "tensors.safetensors").write_bytes(b"x")
    with pytest.raises(StateError, match=r"does not match .*; nothing was restored: take another backup"):
        BackupFolder(place).manifest()
    with pytest.raises(StateError, match="does not match the sha256"):
        copy_snapshots(directory, BackupFolder(str(tmp_path / "other")), [reference])
    shutil.rmtree(Path(place, "snapshots"))
    with pytest.raises(StateError, match=r"is not in .*; nothing was restored"):
        BackupFolder(place).manifest()
    assert manifest.snapshots


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"snapshots": {"../../etc": 1}}, r"'../../etc' is no snapshot reference"),
        ({"files": {"values/../../x": {"bytes": 1, "sha256": ""}}}, r"names '.*\.\./.*', which is no file of a backup"),
    ],
)
def test_a_manifest_that_points_outside_is_refused(place: str, changed: dict[str, object], refusal: str) -> None:
    finish(BackupFolder(place), CopiedState({0: {"epoch": "1"}}, {}, []))
    manifest = Path(place) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text(encoding="utf-8")) | changed), encoding="utf-8")
    with pytest.raises(StateError, match=refusal):
        BackupFolder(place).manifest()


@pytest.mark.parametrize("place", ["ftp://me:secret@host/x", "s3://key:secret@bucket/x"])
def test_a_place_that_is_none_is_refused_in_words(place: str) -> None:
    with pytest.raises(ConfigError, match=r"the place of a backup is no place: expected a path, .*s3://") as refusal:
        BackupFolder(place)
    assert "secret" not in str(refusal.value)


def test_a_worker_goes_on_from_a_backup_when_redis_and_snapshots_are_lost(
    tansu: EmbeddedBroker, tmp_path: Path
) -> None:
    with embedded_redis() as first:
        deployment = Deployment(tmp_path, tansu.settings, first.url, partitions=3, preset="fast")
        deployment.send(LOG[:700])
        with deployment.worker() as worker:
            until(lambda: deployment.committed() > 50, worker)
            backup = deployment.command("backup", str(tmp_path / "backup"), "--json")
            assert backup.returncode == 0, backup.stderr
            until(lambda: deployment.committed() == 700, worker)
            live = deployment.command("restore", str(tmp_path / "backup"))
            assert live.returncode == 1
            assert "are running; stop them first" in live.stderr
            assert worker.stop() == 0
        with WorkerProcess(deployment.config, tmp_path / "learner.log", "learner") as learner:
            until(lambda: "the examples are ours" in learner.said, learner)
            live = deployment.command("restore", str(tmp_path / "backup"))
            assert f"learners of group {deployment.settings.learners_group!r} are running" in live.stderr
            assert learner.stop() == 0
    told = json.loads(backup.stdout)
    assert 50 < sum(offset or 0 for offset in told["watermarks"].values()) <= 700
    assert told["snapshots"]
    shutil.rmtree(tmp_path / "snapshots")
    with embedded_redis() as second:
        found = deployment.config.read_text(encoding="utf-8").replace(first.url, second.url)
        deployment.config.write_text(found, encoding="utf-8")
        deployment.settings = deployment.settings.model_copy(
            update={"redis": deployment.settings.redis.model_copy(update={"url": second.url})}
        )
        restore = deployment.command("restore", str(tmp_path / "backup"), "--json")
        assert restore.returncode == 0, restore.stderr
        assert json.loads(restore.stdout) == told
        with deployment.worker() as worker:
            deployment.send(LOG[700:])
            until(lambda: deployment.committed() == len(LOG), worker)
            assert worker.stop() == 0
        from streamrec.wiring import build_store

        with closing(build_store(deployment.settings)) as store:
            assert_counts_equal_a_recount(store, LOG)
