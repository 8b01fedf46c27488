"""What the quality bench carries out: the protocol's own command line, a folder each, and the models to leave out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.benchmarks.protocols import PROTOCOLS
from tools.benchmarks.quality import Bench

PROTOCOL = PROTOCOLS["ml100k"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Path("/logs"), tmp_path, [PROTOCOL], [3, 4], ["ease"], limit=500)


def test_a_run_is_the_command_line_with_a_seed_and_a_folder(bench: Bench) -> None:
    runs = bench.runs(PROTOCOL)
    assert list(runs) == [3, 4]
    place = bench.out / "ml100k" / "seed-4"
    given = [*PROTOCOL.arguments("/logs", 500), "--seed", "4", "--out", str(place)]
    assert runs[4].command == (sys.executable, "-m", "streamrec.cli", *given)
    assert (runs[4].place, runs[4].environment) == (place, {})


def test_a_peer_is_asked_the_same_with_the_first_seed(bench: Bench) -> None:
    task = bench.rivals(PROTOCOL)["ease"]
    program, _, module, peer, file, *given = task.command
    assert (program, module, peer, file) == (
        sys.executable,
        "tools.benchmarks.quality",
        "ease",
        str(task.place / "report.json"),
    )
    assert given == [*PROTOCOL.arguments("/logs", 500), "--seed", "3", "--out", str(task.place)]


def test_every_model_but_the_one_that_fills_lists_up_is_left_out_once(bench: Bench) -> None:
    place = bench.runs(PROTOCOL)[3].place
    place.mkdir(parents=True)
    names = ("fused", "covisit", "clicks", "popularity")
    (place / "report.json").write_text(json.dumps({"metrics": {name: {} for name in names}}))
    tasks = bench.left_out(PROTOCOL)
    assert {model: dict(task.environment) for model, task in tasks.items()} == {
        "covisit": {"STREAMREC_LEARNING__MODELS": "clicks,popularity"},
        "clicks": {"STREAMREC_LEARNING__MODELS": "covisit,popularity"},
    }
    assert len({task.place for task in tasks.values()} | {place}) == 3
