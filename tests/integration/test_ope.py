"""`streamrec ope` as it is typed: on a topic of outcomes, and on a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import Result
from typer.testing import CliRunner

from streamrec import codec
from streamrec.cli import app
from streamrec.demo.embedded import EmbeddedBroker
from streamrec.errors import ConfigError, TableError
from streamrec.evaluation.ope.synthetic import START_MS, SlateWorld
from streamrec.transport.confluent import KafkaSink

WORLD = SlateWorld.drawn(2)
SLATES = 1_500


def ope(*arguments: str, **environment: str) -> Result:
    """The command in this process: starting one takes longer than most of what is asked of it."""
    return CliRunner().invoke(app, ["ope", *arguments], env={"COLUMNS": "160", **environment})


@pytest.fixture
def outcomes(broker: EmbeddedBroker, make_topic: Callable[[int], str]) -> dict[str, str]:
    """A topic with outcomes of two partitions, a record that is none, and the first hundred once more."""
    topic = make_topic(2)
    records = list(WORLD.outcomes(SLATES, np.random.default_rng(0)))
    sink = KafkaSink(broker.settings)
    for outcome in [*records, *records[:100]]:
        sink.publish(topic, outcome.user_id.encode(), codec.encode(outcome))
    sink.publish(topic, b"u", b"no outcome")
    sink.flush(30.0)
    sink.close()
    return {"STREAMREC_TOPICS__OUTCOMES": topic, "STREAMREC_KAFKA": str(broker.settings["bootstrap.servers"])}


def evaluated(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["evaluations"]
    assert isinstance(found, dict)
    return found


def test_a_policy_is_valued_from_the_outcomes_topic(outcomes: dict[str, str], tmp_path: Path) -> None:
    asked = ope(**outcomes)
    assert isinstance(asked.exception, ConfigError)
    assert "Give --target NAME; " in str(asked.exception)
    assert "which name logged, other" in str(asked.exception)
    result = ope("--json", "--target", "other", "--bootstraps", "200", "--out", str(tmp_path), **outcomes)
    found = evaluated(result)
    assert (found["target"], found["slates"], found["rows"]) == ("other", SLATES, 3 * SLATES)
    for name in ("ips", "snips", "dr"):
        low, high = found["estimates"][name]["bootstrap"]
        assert abs(found["estimates"][name]["value"] - WORLD.value) < high - low, name
    assert found["users"] == 97
    assert "1 records of" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        *("report.html", "report.json", "intervals-other.svg", "weights-other.svg")
    }
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"<p><b>(Whether )?other would have earned .*: DR says [\d.]+ per slate \(", page)
    half = START_MS + SLATES // 2 * 1_000
    options = ("--json", "--by-slate", "--bootstraps", "20", "--since", str(half), "--target", "logged")
    part = evaluated(ope(*options, **outcomes))
    assert (part["slates"], part["users"]) == (SLATES - SLATES // 2, None)
    assert part["estimates"]["ips"]["value"] == pytest.approx(part["logged"]["value"])
    missing = ope("--target", "exp3", **outcomes)
    assert isinstance(missing.exception, ConfigError)
    assert "they name logged, other" in str(missing.exception)


def test_a_policy_is_valued_from_a_file_for_people(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "log.parquet"
    pl.DataFrame(
        {"click": (rng.random(3_000) < 0.1).astype(int), "p": np.full(3_000, 0.25), "what": rng.integers(0, 4, 3_000)}
    ).write_parquet(path)
    mapping = ["--map", "reward=click", "--map", "propensity=p", "--map", "item=what"]
    shown = ope(str(path), *mapping, "--target", "uniform", "--bootstraps", "50")
    assert shown.exit_code == 0, shown.output
    for words in (
        "uniform, from 3,000 slates", "SNIPS", "switch-DR", "3,000.0 effective slates", "intervals by slate",
        "* no interval", "no column holds 'user'",
    ):  # fmt: skip
        assert words in shown.stdout
    asked = ope(str(path), *mapping)
    assert isinstance(asked.exception, ConfigError)
    assert "Give --target: uniform, column" in str(asked.exception)
    refused = ope(str(path), "--map", "reward=clicks")
    assert isinstance(refused.exception, TableError)
    assert "there is no column 'clicks'" in str(refused.exception)
