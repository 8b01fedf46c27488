"""Copies state and models into a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing, suppress

from streamrec.cli.shared.backup_text import say
from streamrec.config.settings import Settings
from streamrec.errors import StateError, StateMissing
from streamrec.state.backup_folder import BackupFolder
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
        snapshots=copy_snapshots(SnapshotDirectory(settings.snapshots.url), folder, copied.snapshots),
    )
    print(say(manifest, folder.where, as_json=as_json))


def copy_snapshots(source: SnapshotDirectory, folder: BackupFolder, named: Sequence[str]) -> dict[str, int]:
    """Copy the newest snapshot, and those that marks name, as far as they are kept; the bytes of each.

    Raises:
        StateError: one is damaged; or marks name some, and none of them is there.
    """
    newest = source.references()[:1]
    copied = set()
    for reference in dict.fromkeys([*named, *newest]):
        with suppress(StateMissing):  # let go of meanwhile, for newer ones
            source.fetch(reference, folder.snapshots_url)
            copied.add(reference)
    needed = named or newest
    if needed and not copied.intersection(needed):
        raise StateError(
            f"no snapshot that belongs to this state is in {source.url} ({', '.join(needed)}); point snapshots.url at "
            "where workers keep them, or take another backup: newer ones may have replaced them meanwhile"
        )
    sizes = SnapshotDirectory(folder.snapshots_url).holdings()
    return {reference: size for reference, size in sizes.items() if reference in copied}
