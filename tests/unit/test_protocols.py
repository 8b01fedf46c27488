"""Protocols are plain command lines: what is printed, what is run, and what the command understands are one thing."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from streamrec.cli import app
from streamrec.cli.commands import backtest
from streamrec.engine.arrays.labels import Interest
from streamrec.errors import ConfigError
from tools.benchmarks.protocols import PROTOCOLS, Protocol
from tools.benchmarks.quality import chosen

EACH = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))


@pytest.fixture
def understood(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """What `streamrec` is asked to do by some arguments, as its own parser says."""

    def parse(arguments: list[str]) -> tuple[Any, Any, float]:
        asked: list[tuple[Any, Any, float]] = []
        monkeypatch.setattr(
            backtest, "run", lambda part, settings, *, warmup, **rest: asked.append((part, settings, warmup))
        )
        app([*arguments, "--out", "nowhere"], standalone_mode=False)
        return asked[0]

    return parse


@EACH
def test_the_command_understands_every_option(protocol: Protocol, understood: Any) -> None:
    part, settings, warmup = understood(protocol.arguments("/logs"))
    assert part.path == Path("/logs", protocol.log)
    assert part.mapping == {"type": "event"}
    assert 0 < warmup < 1
    Interest(settings.learning.positives)


@EACH
def test_what_is_printed_is_what_is_run(protocol: Protocol) -> None:
    program, *arguments = shlex.split(protocol.command())
    assert program == "streamrec"
    assert arguments == protocol.arguments("$STREAMREC_DATA")


@EACH
def test_a_try_takes_the_first_rows_of_the_same_part(protocol: Protocol, understood: Any) -> None:
    whole, settings, warmup = understood(protocol.arguments("/logs"))
    part, *rest = understood(protocol.arguments("/logs", limit=500))
    assert rest == [settings, warmup]
    start = whole.rows[0] or 0
    assert part.rows == (start, start + 500)
    assert (part.types, part.selection) == (whole.types, whole.selection)


def test_a_try_longer_than_the_part_is_the_part() -> None:
    assert "400000:550000" in PROTOCOLS["globo-150k"].arguments("/logs", limit=10**9)


@EACH
def test_only_what_counts_is_set_and_nothing_is_tuned(protocol: Protocol) -> None:
    what_counts = {
        *("--map", "--map-type", "--skip-unknown-types", "--rows", "--only-items", "--anonymous", "--once-per-session"),
        *("--positives", "--exclude-seen", "--collapse-repeats", "--warmup"),
    }
    assert {option for option in protocol.options if option.startswith("--")} <= what_counts
    assert protocol.held_out != bool(protocol.goals)
    for goal in protocol.goals:
        assert goal.stretch is None or goal.stretch > goal.reach > 0


def test_the_baskets_of_the_shop_are_read_as_its_protocol_says(understood: Any) -> None:
    part, settings, _ = understood(PROTOCOLS["online_retail"].arguments("/logs"))
    assert part.skip_unknown_types
    assert (part.selection.only_items, part.selection.anonymous) == (r"^\d{5}", "anon")
    assert part.selection.once_per_session
    assert not settings.learning.exclude_seen


def test_some_or_all_are_chosen_in_the_order_of_the_page() -> None:
    assert [protocol.name for protocol in chosen([])] == list(PROTOCOLS)
    assert [protocol.name for protocol in chosen(["trivago100k", "ml100k"])] == ["ml100k", "trivago100k"]
    with pytest.raises(ConfigError, match="no protocol 'ml10m'; protocols are ml100k, globo-150k"):
        chosen(["ml100k", "ml10m"])


@EACH
@pytest.mark.skipif(not os.environ.get("STREAMREC_DATA"), reason="STREAMREC_DATA names no folder of real logs")
def test_the_log_can_be_read_as_its_protocol_says(protocol: Protocol, understood: Any) -> None:
    part, settings, _ = understood(protocol.arguments(os.environ["STREAMREC_DATA"], limit=20_000))
    kinds = {rule.partition(">=")[0] for rule in settings.learning.positives}
    counted = part.open(settings).check().events
    assert sum(count for kind, count in counted.items() if kind in kinds) > 5_000
