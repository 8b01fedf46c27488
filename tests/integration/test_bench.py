"""The bench: its clocks add up, its ceiling is the same loop with nothing learned or recommended, and its page of
results comes of the plain commands that it prints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from streamrec.demo.sample import sample_log
from streamrec.errors import ConfigError, EmbeddedError
from streamrec.events import EventType
from streamrec.worker.profiling import Stopwatch
from tools.benchmarks.__main__ import app, in_a_process_of_its_own
from tools.benchmarks.measure import BenchLog, Result, Task
from tools.benchmarks.protocols import Goal, Protocol
from tools.benchmarks.quality import Bench, facts, measure, write_page


class Kitchen:
    """A step with a step inside it, and a clock that they alone move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr("streamrec.worker.profiling.time", SimpleNamespace(perf_counter=lambda: self.now_s))

    def cook(self) -> str:
        self.now_s += 2.0
        self.wash()
        self.now_s += 1.0
        return "soup"

    def wash(self) -> None:
        self.now_s += 5.0

    def burn(self) -> None:
        self.wash()
        raise RuntimeError("burnt")


def test_a_step_is_charged_without_the_steps_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen, stopwatch = Kitchen(monkeypatch), Stopwatch()
    stopwatch.watch(kitchen, "cook", "cooking")
    stopwatch.watch(kitchen, "wash", "washing")
    assert kitchen.cook() == "soup"
    assert stopwatch.seconds == {"cooking": 3.0, "washing": 5.0}


def test_a_step_that_fails_is_charged_too_and_still_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen, stopwatch = Kitchen(monkeypatch), Stopwatch()
    stopwatch.watch(kitchen, "burn", "burning")
    stopwatch.watch(kitchen, "wash", "washing")
    with pytest.raises(RuntimeError, match="burnt"):
        kitchen.burn()
    assert stopwatch.seconds == {"burning": 0.0, "washing": 5.0}


def measured(place: Path, learning: bool) -> Result:
    log = BenchLog("sample", str(sample_log()), {}, EventType.PURCHASE, 1_000)
    return in_a_process_of_its_own(Task(log, "backtest", learning, str(place)))


@pytest.mark.whole
def test_the_ceiling_ranks_and_learns_nothing_and_the_rest_everything(tmp_path: Path) -> None:
    everything, ceiling = measured(tmp_path, learning=True), measured(tmp_path, learning=False)
    assert (everything.events, everything.slates) == (1_000, 1_000)
    assert (ceiling.events, ceiling.slates) == (1_000, 0)
    for result in (everything, ceiling):
        assert sum(result.steps.values()) == pytest.approx(result.seconds, rel=0.05)
        assert result.peak_mb > 50
    assert min(everything.steps[step] for step in ("decode", "remember", "learn sequence", "retrieve", "fuse")) > 0
    assert sum(seconds for step, seconds in ceiling.steps.items() if step.startswith(("score", "fuse"))) == 0
    # 1.4 to 2.2 times in a process that has compiled its loops already, 40 times in one that has not.
    assert everything.cpu_s > 1.2 * ceiling.cpu_s


def test_a_measurement_that_fails_says_why(tmp_path: Path) -> None:
    log = BenchLog("sample", str(tmp_path / "nothing.parquet"), {}, EventType.PURCHASE, 1_000)
    with pytest.raises(EmbeddedError, match=r"nothing\.parquet"):
        in_a_process_of_its_own(Task(log, "backtest", True, str(tmp_path)))


@pytest.mark.whole
def test_quality_is_measured_by_plain_commands_and_written_down_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = sample_log()
    protocol = Protocol("sample", log.name, ("--only-items", "^2"), "A shop", (Goal("recall_10", 0.9),), held_out=True)
    bench = Bench(log.parent, tmp_path / "runs", [protocol], [0], ["itemknn"], limit=800)
    findings, versions = measure(bench, jobs=2)
    [found] = findings
    assert found.first["counts"]["events"] < found.first["counts"]["rows"] == 800
    assert found.peers["itemknn"]["metrics"]["itemknn"]["targets"] == found.first["metrics"]["fused"]["targets"]
    assert "[2/2]" in capsys.readouterr().out

    page = tmp_path / "results.md"
    write_page(findings, facts(versions, 2, 800), page)
    text = page.read_text(encoding="utf-8")
    assert "streamrec backtest $STREAMREC_DATA/online_retail.parquet --only-items '^2'" in text
    assert f"**{found.first['metrics']['fused']['recall_10']:.3f}**".replace("0.", ".") in text
    assert "![Hit rate over time on sample](results/sample.svg)" in text
    assert "<svg" in (tmp_path / "results" / "sample.svg").read_text(encoding="utf-8")

    again, _ = measure(bench, jobs=2)
    assert again == findings
    assert "2 of 2 results are there already" in capsys.readouterr().out


def test_quality_needs_to_be_told_where_the_logs_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STREAMREC_DATA", raising=False)
    result = CliRunner().invoke(app, ["quality", "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, ConfigError)
    assert "STREAMREC_DATA is not set" in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "value"), [("--seeds", "0,one"), ("--seeds", ""), ("--jobs", "0")])
def test_quality_refuses_what_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str, value: str
) -> None:
    monkeypatch.setenv("STREAMREC_DATA", str(tmp_path))
    result = CliRunner().invoke(app, ["quality", "--out", str(tmp_path / "out"), "--no-peers", option, value])
    assert result.exit_code == 2
    assert option in result.output
