"""The settings of a process as a container would read them: a file and variables, and nothing of this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from streamrec.config.settings import Settings, load_settings


def settings_of(
    monkeypatch: pytest.MonkeyPatch, place: Path, toml: str, variables: Mapping[str, str] | None = None
) -> Settings:
    """What `streamrec` makes of them; raises ConfigError where a name or value is none."""
    for name in [name for name in os.environ if name.startswith("STREAMREC_")]:
        monkeypatch.delenv(name)
    for name, value in (variables or {}).items():
        monkeypatch.setenv(name, value)
    file = place / "streamrec.toml"
    file.write_text(toml, encoding="utf-8")
    return load_settings(file)
