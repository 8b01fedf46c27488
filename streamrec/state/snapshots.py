"""Model snapshots on disk: named arrays in one safetensors file, beside a manifest that says what they are.

    DIRECTORY/0000000042-9f86d081884c7d65/tensors.safetensors
                                          manifest.json

The reference names the manifest's checksum, and the manifest that of the tensors: whoever holds a reference can tell
whether what is on disk is what was saved. Knows nothing of models, nor of where references are kept.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from streamrec.errors import ConfigError, SnapshotCorrupt, StateError, StateMissing, StateUnavailable
from streamrec.state import Arrays

Array = np.ndarray[Any, Any]

TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"
DTYPES = (
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)
LOCK_TIMEOUT_S = 30.0
PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a disk that may pass: it is full, or has trouble."""
NO_FOLDER = (IsADirectoryError, NotADirectoryError)
_REFERENCE = re.compile(r"(\d{10})-([0-9a-f]{16})")
_UNFINISHED = ".unfinished-"
_CHUNK_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was saved: the models' arrays, and the input offset per partition they stand for."""

    arrays: Arrays
    watermarks: Mapping[int, int]
    schema: str
    reference: str
    suspect: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lies beside the tensors. `components` gives the bytes of each.

    `suspect` names those that were in doubt when the snapshot was taken; manifests of before name none.
    """

    layout: Literal[1] = 1
    created_ms: int
    schema: str
    watermarks: dict[int, int]
    sha256: str
    components: dict[str, int]
    suspect: tuple[str, ...] = ()


class SnapshotDirectory:
    """A directory of snapshots.

    Guarantees: a snapshot is there whole or not at all, also after a crash or a power cut in the middle of `save`; and
    `load` returns exactly what was saved, or raises. Processes may share a directory: they write one at a time. Each
    keeps the `keep` newest of all of them, so what another's checkpoint still refers to must be named in `protect`.

    Raises:
        ConfigError: `keep` is less than 1.
        StateError: the directory cannot be made.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        if keep < 1:
            raise ConfigError(f"checkpoints.keep is {keep}, expected at least 1")
        self.directory = directory
        self._keep = keep
        with self._named_errors("making the directory"):
            directory.mkdir(parents=True, exist_ok=True)

    def save(
        self,
        arrays: Arrays,
        watermarks: Mapping[int, int],
        schema: str,
        *,
        now_ms: int,
        protect: Collection[str] = frozenset(),
        suspect: Collection[str] = (),
    ) -> str:
        """Write a snapshot and return its reference; then let go of the oldest beyond `keep`, but none in `protect`.

        `schema` is free text that changes whenever older arrays would no longer fit the models; `suspect` names the
        components that are in doubt. Holds the arrays a second time in memory while it runs.

        Raises:
            StateUnavailable: the disk is full or has trouble; nothing of it is left, and the next save may work.
            StateError: an array is of a kind that cannot be kept, or the disk refused: no checkpoint may refer to it.
        """
        tensors = _flat(arrays)
        with self._alone(), self._named_errors("saving a snapshot", PASSING):
            self._sweep()
            draft = self.directory / f"{_UNFINISHED}{os.getpid()}"
            draft.mkdir()
            try:
                manifest = msgspec.json.encode(
                    Manifest(
                        created_ms=now_ms,
                        schema=schema,
                        watermarks={int(partition): int(offset) for partition, offset in watermarks.items()},
                        sha256=_write(draft / TENSORS, safetensors.numpy.save(tensors)),
                        components=_sizes(arrays),
                        suspect=tuple(sorted(suspect)),
                    )
                )
                reference = f"{self._next_number():010d}-{_write(draft / MANIFEST, manifest)[:16]}"
                _sync_directory(draft)
                draft.rename(self.directory / reference)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            _sync_directory(self.directory)
            self._discard(self.references()[self._keep :], protect)
        return reference

    def load(self, reference: str, schema: str | None = None) -> Snapshot:
        """The snapshot of that reference, verified; its arrays are the caller's own to write to.

        Raises:
            StateMissing: there is no such snapshot here.
            SnapshotCorrupt: it is not what was saved, or not of the `schema` expected (None takes any).
            StateError: the disk refused to read.
        """
        with self._named_errors(f"reading snapshot {reference}"):
            manifest = self.describe(reference)
            if schema is not None and manifest.schema != schema:
                raise SnapshotCorrupt(
                    f"snapshot {reference} has schema {manifest.schema!r}, expected {schema!r}: the models or their "
                    "settings have changed since; go back to those settings, or start from another directory"
                )
            content = self._part(reference, TENSORS)
        if sha256(content).hexdigest() != manifest.sha256:
            raise _corrupt(reference, f"{TENSORS} does not match the sha256 in its manifest")
        try:
            tensors = safetensors.numpy.load(content)
            arrays = _nested(tensors, manifest.components)
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise _corrupt(reference, f"{TENSORS} is not as this version writes it ({error!r})") from error
        if _sizes(arrays) != manifest.components:
            raise _corrupt(reference, f"{TENSORS} has other sizes than its manifest says")
        return Snapshot(arrays, manifest.watermarks, manifest.schema, reference, manifest.suspect)

    def describe(self, reference: str) -> Manifest:
        """What the snapshot of that reference is said to hold; its arrays are not looked at.

        Raises:
            StateMissing: there is no such snapshot here.
            SnapshotCorrupt: its manifest is not what was saved.
            StateError: the disk refused to read.
        """
        with self._named_errors(f"reading snapshot {reference}"):
            return _decoded(self._part(reference, MANIFEST), reference)

    def references(self) -> tuple[str, ...]:
        """The complete snapshots here, newest first. What they hold is not looked at until `load`."""
        with self._named_errors("listing snapshots"):
            named = [path for path in self.directory.iterdir() if _REFERENCE.fullmatch(path.name)]
            # What lies elsewhere and is only linked to is not ours to let go of.
            own = [path for path in named if not path.is_symlink()]
            complete = [path.name for path in own if all((path / part).is_file() for part in (MANIFEST, TENSORS))]
        return tuple(sorted(complete, reverse=True))

    def latest(self) -> str | None:
        """The newest complete snapshot, None when there is none."""
        return next(iter(self.references()), None)

    def _part(self, reference: str, name: str) -> bytes:
        if not _REFERENCE.fullmatch(reference):  # it comes from outside: keep it inside the directory
            raise StateMissing(f"{reference!r} is no snapshot reference, expected one like 0000000042-9f86d081884c7d65")
        try:
            return (self.directory / reference / name).read_bytes()
        except NO_FOLDER:
            raise _corrupt(reference, f"it is no folder with a file {name} in it") from None
        except FileNotFoundError:
            if (self.directory / reference).is_dir():
                raise _corrupt(reference, f"{name} is missing") from None
            here = ", ".join(self.references()) or "none"
            raise StateMissing(
                f"snapshot {reference} is not in {self.directory}, which holds {here}; "
                "bring it back, or point `checkpoints.directory` at where it is"
            ) from None

    def _next_number(self) -> int:
        taken = [match[1] for path in self.directory.iterdir() if (match := _REFERENCE.fullmatch(path.name))]
        return max(map(int, taken), default=0) + 1

    def _discard(self, references: Collection[str], protect: Collection[str]) -> None:
        for reference in set(references) - set(protect):
            # First out of sight, in one step: one removed by halves must not pass for complete.
            hidden = (self.directory / reference).rename(self.directory / f"{_UNFINISHED}{reference}")
            _remove(hidden)

    def _sweep(self) -> None:
        """Remove what crashes left. Only while alone: nobody else can be in the middle of writing it."""
        for leftover in self.directory.glob(f"{_UNFINISHED}*"):
            _remove(leftover)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the directory against other writers; a process that dies lets go of it."""
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        with self._named_errors("locking the directory"), (self.directory / ".lock").open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StateError(
                            f"another process has been writing to {self.directory} for {LOCK_TIMEOUT_S:g} s; "
                            "end it, or give each worker its own `checkpoints.directory`"
                        ) from None
                    time.sleep(0.01)
            yield

    @contextmanager
    def _named_errors(self, doing: str, passing: Collection[int] = ()) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = StateUnavailable if error.errno in passing else StateError
            raise kind(f"{doing} in {self.directory} failed: {error}; check space and permissions") from error


def _remove(path: Path) -> None:
    """A folder and all that is in it; of a link, only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _sizes(arrays: Arrays) -> dict[str, int]:
    """Bytes by component."""
    return {name: sum(array.nbytes for array in own.values()) for name, own in arrays.items()}


def _flat(arrays: Arrays) -> dict[str, Array]:
    """Arrays by 'component/name', each in C order and this machine's byte order.

    safetensors writes an array's memory as it lies: a transposed or strided one would come back as another array.
    """
    tensors: dict[str, Array] = {}
    for component, own in arrays.items():
        if not component or "/" in component:
            raise StateError(f"component is named {component!r}, expected a name without '/'; no snapshot was made")
        for name, array in own.items():
            if array.dtype.name not in DTYPES:
                raise StateError(
                    f"array {component}/{name} is of {array.dtype}, expected one of {', '.join(DTYPES)}; "
                    "no snapshot was made"
                )
            # Not ascontiguousarray, which turns a number into a list of one.
            tensors[f"{component}/{name}"] = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    return tensors


def _nested(tensors: Mapping[str, Array], components: Collection[str]) -> dict[str, dict[str, Array]]:
    arrays: dict[str, dict[str, Array]] = {component: {} for component in components}
    for address, array in tensors.items():
        component, _, name = address.partition("/")
        arrays[component][name] = array
    return arrays


def _decoded(manifest: bytes, reference: str) -> Manifest:
    if sha256(manifest).hexdigest()[:16] != reference.rpartition("-")[2]:
        raise _corrupt(reference, f"{MANIFEST} does not match the checksum in the reference")
    try:
        return msgspec.json.decode(manifest, type=Manifest)
    except msgspec.MsgspecError as error:
        raise _corrupt(reference, f"{MANIFEST} is not as this version writes it ({error})") from error


def _corrupt(reference: str, detail: str) -> SnapshotCorrupt:
    return SnapshotCorrupt(
        f"snapshot {reference} cannot be used: {detail}; restore it from a copy, or use an older one"
    )


def _write(path: Path, content: bytes) -> str:
    """Write and force to disk; the sha256 is of what was meant to be written, not of what the disk made of it."""
    digest = sha256()
    with path.open("xb") as file:
        for start in range(0, len(content), _CHUNK_BYTES):
            chunk = memoryview(content)[start : start + _CHUNK_BYTES]
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
