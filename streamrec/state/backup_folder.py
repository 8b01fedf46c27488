"""A backup as it lies in a folder, on a disk or in object storage: values, snapshots, and a manifest written last.

    PLACE/values/00000000.msgpack ...    chunks of values, in order: one that comes later replaces an earlier one
          snapshots/REFERENCE/...        the models' snapshots: a directory of them like any other
          manifest.json                  marks, facts, every snapshot, and each file of values with its sha256

Without its manifest a folder is no backup. Knows nothing of Redis, nor of what values mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import msgspec

from streamrec.config.places import inside
from streamrec.errors import SnapshotCorrupt, StateError, StateMissing
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.state.storage import Storage

CHUNK_BYTES = 8 * 1024 * 1024
"""Of a file of values, and of what is held in memory at a time."""
MANIFEST = "manifest.json"
VALUES, SNAPSHOTS = "values", "snapshots"
_OF_VALUES = re.compile(rf"{VALUES}/\d+\.msgpack")


class SavedValue(msgspec.Struct, frozen=True, array_like=True):
    """One value. `partition` is None for what is known of a dead letter; `value` is None where it is gone again."""

    partition: int | None
    name: bytes
    """As its key ends."""
    value: bytes | None
    expires_ms: int | None
    """Since 1970, by the clock of Redis; None is never."""


class StoredFile(msgspec.Struct, frozen=True):
    """A file of values."""

    bytes: int
    sha256: str


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a backup holds. `marks` are the fields of each partition's mark, `rollout` is newest first.

    `snapshots` gives the bytes of each; what is in them is vouched for by their references.
    """

    layout: int = 1
    created_ms: int
    prefix: str
    topic: str
    facts: dict[str, str]
    marks: dict[int, dict[str, str]]
    rollout: list[str]
    values: int
    snapshots: dict[str, int]
    files: dict[str, StoredFile]

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(file.bytes for file in self.files.values()) + sum(self.snapshots.values())

    @property
    def watermarks(self) -> dict[int, int | None]:
        """By partition; None for one never begun."""
        return {
            partition: int(mark["watermark"]) if "watermark" in mark else None
            for partition, mark in sorted(self.marks.items())
        }


class BackupFolder:
    """One backup, in a place as `streamrec.state.storage` has them.

    Guarantee: it is there whole, with the checksum of every file, or it is refused.

    Raises:
        ConfigError: `place` is no folder and no URL of one.
    """

    def __init__(self, place: str) -> None:
        self._storage = Storage(place, "the place of a backup")
        self.where = self._storage.url
        self.snapshots_url = inside(place, SNAPSHOTS)
        """Where its snapshots lie."""
        self._files: dict[str, StoredFile] = {}
        self._waiting: list[SavedValue] = []
        self._waiting_bytes = self._added = self._chunks = 0

    def refuse_used(self) -> None:
        """See that nothing is there yet.

        Raises:
            StateError: something is, or the place cannot be reached.
        """
        with self._storage.errors("looking for a backup"):
            empty = self._storage.empty()
        if not empty:
            raise StateError(f"{self.where} is not empty, expected a new or an empty folder: name another one")

    def add(self, value: SavedValue) -> None:
        """Write one, now or with those that follow."""
        self._waiting.append(value)
        self._added += 1
        self._waiting_bytes += len(value.name) + len(value.value or b"")
        if self._waiting_bytes >= CHUNK_BYTES:
            self._flush()

    def finish(self, **facts: Any) -> BackupManifest:
        """Write what waits, and the manifest: from now on it is a backup."""
        self._flush()
        manifest = BackupManifest(values=self._added, files=self._files, **facts)
        self._write(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
        return manifest

    def manifest(self) -> BackupManifest:
        """What is there, once every file is what was written.

        Raises:
            StateError: it is no backup, not whole, or damaged.
        """
        try:
            manifest = msgspec.json.decode(self._read(MANIFEST), type=BackupManifest)
        except FileNotFoundError:
            raise StateError(f"{self.where} holds no backup: {MANIFEST}, which is written last, is missing") from None
        except msgspec.MsgspecError as error:
            raise StateError(f"{self.where}: {MANIFEST} is not as this version writes it: {error}") from None
        for name, told in manifest.files.items():
            if not _OF_VALUES.fullmatch(name):  # it comes from outside: keep it inside the folder
                raise StateError(f"{self.where}: {MANIFEST} names {name!r}, which is no file of a backup")
            try:
                content = self._read(name)
            except FileNotFoundError:
                raise self._spoilt(f"{name} is missing") from None
            if _stored(content) != told:
                raise self._spoilt(f"{name} is not what was written")
        snapshots = SnapshotDirectory(self.snapshots_url)
        for reference in manifest.snapshots:
            try:
                snapshots.verify(reference)
            except (StateMissing, SnapshotCorrupt) as error:
                raise self._spoilt(str(error)) from error
        return manifest

    def chunks(self, manifest: BackupManifest) -> Iterator[list[SavedValue]]:
        """Chunk by chunk, in the order in which they count.

        Raises:
            StateError: a chunk cannot be read.
        """
        for name in sorted(manifest.files):
            yield msgspec.msgpack.decode(self._read(name), type=list[SavedValue])

    def _flush(self) -> None:
        if not self._waiting:
            return
        name = f"{VALUES}/{self._chunks:08d}.msgpack"
        content = msgspec.msgpack.encode(self._waiting)
        self._write(name, content)
        self._files[name] = _stored(content)
        self._waiting, self._waiting_bytes, self._chunks = [], 0, self._chunks + 1

    def _write(self, name: str, content: bytes) -> None:
        with self._storage.errors(f"writing a backup's {name}", writing=True):
            self._storage.make()
            self._storage.write(name, [content])
            self._storage.settle()

    def _read(self, name: str) -> bytes:
        with self._storage.errors(f"reading a backup's {name}"):
            try:
                return b"".join(self._storage.read(name))
            except FileNotFoundError:
                pass
        raise FileNotFoundError(name)  # what that means is the caller's to say

    def _spoilt(self, why: str) -> StateError:
        return StateError(f"{self.where}: {why}; nothing was restored: take another backup")


def _stored(content: bytes) -> StoredFile:
    return StoredFile(len(content), sha256(content).hexdigest())
