"""Model snapshots: named arrays in one safetensors file, beside a manifest that says what they are.

    DIRECTORY/0000000042-9f86d081884c7d65/tensors.safetensors
                                          manifest.json

The reference names the manifest's checksum, and the manifest that of the tensors: whoever holds a reference can tell
whether what is there is what was saved. Knows nothing of models, nor of where references are kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec

from streamrec.config.log_lines import get_logger
from streamrec.errors import ConfigError, SnapshotCorrupt, StateError, StateMissing
from streamrec.state import Arrays
from streamrec.state.storage import UNFINISHED, Storage
from streamrec.state.tensors import arrays_of, pieces, refuse_unkept, sizes

LOG = get_logger("streamrec.state.snapshots")
TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"
LEFTOVER_S = 3_600.0
"""What a save left that came to no end is removed when it is so old: no save that is still going on takes so long."""
_REFERENCE = re.compile(r"(\d{10})-([0-9a-f]{16})")


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
    """A directory of snapshots, on a disk or in object storage; `url` as in `streamrec.state.storage`.

    Guarantees: a snapshot is there whole or not at all, also after a crash or a power cut in the middle of `save`; and
    `load` returns exactly what was saved, or raises. The tensors are written first: a snapshot is there once its
    manifest is. Processes may share a directory and write at the same time, for no name is given twice. Each keeps the
    `keep` newest of all of them, but removes none that came from others since it first looked: one that goes on
    writing after another has taken its place only wastes room. Without `keep` nothing can be saved, and no directory is
    made.

    Raises:
        ConfigError: `keep` is less than 1, or the URL is no place.
        StateError: the directory cannot be made.
    """

    def __init__(self, url: str | Path, keep: int | None = None) -> None:
        if keep is not None and keep < 1:
            raise ConfigError(f"snapshots.keep is {keep}, expected at least 1")
        self._storage = Storage(url)
        self._keep = keep
        self._ours: set[str] | None = None  # those that may be removed
        if keep is not None:
            with self._storage.errors("making the directory"):
                self._storage.make()

    @property
    def url(self) -> str:
        """Where they are, without secrets."""
        return self._storage.url

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

        `schema` is free text that says what the arrays are of; `suspect` names the components that are in doubt. The
        arrays are read twice, once for their checksum, and must not change meanwhile; in memory only one of them at a
        time is copied, if it does not lie in C order.

        Raises:
            StateUnavailable: there is no room or no network; the next save may work.
            StateError: an array is of a kind that cannot be kept, or writing was refused: no checkpoint may refer to
                it.
        """
        assert self._keep is not None, "opened for reading"
        refuse_unkept(arrays)
        digest = sha256()
        for piece in pieces(arrays):
            digest.update(piece)
        manifest = msgspec.json.encode(
            Manifest(
                created_ms=now_ms,
                schema=schema,
                watermarks={int(partition): int(offset) for partition, offset in watermarks.items()},
                sha256=digest.hexdigest(),
                components=sizes(arrays),
                suspect=tuple(sorted(suspect)),
            )
        )
        with self._storage.errors("saving a snapshot", writing=True):
            reference = f"{self._next_number():010d}-{sha256(manifest).hexdigest()[:16]}"
            self._write(reference, pieces(arrays), manifest)
        try:
            with self._storage.errors("removing old snapshots"):
                self._discard(reference, protect)
                self._sweep(now_ms, protect)
        except StateError as error:  # the new one is there all the same
            LOG.warning("old snapshots stay", error=str(error))
        return reference

    def load(self, reference: str) -> Snapshot:
        """The snapshot of that reference, verified; its arrays are the caller's own to write to.

        Holds the arrays a second time in memory while it runs.

        Raises:
            StateMissing: there is no such snapshot here.
            SnapshotCorrupt: it is not what was saved.
            StateUnavailable: object storage does not answer.
            StateError: reading was refused.
        """
        manifest = self.describe(reference)
        content = b"".join(self._verified(reference, manifest))
        try:
            arrays = arrays_of(content, manifest.components)
        except ValueError as error:
            raise _corrupt(reference, f"{TENSORS} is not as this version writes it ({error})") from error
        if sizes(arrays) != manifest.components:
            raise _corrupt(reference, f"{TENSORS} has other sizes than its manifest says")
        return Snapshot(arrays, manifest.watermarks, manifest.schema, reference, manifest.suspect)

    def describe(self, reference: str) -> Manifest:
        """What the snapshot of that reference is said to hold; its arrays are not looked at.

        Raises:
            StateMissing: there is no such snapshot here.
            SnapshotCorrupt: its manifest is not what was saved.
            StateUnavailable: object storage does not answer.
            StateError: reading was refused.
        """
        return _decoded(b"".join(self._read(reference, MANIFEST)), reference)

    def verify(self, reference: str) -> Manifest:
        """Read a snapshot to its end, piece by piece, and return its manifest.

        Raises:
            StateError: as `load`.
        """
        manifest = self.describe(reference)
        for _ in self._verified(reference, manifest):
            pass
        return manifest

    def fetch(self, reference: str, directory: str | Path) -> None:
        """Copy a snapshot, verified on the way, to another directory, under the same reference.

        Raises:
            StateError: as `load`; or the directory cannot be written, and the snapshot is not in it then.
        """
        there = SnapshotDirectory(directory, keep=1)
        content = b"".join(self._read(reference, MANIFEST))
        manifest = _decoded(content, reference)
        with there._storage.errors("writing a snapshot", writing=True):
            there._write(reference, self._verified(reference, manifest), content)

    def holdings(self) -> dict[str, int]:
        """Bytes of whatever is here under a reference, newest first: whole, damaged, or still being written."""
        with self._storage.errors("listing snapshots"):
            named = sorted((name for name in self._storage.folders() if _REFERENCE.fullmatch(name)), reverse=True)
            return {name: sum(self._storage.files(name).values()) for name in named}

    def references(self) -> tuple[str, ...]:
        """The complete snapshots here, newest first. What they hold is not looked at until `load`."""
        with self._storage.errors("listing snapshots"):
            return self._complete()

    def latest(self) -> str | None:
        """The newest complete snapshot, None when there is none."""
        return next(iter(self.references()), None)

    def _write(self, reference: str, tensors: Iterable[bytes | memoryview], manifest: bytes) -> None:
        try:
            self._storage.write(f"{reference}/{TENSORS}", tensors)
            self._storage.write(f"{reference}/{MANIFEST}", [manifest])
            self._storage.settle()
        except BaseException:
            with suppress(OSError):  # what cannot be removed now is swept later
                self._storage.remove(reference, first=MANIFEST)
            raise

    def _read(self, reference: str, name: str) -> Iterator[bytes]:
        if not _REFERENCE.fullmatch(reference):  # it comes from outside: keep it inside the directory
            raise StateMissing(f"{reference!r} is no snapshot reference, expected one like 0000000042-9f86d081884c7d65")
        with self._storage.errors(f"reading snapshot {reference}"):
            try:
                yield from self._storage.read(f"{reference}/{name}")
            except NotADirectoryError:
                raise _corrupt(reference, f"it is no folder with a file {name} in it") from None
            except FileNotFoundError:
                # Whoever removes a snapshot begins with the manifest.
                if set(self._storage.files(reference)) & ({TENSORS, MANIFEST} - {name}):
                    raise _corrupt(reference, f"{name} is missing") from None
                here = ", ".join(self._complete()) or "none"
                raise StateMissing(
                    f"snapshot {reference} is not in {self.url}, which holds {here}; "
                    "bring it back, or point `snapshots.url` at where it is"
                ) from None

    def _verified(self, reference: str, manifest: Manifest) -> Iterator[bytes]:
        digest = sha256()
        for piece in self._read(reference, TENSORS):
            digest.update(piece)
            yield piece
        if digest.hexdigest() != manifest.sha256:
            raise _corrupt(reference, f"{TENSORS} does not match the sha256 in its manifest")

    def _complete(self) -> tuple[str, ...]:
        named = [name for name in self._storage.folders() if _REFERENCE.fullmatch(name)]
        complete = [name for name in named if {MANIFEST, TENSORS} <= self._storage.files(name).keys()]
        if self._ours is None:
            self._ours = set(complete)
        return tuple(sorted(complete, reverse=True))

    def _next_number(self) -> int:
        if self._ours is None:
            self._complete()  # before the new one is there
        taken = [match[1] for name in self._storage.folders() if (match := _REFERENCE.fullmatch(name))]
        return max(map(int, taken), default=0) + 1

    def _discard(self, saved: str, protect: Collection[str]) -> None:
        assert self._ours is not None
        self._ours.add(saved)
        for reference in self._complete()[self._keep :]:
            if reference in self._ours and reference not in protect:
                self._storage.remove(reference, first=MANIFEST)

    def _sweep(self, now_ms: int, protect: Collection[str]) -> None:
        """Remove what has no manifest and has not changed for long: nobody is in the middle of writing it."""
        for name in self._storage.folders():
            named = _REFERENCE.fullmatch(name) and name not in protect and MANIFEST not in self._storage.files(name)
            if named or name.startswith(UNFINISHED):  # the latter were made by versions of before
                changed_ms = self._storage.changed_ms(name)
                if changed_ms is not None and now_ms - changed_ms > LEFTOVER_S * 1_000:
                    self._storage.remove(name, first=MANIFEST)


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
