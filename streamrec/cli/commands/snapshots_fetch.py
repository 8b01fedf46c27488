"""Copies one snapshot to a directory of this machine."""

from __future__ import annotations

import json
from pathlib import Path

from streamrec.config.settings import Settings
from streamrec.state.snapshots import SnapshotDirectory


def run(settings: Settings, reference: str, directory: Path, *, as_json: bool) -> None:
    """Copy it, and say where to.

    Raises:
        StateError: it is not there or not whole, or the directory cannot be written; there is no copy then.
    """
    SnapshotDirectory(settings.snapshots.url).fetch(reference, directory)
    if as_json:
        print(json.dumps({"reference": reference, "directory": str(directory)}))
    else:
        print(f"{directory / reference} is whole; next: set snapshots.url to {directory} to use it")
