"""Snapshots on a disk: full, broken, or with other people's files on it. What holds anywhere is in tests/contract."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streamrec.errors import ConfigError, SnapshotCorrupt, StateError, StateUnavailable
from streamrec.state import Arrays
from streamrec.state.snapshots import MANIFEST, TENSORS, SnapshotDirectory
from streamrec.state.tensors import DTYPES
from tests.support.same_arrays import assert_same

names = st.text(min_size=1, max_size=8).filter(lambda name: "/" not in name)
arrays = hnp.arrays(st.sampled_from(list(DTYPES)), hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
SMALL: Arrays = {
    "click": {"weights": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "popular": {"count": np.array([7])},
}


@pytest.fixture
def shelf(tmp_path: Path) -> SnapshotDirectory:
    return SnapshotDirectory(tmp_path / "shelf", keep=3)


def save(shelf: SnapshotDirectory, n: int) -> str:
    return shelf.save({"model": {"n": np.array(n)}}, {0: n}, "v1", now_ms=1_000 + n)


def number(shelf: SnapshotDirectory, reference: str) -> int:
    return int(shelf.load(reference).arrays["model"]["n"])


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
    snapshot = shelf.load(reference)
    assert_same(snapshot.arrays, saved)
    assert (snapshot.watermarks, snapshot.schema, snapshot.reference) == (watermarks, schema, reference)


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
    assert {path.name for path in (tmp_path / "shelf").iterdir()} == {older}


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
    assert left == [older]  # no half snapshot
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
    for foreign in range(2, 6):
        with pytest.raises(StateError):
            shelf.load(f"{foreign:010d}-0123456789abcdef")


def test_a_shelf_that_keeps_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected at least 1"):
        SnapshotDirectory(tmp_path, keep=0)


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="making the directory"):
        SnapshotDirectory(tmp_path / "file" / "shelf", keep=1)


def test_a_reader_makes_no_directory(tmp_path: Path) -> None:
    assert SnapshotDirectory(tmp_path / "nowhere").references() == ()
    assert not (tmp_path / "nowhere").exists()


def test_a_url_names_the_same_directory_as_its_path(tmp_path: Path) -> None:
    reference = save(SnapshotDirectory(tmp_path / "a b", keep=3), 1)
    for url in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b"):
        assert SnapshotDirectory(url).references() == (reference,)


@pytest.mark.parametrize(
    "url", ["", "s3://", "s3:///models", "http://host/models", "s3://key:secret@models", "s3://m?x=1"]
)
def test_what_is_no_place_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected a path, file:///PATH") as raised:
        SnapshotDirectory(url)
    assert "secret" not in str(raised.value)


def in_a_process_of_its_own(directory: Path) -> tuple[int, int]:
    """The most memory, in bytes, that a save and a load of 256 MiB took beyond the arrays and those loaded."""
    script = f"""if True:
        import resource
        import numpy as np
        from streamrec.state.snapshots import SnapshotDirectory
        shelf = SnapshotDirectory({str(directory)!r}, keep=1)
        shelf.load(shelf.save({{"m": {{"n": np.zeros(1)}}}}, {{}}, "", now_ms=1))
        arrays = {{"m": {{str(n): np.full(2**23, n, np.float64) for n in range(4)}}}}
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        before = peak()
        reference = shelf.save(arrays, {{}}, "", now_ms=2)
        saving = peak() - before
        loaded = shelf.load(reference)
        print(saving, peak() - before)
    """
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    saving, loading = map(int, ran.stdout.split())
    return saving, loading


def test_saving_copies_no_arrays_and_loading_once(tmp_path: Path) -> None:
    saving, loading = in_a_process_of_its_own(tmp_path)
    assert saving < 64 * 2**20
    assert loading < (256 + 256 + 64) * 2**20  # what was loaded, and the file it came from
