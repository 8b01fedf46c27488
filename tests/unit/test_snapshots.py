"""Snapshots: what was saved comes back exactly, or an error says why not; also after a crash at any moment."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import resource
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamrec.errors import ConfigError, SnapshotCorrupt, StateError, StateMissing, StateUnavailable
from streamrec.state import snapshots
from streamrec.state.snapshots import DTYPES, MANIFEST, TENSORS, Arrays, SnapshotDirectory

names = st.text(min_size=1, max_size=8).filter(lambda name: "/" not in name)
arrays = hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
SMALL: Arrays = {
    "click": {"weights": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "popular": {"count": np.array([7])},
}


@pytest.fixture
def shelf(tmp_path: Path) -> SnapshotDirectory:
    return SnapshotDirectory(tmp_path / "shelf", keep=3)


def save(shelf: SnapshotDirectory, n: int, protect: frozenset[str] = frozenset()) -> str:
    return shelf.save({"model": {"n": np.array(n)}}, {0: n}, "v1", now_ms=1_000 + n, protect=protect)


def number(shelf: SnapshotDirectory, reference: str) -> int:
    return int(shelf.load(reference).arrays["model"]["n"])


def assert_same(loaded: Arrays, saved: Arrays) -> None:
    assert {component: set(own) for component, own in loaded.items()} == {c: set(own) for c, own in saved.items()}
    for component, own in saved.items():
        for name, array in own.items():
            expected, came = array.astype(array.dtype.newbyteorder("=")), loaded[component][name]
            assert (came.dtype, came.shape, came.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


@settings(max_examples=60)
@given(
    st.dictionaries(names, st.dictionaries(st.text(max_size=8), arrays, max_size=3), max_size=3),
    st.dictionaries(st.integers(0, 1000), st.integers(0, 2**53), max_size=4),
    st.text(max_size=10),
)
def test_what_was_saved_comes_back(
    tmp_path_factory: pytest.TempPathFactory, saved: Arrays, watermarks: dict[int, int], schema: str
) -> None:
    shelf = SnapshotDirectory(tmp_path_factory.getbasetemp() / "round-trip", keep=1)
    reference = shelf.save(saved, watermarks, schema, now_ms=1)
    snapshot = shelf.load(reference, schema)
    assert_same(snapshot.arrays, saved)
    assert (snapshot.watermarks, snapshot.schema, snapshot.reference) == (watermarks, schema, reference)


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
    assert shelf.references() == ()


@pytest.mark.parametrize("component", ["", "a/b"])
def test_a_component_name_that_would_not_come_back_is_refused(shelf: SnapshotDirectory, component: str) -> None:
    with pytest.raises(StateError, match="expected a name without '/'"):
        shelf.save({component: {}}, {}, "", now_ms=1)


def test_every_flipped_bit_is_noticed(shelf: SnapshotDirectory, tmp_path: Path) -> None:
    reference = shelf.save(SMALL, {0: 12, 1: 34}, "v1", now_ms=1)
    for name in (TENSORS, MANIFEST):
        path = tmp_path / "shelf" / reference / name
        good = path.read_bytes()
        for place in range(len(good)):
            path.write_bytes(good[:place] + bytes([good[place] ^ (1 << place % 8)]) + good[place + 1 :])
            with pytest.raises(SnapshotCorrupt, match=f"{reference} cannot be used: {name} does not match"):
                shelf.load(reference)
        path.write_bytes(good)
    assert_same(shelf.load(reference).arrays, SMALL)


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
@pytest.mark.parametrize("left", [0, 1, 8, 100, -1])
def test_a_truncated_snapshot_is_corrupt(shelf: SnapshotDirectory, tmp_path: Path, name: str, left: int) -> None:
    reference = shelf.save(SMALL, {}, "v1", now_ms=1)
    path = tmp_path / "shelf" / reference / name
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(SnapshotCorrupt, match=f"{name} does not match"):
        shelf.load(reference)


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_a_snapshot_without_one_of_its_files_is_corrupt_and_not_the_latest(
    shelf: SnapshotDirectory, tmp_path: Path, name: str
) -> None:
    older, newer = save(shelf, 1), save(shelf, 2)
    (tmp_path / "shelf" / newer / name).unlink()
    with pytest.raises(SnapshotCorrupt, match=f"{name} is missing"):
        shelf.load(newer)
    assert shelf.latest() == older
    assert save(shelf, 3) > newer


def test_one_snapshots_files_cannot_pass_for_anothers(shelf: SnapshotDirectory, tmp_path: Path) -> None:
    one, other = save(shelf, 1), save(shelf, 2)
    shutil.copy(tmp_path / "shelf" / one / TENSORS, tmp_path / "shelf" / other / TENSORS)
    with pytest.raises(SnapshotCorrupt, match="does not match the sha256"):
        shelf.load(other)
    shutil.copy(tmp_path / "shelf" / one / MANIFEST, tmp_path / "shelf" / other / MANIFEST)
    with pytest.raises(SnapshotCorrupt, match="does not match the checksum in the reference"):
        shelf.load(other)


def test_a_foreign_manifest_is_corrupt_even_under_its_own_checksum(shelf: SnapshotDirectory, tmp_path: Path) -> None:
    foreign = b'{"layout": 2, "made_by": "somebody else"}'
    reference = f"0000000001-{sha256(foreign).hexdigest()[:16]}"
    (tmp_path / "shelf" / reference).mkdir()
    (tmp_path / "shelf" / reference / MANIFEST).write_bytes(foreign)
    with pytest.raises(SnapshotCorrupt, match="not as this version writes it"):
        shelf.load(reference)


def test_a_snapshot_of_another_schema_is_refused(shelf: SnapshotDirectory) -> None:
    reference = save(shelf, 1)
    assert shelf.load(reference, "v1").schema == "v1"
    with pytest.raises(SnapshotCorrupt, match="has schema 'v1', expected 'v2'"):
        shelf.load(reference, "v2")


@pytest.mark.parametrize(
    "reference", ["0000000009-0123456789abcdef", "", "..", "../../etc", "0000000001-ab\n", ".lock"]
)
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
    latest = shelf.latest()
    assert latest is not None
    assert number(shelf, latest) == 6


def test_an_empty_shelf_has_no_latest(shelf: SnapshotDirectory) -> None:
    assert shelf.latest() is None
    assert shelf.references() == ()


def test_other_peoples_files_are_left_alone(shelf: SnapshotDirectory, tmp_path: Path) -> None:
    (tmp_path / "shelf" / "notes").mkdir()
    (tmp_path / "shelf" / "notes" / "a.txt").write_text("mine")
    for n in range(5):
        save(shelf, n)
    assert (tmp_path / "shelf" / "notes" / "a.txt").read_text() == "mine"
    assert len(shelf.references()) == 3


CRASH_POINTS = [
    *(("fsync", n) for n in range(1, 5)),  # tensors, manifest, draft, shelf
    *(("rename", n) for n in range(1, 3)),  # the new one into place; the old one out of sight
    ("rmtree", 1),
]


def crash_while_saving(directory: Path, call: str, turn: int) -> None:
    """In a process of its own: end, without any clean-up, right before the given call of its kind."""
    left = turn

    def or_die(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)
            return real(*args, **kwargs)

        return wrapped

    owner: Any = {"fsync": os, "rename": Path, "rmtree": shutil}[call]
    setattr(owner, call, or_die(getattr(owner, call)))
    save(SnapshotDirectory(directory, keep=1), 2)


@pytest.mark.parametrize(("call", "turn"), CRASH_POINTS)
def test_a_crash_leaves_the_old_snapshot_or_the_new_one(tmp_path: Path, call: str, turn: int) -> None:
    shelf = SnapshotDirectory(tmp_path, keep=1)
    save(shelf, 1)
    process = multiprocessing.get_context("fork").Process(target=crash_while_saving, args=(tmp_path, call, turn))
    process.start()
    process.join(30)
    process.kill()
    process.join()
    assert process.exitcode == 9
    latest = shelf.latest()
    assert latest is not None
    in_place = (call, turn) in {("fsync", 4), ("rename", 2), ("rmtree", 1)}
    assert number(shelf, latest) == (2 if in_place else 1)
    third = save(shelf, 3)
    assert shelf.references() == (third,)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", third}


def test_a_failed_write_leaves_nothing_behind(
    shelf: SnapshotDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = save(shelf, 1)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StateError, match="No space left on device; check space"):
            save(shelf, 2)
    assert {path.name for path in (tmp_path / "shelf").iterdir()} == {".lock", older}


def save_with_little_room(directory: Path, answers: Any) -> None:
    """In a process of its own, which no file may let grow beyond what a manifest needs."""
    shelf = SnapshotDirectory(directory, keep=3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, resource.RLIM_INFINITY))
    try:
        shelf.save({"model": {"n": np.zeros(10_000)}}, {0: 2}, "v1", now_ms=2)
        answers.put("saved")
    except StateError as error:
        answers.put((type(error).__name__, str(error), sorted(path.name for path in directory.iterdir())))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    answers.put(shelf.save({"model": {"n": np.array(3)}}, {0: 3}, "v1", now_ms=3))


def test_a_disk_that_is_full_is_told_from_a_broken_one_and_the_next_save_works(tmp_path: Path) -> None:
    shelf = SnapshotDirectory(tmp_path, keep=3)
    older = save(shelf, 1)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=save_with_little_room, args=(tmp_path, answers))
    process.start()
    kind, said, left = answers.get(timeout=30)
    third = answers.get(timeout=30)
    process.join(30)
    assert kind == "StateUnavailable"
    assert "File too large; check space" in said
    assert left == [".lock", older]  # no half snapshot
    assert shelf.references() == (third, older)
    assert (number(shelf, third), number(shelf, older)) == (3, 1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EROFS])
def test_only_what_may_pass_is_said_to_pass(
    shelf: SnapshotDirectory, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StateError) as raised:
        save(shelf, 1)
    assert isinstance(raised.value, StateUnavailable) == (code not in (errno.EACCES, errno.EROFS))


def test_what_others_put_into_the_directory_is_in_nobodys_way(shelf: SnapshotDirectory, tmp_path: Path) -> None:
    directory, elsewhere = tmp_path / "shelf", tmp_path / "elsewhere"
    shutil.copytree(directory / save(shelf, 1), elsewhere)
    (directory / "0000000002-0123456789abcdef").symlink_to(elsewhere)
    (directory / "0000000003-0123456789abcdef").write_text("a file")
    (directory / "0000000004-0123456789abcdef").symlink_to("itself/and/nothing")
    (directory / "0000000005-0123456789abcdef").mkdir()
    (directory / "junk\n-name").write_text("")
    (directory / ".unfinished-file").write_text("")
    (directory / ".unfinished-link").symlink_to(elsewhere)
    kept = [save(shelf, n) for n in range(6, 10)][-3:]
    assert shelf.references() == tuple(reversed(kept))
    assert [number(shelf, reference) for reference in kept] == [7, 8, 9]
    assert {path.name for path in elsewhere.iterdir()} == {TENSORS, MANIFEST}  # behind a link, nothing is touched
    assert not list(directory.glob(".unfinished*"))
    for foreign in range(2, 6):
        with pytest.raises(StateError):
            shelf.load(f"{foreign:010d}-0123456789abcdef")


def test_who_was_in_doubt_is_part_of_what_is_saved(shelf: SnapshotDirectory) -> None:
    reference = shelf.save(SMALL, {0: 1}, "v1", now_ms=1, suspect={"popular", "click"})
    assert shelf.describe(reference).suspect == shelf.load(reference).suspect == ("click", "popular")
    assert shelf.describe(reference).components == {"click": 24, "popular": 8}
    assert shelf.describe(save(shelf, 2)).suspect == ()


def test_writers_do_not_disturb_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = SnapshotDirectory(tmp_path, keep=2)
    save(shelf, 1)
    monkeypatch.setattr(snapshots, "LOCK_TIMEOUT_S", 0.05)
    draft = tmp_path / ".unfinished-1"
    draft.mkdir()
    with (tmp_path / ".lock").open("a") as other_writer:
        fcntl.flock(other_writer, fcntl.LOCK_EX)
        with pytest.raises(StateError, match="another process has been writing"):
            save(shelf, 2)
        assert draft.exists()
        assert number(shelf, shelf.references()[0]) == 1
    assert number(shelf, save(shelf, 2)) == 2
    assert not draft.exists()


def test_a_shelf_that_keeps_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected at least 1"):
        SnapshotDirectory(tmp_path, keep=0)


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="making the directory"):
        SnapshotDirectory(tmp_path / "file" / "shelf", keep=1)
