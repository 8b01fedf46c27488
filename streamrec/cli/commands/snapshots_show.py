"""Shows one snapshot's manifest."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from rich.table import Table

from streamrec.cli.commands.snapshots_list import positions_text
from streamrec.cli.shared.console import PlainConsole
from streamrec.config.settings import Settings
from streamrec.state.snapshots import SnapshotDirectory


def run(settings: Settings, reference: str, *, as_json: bool) -> None:
    """Print what it says.

    Raises:
        StateError: it is not there, or is not what was saved.
    """
    snapshots = SnapshotDirectory(settings.snapshots.url)
    manifest = snapshots.describe(reference)
    if as_json:
        said = {
            "reference": reference,
            "created_ms": manifest.created_ms,
            "schema": manifest.schema,
            "positions": manifest.watermarks,
            "components": manifest.components,
            "suspect": list(manifest.suspect),
        }
        print(json.dumps(said, ensure_ascii=False))
        return
    console = PlainConsole()
    created = datetime.fromtimestamp(manifest.created_ms / 1000, UTC)
    console.print(f"{snapshots.url}/{reference}", soft_wrap=True)
    console.print(f"saved {created:%Y-%m-%d %H:%M:%S}Z, schema {manifest.schema}", soft_wrap=True)
    console.print(f"stands for {positions_text(manifest.watermarks) or 'no position'}", soft_wrap=True)
    table = Table("component", "bytes", "in doubt")
    for component, size in sorted(manifest.components.items()):
        table.add_row(component, f"{size:,}", "yes" if component in manifest.suspect else "")
    console.print(table)
