"""Copies state and models into a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

from streamrec.cli.shared.backup_text import say
from streamrec.config.settings import Settings
from streamrec.errors import StateError
from streamrec.state.backup_folder import BackupFolder, folder_at
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.wiring import build_redis_copy


def run(settings: Settings, place: str, *, as_json: bool) -> None:
    """Copy, and say what was.

    Raises:
        ConfigError: the place is none.
        StateError: something is there already, or nothing to back up; Redis, the disk or another command is in the way.
    """
    folder = BackupFolder(place)
    folder.refuse_used()
    created_ms = time.time_ns() // 1_000_000
    with closing(build_redis_copy(settings)) as state:
        copied = state.back_up(folder)
    manifest = folder.finish(
        created_ms=created_ms,
        prefix=settings.redis.prefix,
        topic=settings.topics.events,
        marks=copied.marks,
        facts=copied.facts,
        rollout=copied.rollout,
        snapshots=_snapshots(settings, folder, copied.snapshots),
    )
    print(say(manifest, folder.where, as_json=as_json))


def _snapshots(settings: Settings, folder: BackupFolder, named: Sequence[str]) -> list[str]:
    """Copy the newest snapshot, and those that marks name, as far as they are kept here; which these are.

    Raises:
        StateError: marks name some, and none of them is here.
    """
    directory = settings.checkpoints.directory
    newest = SnapshotDirectory(directory, settings.checkpoints.keep).latest()
    wanted = dict.fromkeys([*named, *([newest] if newest is not None else [])])
    copied = [reference for reference in wanted if folder.add_snapshot(folder_at(directory), reference)]
    if named and not set(named) & set(copied):
        raise StateError(
            f"no snapshot that belongs to this state is in {directory} ({', '.join(named)}); name the directory that "
            "workers use, or take another backup: newer ones may have replaced them meanwhile"
        )
    return copied
