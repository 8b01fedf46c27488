"""Titles are a comfort: what is known is said, and nobody waits or fails for the rest."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from streamrec.cli.shared import titles
from streamrec.config.settings import Settings


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """A catalogue file, and no broker."""
    monkeypatch.setattr(titles, "LOOK_S", 0.2)
    catalogue = tmp_path / "items.csv"
    catalogue.write_text("item_id,title\nmug,White mug\ncup,\n")
    return Settings.model_validate({"kafka": {"bootstrap.servers": "127.0.0.1:9"}, "items": catalogue})


def test_the_file_says_what_it_knows_and_a_broker_that_is_away_is_not_waited_for(
    alone: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert titles.titles_of(alone, {"mug", "cup", "lamp"}) == {"mug": "White mug"}
    assert time.monotonic() - began < 30
    assert capfd.readouterr().err == ""


def test_no_broker_is_asked_where_the_file_says_all(alone: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(titles, "_told", lambda settings, items: pytest.fail("was asked"))
    assert titles.titles_of(alone, {"mug"}) == {"mug": "White mug"}
