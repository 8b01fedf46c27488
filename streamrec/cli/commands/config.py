"""Prints the effective configuration as TOML that can be saved and used again, or as JSON, secrets hidden."""

from __future__ import annotations

import json

from streamrec.config.settings import Settings, shown
from streamrec.config.toml import toml_lines


def run(settings: Settings, *, as_json: bool) -> None:
    """Print to standard output."""
    effective = shown(settings)
    print(json.dumps(effective, ensure_ascii=False) if as_json else "\n".join(toml_lines(effective)))
