"""Brings a backup back."""

from __future__ import annotations

from contextlib import closing

from streamrec.cli.shared.backup_text import say
from streamrec.cli.shared.handover import refuse_live_workers
from streamrec.config.settings import Settings
from streamrec.errors import SnapshotCorrupt, StateMissing
from streamrec.state.backup_folder import BackupFolder, BackupManifest
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.wiring import build_redis_copy


def run(settings: Settings, place: str, *, as_json: bool) -> None:
    """Check all of it, bring it back, and say what was.

    Raises:
        ConfigError: the place is none; the backup is of another topic.
        StateError: it is no whole backup; Redis is not empty; workers run.
        TransportError: the brokers do not say whether workers run.
    """
    folder = BackupFolder(place)
    manifest = folder.manifest()
    refuse_live_workers(settings)
    with closing(build_redis_copy(settings)) as state:
        state.refuse_used(manifest)
        # Models first: whoever finds positions finds what belongs to them.
        bring_back_snapshots(folder, manifest, settings.snapshots.url)
        state.restore(folder, manifest)
    print(say(manifest, folder.where, as_json=as_json))
    if not as_json:
        print("next: start `streamrec worker`")


def bring_back_snapshots(folder: BackupFolder, manifest: BackupManifest, url: str) -> None:
    """Copy those that are not there, or not whole, to where snapshots are kept.

    Raises:
        StateError: one cannot be read or written.
    """
    copies, there = SnapshotDirectory(folder.snapshots_url), SnapshotDirectory(url)
    for reference in manifest.snapshots:
        try:
            there.verify(reference)
        except (StateMissing, SnapshotCorrupt):
            copies.fetch(reference, url)
