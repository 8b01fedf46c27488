"""A recommender on disk: a directory with the models' snapshot, and one msgpack file with everything else.

    DIRECTORY/models/...           named arrays, as a worker's snapshots
              recommender.msgpack  settings, catalogue, place in the log, and what a worker keeps in Redis

Nothing in it runs when it is read.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from streamrec.errors import StateError, StateMissing
from streamrec.events import Item
from streamrec.state import Arrays, Checkpoint, Key, Kind
from streamrec.state.memory import MemoryStore
from streamrec.state.snapshots import Snapshot, SnapshotDirectory

STATE, MODELS = "recommender.msgpack", "models"
UNFINISHED = ".unfinished"


class SavedRecommender(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lies beside the models' snapshot. `stored` is everything kept of users and items, by kind and name."""

    layout: int = 1
    settings: dict[str, Any]
    catalogue: list[Item]
    next_offset: int
    clock_ms: int
    watermark: int | None
    snapshot: str = ""
    stored: dict[Kind, dict[str, bytes]]

    def store(self, partition: int) -> MemoryStore:
        """A store that holds what was stored of this one partition."""
        store = MemoryStore()
        if self.watermark is not None:
            stored = ((kind, name, value) for kind, values in self.stored.items() for name, value in values.items())
            writes = {Key(partition, kind, name): value for kind, name, value in stored}
            store.commit(Checkpoint(partition, store.open(partition).epoch, self.watermark, None, writes))
        return store


def stored_by_kind(store: MemoryStore, partition: int) -> dict[Kind, dict[str, bytes]]:
    """Everything stored of a partition, by kind and name."""
    stored: dict[Kind, dict[str, bytes]] = {}
    for key, value in store.contents(partition).items():
        stored.setdefault(key.kind, {})[key.name] = value
    return stored


def refuse_occupied(path: Path) -> None:
    """Raise if something else has that name.

    Raises:
        StateError: it does.
    """
    if path.exists() and not (path / STATE).is_file():
        raise StateError(f"{path} is there and is no saved recommender: give another name, or remove it")


def write(path: Path, saved: SavedRecommender, arrays: Arrays, schema: str) -> None:
    """Write a directory of that name, which appears when it is complete, in place of one that was saved there before.

    Raises:
        StateError: something else has that name, or the disk refused.
    """
    refuse_occupied(path)
    draft, before = path.with_name(path.name + UNFINISHED), path.with_name(path.name + ".before")
    for left in (draft, before):
        shutil.rmtree(left, ignore_errors=True)
    reference = SnapshotDirectory(draft / MODELS, keep=1).save(arrays, {}, schema, now_ms=saved.clock_ms)
    try:
        (draft / STATE).write_bytes(msgspec.msgpack.encode(msgspec.structs.replace(saved, snapshot=reference)))
        if path.exists():
            path.rename(before)
        draft.rename(path)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error}") from error
    shutil.rmtree(before, ignore_errors=True)


def read(path: Path) -> SavedRecommender:
    """What was saved there, its arrays left on disk.

    Raises:
        StateMissing: nothing was saved there.
        StateError: it is not what was saved, or of another version.
    """
    if not (path / STATE).is_file():
        raise StateMissing(f"{path}: expected a directory that `Recommender.save` has written")
    try:
        return msgspec.msgpack.decode((path / STATE).read_bytes(), type=SavedRecommender)
    except (OSError, msgspec.MsgspecError) as error:
        raise StateError(f"{path / STATE} is not as this version writes it: {error}") from error


def read_models(path: Path, saved: SavedRecommender) -> Snapshot:
    """The models' snapshot beside it.

    Raises:
        StateError: it is gone, or not what was saved.
    """
    return SnapshotDirectory(path / MODELS, keep=1).load(saved.snapshot)
