"""What a backup holds, in words and as plain values."""

from __future__ import annotations

import json

from streamrec.state.backup_folder import BackupManifest


def say(manifest: BackupManifest, where: str, *, as_json: bool) -> str:
    """One line of it, or one object (`docs/12-commands.md` lists the fields)."""
    if as_json:
        return json.dumps(
            {
                "place": where,
                "ts": manifest.created_ms,
                "topic": manifest.topic,
                "watermarks": {str(partition): offset for partition, offset in manifest.watermarks.items()},
                "values": manifest.values,
                "bytes": manifest.bytes,
                "snapshots": list(manifest.snapshots),
            },
            ensure_ascii=False,
        )
    return (
        f"{where}: {manifest.values:,} values of {len(manifest.marks)} partitions of {manifest.topic!r}, "
        f"{len(manifest.snapshots)} snapshots, {manifest.bytes / 1e6:,.1f} MB; by partition, it stands at "
        f"{manifest.watermarks}"
    )
