"""The bench: its clocks add up, and its ceiling is the same loop with nothing learned or recommended."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from streamrec.bench.__main__ import in_a_process_of_its_own
from streamrec.bench.measure import BenchLog, Result, Task
from streamrec.bench.stopwatch import Stopwatch
from streamrec.data import sample_log
from streamrec.errors import EmbeddedError
from streamrec.events import EventType


class Kitchen:
    """A step with a step inside it."""

    def cook(self) -> str:
        time.sleep(0.02)
        self.wash()
        return "soup"

    def wash(self) -> None:
        time.sleep(0.05)

    def burn(self) -> None:
        self.wash()
        raise RuntimeError("burnt")


def test_a_step_is_charged_without_the_steps_inside_it() -> None:
    kitchen, stopwatch = Kitchen(), Stopwatch()
    stopwatch.watch(kitchen, "cook", "cooking")
    stopwatch.watch(kitchen, "wash", "washing")
    began = time.perf_counter()
    assert kitchen.cook() == "soup"
    took = time.perf_counter() - began
    assert 0.02 <= stopwatch.seconds["cooking"] < 0.05 <= stopwatch.seconds["washing"]
    assert sum(stopwatch.seconds.values()) == pytest.approx(took, abs=0.005)


def test_a_step_that_fails_is_charged_too_and_still_fails() -> None:
    kitchen, stopwatch = Kitchen(), Stopwatch()
    stopwatch.watch(kitchen, "burn", "burning")
    stopwatch.watch(kitchen, "wash", "washing")
    with pytest.raises(RuntimeError, match="burnt"):
        kitchen.burn()
    assert stopwatch.seconds["burning"] < 0.05 <= stopwatch.seconds["washing"]


def measured(place: Path, learning: bool) -> Result:
    log = BenchLog("sample", str(sample_log()), {}, EventType.PURCHASE, 1_000)
    return in_a_process_of_its_own(Task(log, "backtest", learning, str(place)))


def test_the_ceiling_ranks_and_learns_nothing_and_the_rest_everything(tmp_path: Path) -> None:
    everything, ceiling = measured(tmp_path, learning=True), measured(tmp_path, learning=False)
    assert (everything.events, everything.slates) == (1_000, 1_000)
    assert (ceiling.events, ceiling.slates) == (1_000, 0)
    for result in (everything, ceiling):
        assert sum(result.steps.values()) == pytest.approx(result.seconds, rel=0.05)
        assert result.peak_mb > 50
    assert min(everything.steps[step] for step in ("decode", "remember", "learn sequence", "retrieve", "fuse")) > 0
    assert sum(seconds for step, seconds in ceiling.steps.items() if step.startswith(("score", "fuse"))) == 0
    assert ceiling.rate > 2 * everything.rate


def test_a_measurement_that_fails_says_why(tmp_path: Path) -> None:
    log = BenchLog("sample", str(tmp_path / "nothing.parquet"), {}, EventType.PURCHASE, 1_000)
    with pytest.raises(EmbeddedError, match=r"nothing\.parquet"):
        in_a_process_of_its_own(Task(log, "backtest", True, str(tmp_path)))
