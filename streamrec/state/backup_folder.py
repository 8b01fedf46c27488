"""A backup as it lies in a folder, on a disk or in object storage: values, snapshots, and a manifest written last.

    PLACE/values/00000000.msgpack ...    chunks of values, in order: one that comes later replaces an earlier one
          snapshots/REFERENCE/...        the files of the models' snapshots, as they were
          manifest.json                  marks, facts, and every file's size and sha256

Without its manifest a folder is no backup. Knows nothing of Redis, nor of what values mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from pyarrow import ArrowException, fs

from streamrec.errors import ConfigError, StateError
from streamrec.state.connection import without_password

CHUNK_BYTES = 8 * 1024 * 1024
"""Of a file of values, and of what is held in memory at a time."""
MANIFEST = "manifest.json"
VALUES, SNAPSHOTS = "values", "snapshots"
_NAME = r"[0-9A-Za-z_-][0-9A-Za-z._-]*"
_INSIDE = re.compile(rf"{VALUES}/{_NAME}|{SNAPSHOTS}/{_NAME}/{_NAME}")


class SavedValue(msgspec.Struct, frozen=True, array_like=True):
    """One value. `partition` is None for what is known of a dead letter; `value` is None where it is gone again."""

    partition: int | None
    name: bytes
    """As its key ends."""
    value: bytes | None
    expires_ms: int | None
    """Since 1970, by the clock of Redis; None is never."""


class StoredFile(msgspec.Struct, frozen=True):
    """A file beside the manifest."""

    bytes: int
    sha256: str


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backup holds. `marks` are the fields of each partition's mark, `rollout` is newest first."""

    layout: int = 1
    created_ms: int
    prefix: str
    topic: str
    facts: dict[str, str]
    marks: dict[int, dict[str, str]]
    rollout: list[str]
    values: int
    snapshots: list[str]
    files: dict[str, StoredFile]

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(file.bytes for file in self.files.values())

    @property
    def watermarks(self) -> dict[int, int | None]:
        """By partition; None for one never begun."""
        return {
            partition: int(mark["watermark"]) if "watermark" in mark else None
            for partition, mark in sorted(self.marks.items())
        }


def folder_at(place: str | Path) -> tuple[fs.FileSystem, str]:
    """The file system of a path or an URL, and the path in it.

    Raises:
        ConfigError: the URL is none that can be read.
    """
    if "://" not in str(place):
        return fs.LocalFileSystem(), str(Path(place).absolute())
    try:
        system, path = fs.FileSystem.from_uri(str(place))
    except (ArrowException, OSError, ValueError):
        raise ConfigError(
            f"{without_password(str(place))!r} is no place for files, expected a folder, s3://BUCKET/PATH or "
            "gs://BUCKET/PATH"
        ) from None
    return system, path.rstrip("/")


class BackupFolder:
    """One backup. Guarantee: it is there whole, with the checksum of every file, or it is refused.

    Raises:
        ConfigError: `place` is no folder and no URL of one.
    """

    def __init__(self, place: str) -> None:
        self.where = without_password(place) if "://" in place else place
        self._system, self._root = folder_at(place)
        self._files: dict[str, StoredFile] = {}
        self._waiting: list[SavedValue] = []
        self._waiting_bytes = self._added = self._chunks = 0

    def refuse_used(self) -> None:
        """See that nothing is there yet.

        Raises:
            StateError: something is, or the place cannot be reached.
        """
        with self._named_errors("looking into it"):
            found = self._system.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        if found:
            raise StateError(f"{self.where} is not empty, expected a new or an empty folder: name another one")

    def add(self, value: SavedValue) -> None:
        """Write one, now or with those that follow."""
        self._waiting.append(value)
        self._added += 1
        self._waiting_bytes += len(value.name) + len(value.value or b"")
        if self._waiting_bytes >= CHUNK_BYTES:
            self._flush()

    def add_snapshot(self, source: tuple[fs.FileSystem, str], reference: str) -> bool:
        """Copy one as it is; False where it is there no more."""
        with self._named_errors(f"copying snapshot {reference}"):
            try:
                files = _files_in(source[0], f"{source[1]}/{reference}")
                for path in files:
                    name = f"{SNAPSHOTS}/{reference}/{path.rpartition('/')[2]}"
                    self._files[name] = self._write(name, _pieces(source[0], path))
            except FileNotFoundError:  # let go of meanwhile, for newer ones
                self._files = {name: file for name, file in self._files.items() if f"/{reference}/" not in name}
                return False
        return bool(files)

    def finish(self, **facts: Any) -> BackupManifest:
        """Write what waits, and the manifest: from now on it is a backup."""
        self._flush()
        manifest = BackupManifest(values=self._added, files=self._files, **facts)
        with self._named_errors("writing the manifest"):
            self._write(MANIFEST, [msgspec.json.format(msgspec.json.encode(manifest))])
        return manifest

    def manifest(self) -> BackupManifest:
        """What is there, once every file is what was written.

        Raises:
            StateError: it is no backup, not whole, or damaged.
        """
        try:
            with self._named_errors("reading the manifest"):
                written = b"".join(_pieces(self._system, f"{self._root}/{MANIFEST}"))
            manifest = msgspec.json.decode(written, type=BackupManifest)
        except FileNotFoundError:
            raise StateError(f"{self.where} holds no backup: {MANIFEST}, which is written last, is missing") from None
        except msgspec.MsgspecError as error:
            raise StateError(f"{self.where}: {MANIFEST} is not as this version writes it: {error}") from None
        names = [*manifest.files, *(f"{SNAPSHOTS}/{reference}/{MANIFEST}" for reference in manifest.snapshots)]
        for name in names:
            if not _INSIDE.fullmatch(name):  # it is written to a path of that name
                raise StateError(f"{self.where}: {MANIFEST} names {name!r}, which is no file of a backup")
        for name, told in manifest.files.items():
            digest, size = sha256(), 0
            try:
                with self._named_errors(f"reading {name}"):
                    for piece in _pieces(self._system, f"{self._root}/{name}"):
                        digest.update(piece)
                        size += len(piece)
            except FileNotFoundError:
                raise StateError(
                    f"{self.where}: {name} is missing; nothing was restored: take another backup"
                ) from None
            if StoredFile(size, digest.hexdigest()) != told:
                raise StateError(
                    f"{self.where}: {name} is not what was written; nothing was restored: take another backup"
                )
        return manifest

    def chunks(self, manifest: BackupManifest) -> Iterator[list[SavedValue]]:
        """Chunk by chunk, in the order in which they count.

        Raises:
            StateError: a chunk cannot be read.
        """
        for name in sorted(name for name in manifest.files if name.startswith(f"{VALUES}/")):
            with self._named_errors(f"reading {name}"):
                written = b"".join(_pieces(self._system, f"{self._root}/{name}"))
            yield msgspec.msgpack.decode(written, type=list[SavedValue])

    def put_snapshot(self, manifest: BackupManifest, reference: str, target: tuple[fs.FileSystem, str]) -> None:
        """Copy one to where snapshots are kept; what is there already is left as it is."""
        names = sorted(name for name in manifest.files if name.startswith(f"{SNAPSHOTS}/{reference}/"))
        system, root = target
        with self._named_errors(f"bringing back snapshot {reference}"):
            system.create_dir(f"{root}/{reference}", recursive=True)
            # The manifest last: without it a snapshot does not count.
            for name in sorted(names, key=lambda name: name.endswith(MANIFEST)):
                path = f"{root}/{reference}/{name.rpartition('/')[2]}"
                if system.get_file_info(path).size != manifest.files[name].bytes:
                    _write(system, path, _pieces(self._system, f"{self._root}/{name}"))

    def _flush(self) -> None:
        if not self._waiting:
            return
        name = f"{VALUES}/{self._chunks:08d}.msgpack"
        with self._named_errors(f"writing {name}"):
            self._files[name] = self._write(name, [msgspec.msgpack.encode(self._waiting)])
        self._waiting, self._waiting_bytes, self._chunks = [], 0, self._chunks + 1

    def _write(self, name: str, pieces: Sequence[bytes] | Iterator[bytes]) -> StoredFile:
        path = f"{self._root}/{name}"
        self._system.create_dir(path.rpartition("/")[0], recursive=True)
        return _write(self._system, path, pieces)

    @contextmanager
    def _named_errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, ArrowException) as error:
            raise StateError(f"backup in {self.where}, {doing}: {error}; check space and permissions") from error


def _write(system: fs.FileSystem, path: str, pieces: Sequence[bytes] | Iterator[bytes]) -> StoredFile:
    digest, size = sha256(), 0
    with system.open_output_stream(path) as file:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            file.write(piece)
    return StoredFile(size, digest.hexdigest())


def _pieces(system: fs.FileSystem, path: str) -> Iterator[bytes]:
    with system.open_input_stream(path) as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def _files_in(system: fs.FileSystem, path: str) -> list[str]:
    found = system.get_file_info(fs.FileSelector(path))
    return sorted(info.path for info in found if info.type == fs.FileType.File)
