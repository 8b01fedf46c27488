"""Brings a backup back."""

from __future__ import annotations

from contextlib import closing

from streamrec.cli.shared.backup_text import say
from streamrec.cli.shared.handover import refuse_live_workers
from streamrec.config.settings import Settings
from streamrec.state.backup_folder import BackupFolder, folder_at
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
        for reference in manifest.snapshots:
            folder.put_snapshot(manifest, reference, folder_at(settings.checkpoints.directory))
        state.restore(folder, manifest)
    print(say(manifest, folder.where, as_json=as_json))
    if not as_json:
        print("next: start `streamrec worker`")
