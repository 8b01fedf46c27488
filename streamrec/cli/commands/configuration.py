"""Prints the effective configuration as TOML that can be saved and used again, secrets hidden."""

from __future__ import annotations

from streamrec.config.settings import Settings, shown
from streamrec.config.toml import toml_lines


def show(settings: Settings) -> None:
    """Print to standard output."""
    print("\n".join(toml_lines(shown(settings))))
