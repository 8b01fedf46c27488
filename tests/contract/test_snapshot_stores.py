"""Snapshots on a disk and in object storage: what was saved comes back exactly, or an error says why not."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from streamrec.cli import app
from streamrec.errors import SnapshotCorrupt, StateError, StateMissing, StateUnavailable
from streamrec.state import Arrays
from streamrec.state.snapshots import LEFTOVER_S, MANIFEST, TENSORS, SnapshotDirectory
from streamrec.state.storage import Storage
from tests.support.dying_save import arrays
from tests.support.s3 import S3Server
from tests.support.same_arrays import assert_same

SMALL: Arrays = {
    "click": {"weights": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "popular": {"count": np.array([7])},
}
LATER_MS = int(2 * LEFTOVER_S * 1_000)


class Shelves:
    """A directory, snapshots in it, and what lies there as it lies."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._bare: Any = Storage(url)
        self._files, self._base = self._bare._files, self._bare._base

    def shelf(self, keep: int | None = 3) -> SnapshotDirectory:
        return SnapshotDirectory(self.url, keep)

    def read(self, path: str) -> bytes:
        return b"".join(self._bare.read(path))

    def put(self, path: str, content: bytes) -> None:
        self._bare.make()
        self._bare.write(path, [content])

    def remove(self, path: str) -> None:
        self._files.delete_file(f"{self._base}/{path}")

    def folders(self) -> set[str]:
        return set(self._bare.folders())


@pytest.fixture(params=["disk", "s3"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Shelves:
    if request.param == "disk":
        return Shelves(str(tmp_path / "shelf"))
    server: S3Server = request.getfixturevalue("s3")
    return Shelves(server.url())


@pytest.fixture
def shelf(ground: Shelves) -> SnapshotDirectory:
    return ground.shelf()


def save(shelf: SnapshotDirectory, n: int, protect: frozenset[str] = frozenset(), now_ms: int | None = None) -> str:
    return shelf.save({"model": {"n": np.array(n)}}, {0: n}, "v1", now_ms=now_ms or 1_000 + n, protect=protect)


def number(shelf: SnapshotDirectory, reference: str | None) -> int:
    assert reference is not None
    return int(shelf.load(reference).arrays["model"]["n"])


def test_what_was_saved_comes_back(shelf: SnapshotDirectory) -> None:
    kinds = {name: np.arange(5).astype(name) for name in ("float16", "float32", "int8", "uint64", "bool")}
    saved = {**SMALL, "kinds": kinds, "large": {"a": np.random.default_rng(1).random(3_000_000)}, "empty": {}}
    reference = shelf.save(saved, {0: 12, 7: 2**53}, "v1", now_ms=5, suspect={"popular", "click"})
    snapshot = shelf.load(reference)
    assert_same(snapshot.arrays, saved)
    assert (snapshot.watermarks, snapshot.schema, snapshot.reference) == ({0: 12, 7: 2**53}, "v1", reference)
    assert shelf.describe(reference).suspect == snapshot.suspect == ("click", "popular")
    assert shelf.verify(reference).components["large"] == 24_000_000
    assert shelf.holdings()[reference] > 24_000_000


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0)[::-2],
        np.asfortranarray(np.arange(24, dtype=np.int32).reshape(2, 3, 4)),
        np.broadcast_to(np.float32(3), (2, 5)),
        np.arange(5, dtype=">i4"),
        np.arange(6, dtype=">f8").reshape(2, 3).T,
        np.array(1.5),
        np.zeros((0, 3), dtype=np.uint8),
    ],
    ids=["transposed", "reversed", "fortran", "broadcast", "big-endian", "big-endian-transposed", "number", "empty"],
)
def test_an_array_comes_back_however_it_lay_in_memory(shelf: SnapshotDirectory, array: Any) -> None:
    before = array.copy()
    loaded = shelf.load(shelf.save({"m": {"a": array}}, {}, "", now_ms=1)).arrays
    assert_same(loaded, {"m": {"a": before}})
    np.testing.assert_array_equal(array, before)


def test_loaded_arrays_are_the_callers_own(shelf: SnapshotDirectory) -> None:
    reference = shelf.save(SMALL, {}, "", now_ms=1)
    shelf.load(reference).arrays["click"]["weights"][:] = -1
    assert_same(shelf.load(reference).arrays, SMALL)


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.array([object()]), np.zeros(2, complex), np.zeros(2, "M8[s]")]
)
def test_an_array_that_cannot_be_kept_is_refused(shelf: SnapshotDirectory, array: Any) -> None:
    with pytest.raises(StateError, match=r"array m/a is of .*, expected one of float16"):
        shelf.save({"m": {"a": array}}, {}, "", now_ms=1)
    assert shelf.holdings() == {}


@pytest.mark.parametrize("component", ["", "a/b"])
def test_a_component_name_that_would_not_come_back_is_refused(shelf: SnapshotDirectory, component: str) -> None:
    with pytest.raises(StateError, match="expected a name without '/'"):
        shelf.save({component: {}}, {}, "", now_ms=1)


def test_flipped_bits_are_noticed(ground: Shelves, shelf: SnapshotDirectory) -> None:
    reference = shelf.save(SMALL, {0: 12, 1: 34}, "v1", now_ms=1)
    for name in (TENSORS, MANIFEST):
        good = ground.read(f"{reference}/{name}")
        for place in range(0, len(good), 29):
            flipped = good[:place] + bytes([good[place] ^ (1 << place % 8)]) + good[place + 1 :]
            ground.put(f"{reference}/{name}", flipped)
            with pytest.raises(SnapshotCorrupt, match=f"{reference} cannot be used: {name} does not match"):
                shelf.load(reference)
        ground.put(f"{reference}/{name}", good)
    assert_same(shelf.load(reference).arrays, SMALL)


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
@pytest.mark.parametrize("left", [0, 1, 8, 100, -1])
def test_a_truncated_snapshot_is_corrupt(ground: Shelves, shelf: SnapshotDirectory, name: str, left: int) -> None:
    reference = shelf.save(SMALL, {}, "v1", now_ms=1)
    ground.put(f"{reference}/{name}", ground.read(f"{reference}/{name}")[:left])
    for use in (shelf.load, shelf.verify):
        with pytest.raises(SnapshotCorrupt, match=f"{name} does not match"):
            use(reference)


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_a_snapshot_without_one_of_its_files_is_corrupt_and_not_the_latest(
    ground: Shelves, shelf: SnapshotDirectory, name: str
) -> None:
    older, newer = save(shelf, 1), save(shelf, 2)
    ground.remove(f"{newer}/{name}")
    with pytest.raises(SnapshotCorrupt, match=f"{name} is missing"):
        shelf.load(newer)
    assert shelf.latest() == older
    assert save(shelf, 3) > newer


def test_one_snapshots_files_cannot_pass_for_anothers(ground: Shelves, shelf: SnapshotDirectory) -> None:
    one, other = save(shelf, 1), save(shelf, 2)
    ground.put(f"{other}/{TENSORS}", ground.read(f"{one}/{TENSORS}"))
    with pytest.raises(SnapshotCorrupt, match="does not match the sha256"):
        shelf.load(other)
    ground.put(f"{other}/{MANIFEST}", ground.read(f"{one}/{MANIFEST}"))
    with pytest.raises(SnapshotCorrupt, match="does not match the checksum in the reference"):
        shelf.load(other)


def test_a_foreign_manifest_is_corrupt_even_under_its_own_checksum(ground: Shelves) -> None:
    foreign = b'{"layout": 2, "made_by": "somebody else"}'
    reference = f"0000000001-{sha256(foreign).hexdigest()[:16]}"
    ground.put(f"{reference}/{MANIFEST}", foreign)
    with pytest.raises(SnapshotCorrupt, match="not as this version writes it"):
        ground.shelf().load(reference)


@pytest.mark.parametrize("reference", ["0000000009-0123456789abcdef", "", "..", "../../etc", "0000000001-ab\n"])
def test_a_reference_that_is_not_here_is_missing(shelf: SnapshotDirectory, reference: str) -> None:
    save(shelf, 1)
    with pytest.raises(StateMissing):
        shelf.load(reference)


def test_the_newest_are_kept_and_the_protected(shelf: SnapshotDirectory) -> None:
    first = save(shelf, 1)
    for n in range(2, 6):
        save(shelf, n, protect=frozenset({first}))
    assert [number(shelf, reference) for reference in shelf.references()] == [5, 4, 3, 1]
    save(shelf, 6)
    assert [number(shelf, reference) for reference in shelf.references()] == [6, 5, 4]
    assert number(shelf, shelf.latest()) == 6


def test_where_there_is_nothing_there_is_no_latest(ground: Shelves) -> None:
    for keep in (3, None):
        empty = ground.shelf(keep)
        assert (empty.latest(), empty.references(), empty.holdings()) == (None, (), {})


def test_other_peoples_files_are_left_alone(ground: Shelves, shelf: SnapshotDirectory) -> None:
    ground.put("notes/a.txt", b"mine")
    for n in range(5):
        save(shelf, n)
    assert ground.read("notes/a.txt") == b"mine"
    assert len(shelf.references()) == 3


def test_a_writer_that_was_replaced_removes_nothing_of_its_successor(ground: Shelves) -> None:
    former = ground.shelf(keep=1)
    save(former, 1)
    successor = ground.shelf(keep=2)
    theirs = [save(successor, n) for n in (2, 3)]
    for n in (4, 5, 6):
        save(former, n)
    assert set(theirs) < set(successor.references())
    assert [number(successor, reference) for reference in theirs] == [2, 3]
    save(ground.shelf(keep=2), 7)  # whoever comes next takes all of it over
    assert len(successor.references()) == 2


def test_two_writers_at_the_same_time_take_no_name_twice(ground: Shelves) -> None:
    said: dict[int, list[str]] = {0: [], 1: []}

    def write(writer: int) -> None:
        own = ground.shelf(keep=20)
        said[writer] = [save(own, 10 * writer + n) for n in range(6)]

    threads = [threading.Thread(target=write, args=(writer,)) for writer in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    reader = ground.shelf(None)
    assert set(reader.references()) == {*said[0], *said[1]}
    assert [number(reader, one) for one in said[0] + said[1]] == [*range(6), *range(10, 16)]


def test_what_came_to_no_end_is_swept_when_it_is_old(ground: Shelves, shelf: SnapshotDirectory) -> None:
    unfinished, named = "0000000001-0123456789abcdef", "0000000002-0123456789abcdef"
    for reference in (unfinished, named):
        ground.put(f"{reference}/{TENSORS}", b"half")
    now_ms = time.time_ns() // 1_000_000
    young = save(shelf, 1, now_ms=now_ms)
    assert {unfinished, named} < ground.folders()  # somebody may be writing it
    assert shelf.references() == (young,)
    save(shelf, 2, now_ms=now_ms + LATER_MS, protect=frozenset({named}))
    assert unfinished not in ground.folders()
    assert named in ground.folders()


def test_a_copy_is_verified_and_can_be_used_as_a_directory(
    ground: Shelves, shelf: SnapshotDirectory, tmp_path: Path
) -> None:
    good, bad = shelf.save(SMALL, {0: 4}, "v1", now_ms=1, suspect={"click"}), save(shelf, 2)
    for _ in range(2):  # again, over the first
        shelf.fetch(good, tmp_path / "copy")
    copy = SnapshotDirectory(tmp_path / "copy", keep=3)
    assert copy.references() == (good,)
    assert copy.load(good).suspect == ("click",)
    assert_same(copy.load(good).arrays, SMALL)
    content = ground.read(f"{bad}/{TENSORS}")
    ground.put(f"{bad}/{TENSORS}", content[:-1] + b"x")
    with pytest.raises(SnapshotCorrupt, match="does not match"):
        shelf.fetch(bad, tmp_path / "copy")
    assert set((tmp_path / "copy").iterdir()) == {tmp_path / "copy" / good}


@pytest.fixture(scope="module")
def dying(s3: S3Server) -> Iterator[subprocess.Popen[str]]:
    """Started when the credentials are in the environment."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.dying_save"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        yield child
        assert child.stdin is not None
        child.stdin.close()


@pytest.mark.parametrize("ground", ["disk", pytest.param("s3", marks=pytest.mark.whole)], indirect=True)
def test_killed_at_any_moment_of_a_save_it_leaves_the_old_snapshot_or_the_new_one(
    ground: Shelves, dying: subprocess.Popen[str]
) -> None:
    assert dying.stdin is not None
    assert dying.stdout is not None
    found, now_ms = [], time.time_ns() // 1_000_000
    for calls in range(100):
        shelf = ground.shelf(keep=1)
        older = shelf.save(arrays(1), {0: 1}, "v1", now_ms=now_ms + LATER_MS)  # and sweeps what the last one left
        assert ground.folders() == {older}
        print(ground.url, calls, file=dying.stdin, flush=True)
        ended = int(dying.stdout.readline())
        left = ground.shelf(None)
        for reference in left.references():
            left.verify(reference)
        found.append(number(left, left.latest()))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
    assert set(found) == {1, 2}
    assert found == sorted(found)  # up to some moment the old one, from then on the new one
    assert len(found) > 10


# What people see of them


def test_commands_list_show_and_fetch_what_is_there(
    ground: Shelves, shelf: SnapshotDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = shelf.save(SMALL, {0: 4}, "v1", now_ms=1, suspect={"click"}), save(shelf, 2)
    ground.put(f"{bad}/{TENSORS}", b"torn")
    monkeypatch.setenv("STREAMREC_SNAPSHOTS__URL", ground.url)

    def told(*arguments: str) -> Any:
        done = CliRunner().invoke(app, ["snapshots", *arguments, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    newest, oldest = told("list")["snapshots"]
    assert (newest["reference"], newest["whole"]) == (bad, False)
    assert "does not match the sha256" in newest["trouble"]
    assert (oldest["reference"], oldest["whole"], oldest["positions"]) == (good, True, {"0": 4})
    shown = told("show", good)
    assert shown["components"] == {"click": 24, "popular": 8}
    assert (shown["schema"], shown["suspect"], shown["positions"]) == ("v1", ["click"], {"0": 4})
    copy = told("fetch", good, str(tmp_path / "copy"))["directory"]
    assert SnapshotDirectory(copy).verify(good).schema == "v1"
    refused = CliRunner().invoke(app, ["snapshots", "fetch", bad, str(tmp_path / "other")])
    assert isinstance(refused.exception, SnapshotCorrupt)
    for words in (["list"], ["show", good]):
        assert good in CliRunner().invoke(app, ["snapshots", *words], env={"COLUMNS": "200"}).output


# Object storage alone

USES: list[Callable[[SnapshotDirectory], object]] = [
    lambda shelf: save(shelf, 1),
    lambda shelf: shelf.load("0000000009-0123456789abcdef"),
    lambda shelf: shelf.latest(),
]


def test_wrong_credentials_and_a_missing_bucket_are_told_in_one_line_and_do_not_pass(s3: S3Server) -> None:
    nowhere = SnapshotDirectory(s3.url(bucket="nothing"), keep=3)
    refused = SnapshotDirectory(s3.url(), keep=3)
    for use in USES:
        with pytest.raises(StateError, match=r"in s3://nothing/\S+ failed: there is no such bucket") as raised:
            use(nowhere)
        assert not isinstance(raised.value, StateUnavailable | StateMissing)
        with s3.suspicious(), pytest.raises(StateError, match=r"failed: check the credentials") as raised:
            use(refused)
        assert not isinstance(raised.value, StateUnavailable | StateMissing)
        assert "\n" not in str(raised.value)


def test_no_network_may_pass_and_is_known_within_a_bounded_time(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.state.storage.SILENCE_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = SnapshotDirectory(s3.elsewhere(f"127.0.0.1:{closed.getsockname()[1]}"), keep=3)
    with socket.create_server(("127.0.0.1", 0)) as open_to_all:
        silent = SnapshotDirectory(s3.elsewhere(f"127.0.0.1:{open_to_all.getsockname()[1]}"), keep=3)
        for away, uses in ((gone, USES), (silent, USES[-1:])):
            began = time.monotonic()
            for use in uses:
                with pytest.raises(StateUnavailable, match="it does not answer just now"):
                    use(away)
            assert time.monotonic() - began < 30
