"""Lists the models' snapshots, and says which of them are whole."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

from rich.table import Table

from streamrec.cli.shared.console import PlainConsole
from streamrec.config.settings import Settings
from streamrec.errors import StateError, StateUnavailable
from streamrec.state.snapshots import SnapshotDirectory


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One snapshot as it was found; what only its manifest knows is None where that cannot be read."""

    reference: str
    bytes: int
    whole: bool
    trouble: str | None
    positions: dict[int, int] | None
    age_s: float | None


def run(settings: Settings, *, as_json: bool) -> None:
    """Print a line for each.

    Raises:
        StateError: they cannot be listed, or object storage does not answer.
    """
    snapshots = SnapshotDirectory(settings.snapshots.url)
    rows = [_row(snapshots, reference, size) for reference, size in snapshots.holdings().items()]
    if as_json:
        print(json.dumps({"url": snapshots.url, "snapshots": [asdict(row) for row in rows]}))
        return
    console = PlainConsole()
    console.print(f"{snapshots.url}: {len(rows)} snapshots", soft_wrap=True)
    table = Table("reference", "bytes", "stands for", "age", "whole")
    for row in rows:
        table.add_row(
            row.reference,
            f"{row.bytes:,}",
            "" if row.positions is None else positions_text(row.positions),
            "" if row.age_s is None else age_text(row.age_s),
            "yes" if row.whole else f"no: {row.trouble}",
        )
    if rows:
        console.print(table)


def _row(snapshots: SnapshotDirectory, reference: str, size: int) -> SnapshotRow:
    trouble, manifest = None, None
    try:
        manifest = snapshots.describe(reference)
        snapshots.verify(reference)
    except StateUnavailable:
        raise
    except StateError as error:
        trouble = str(error)
    positions = None if manifest is None else dict(sorted(manifest.watermarks.items()))
    age_s = None if manifest is None else time.time() - manifest.created_ms / 1_000
    return SnapshotRow(reference, size, trouble is None, trouble, positions, age_s)


def positions_text(positions: dict[int, int]) -> str:
    """Partitions and offsets: 0: 1,234; 1: 980."""
    return "; ".join(f"{partition}: {offset:,}" for partition, offset in sorted(positions.items()))


def age_text(age_s: float) -> str:
    """In the largest unit that is not below one."""
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if age_s >= seconds:
            return f"{age_s / seconds:.0f} {unit}"
    return f"{age_s:.0f} s"
