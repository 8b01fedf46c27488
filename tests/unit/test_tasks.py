"""Tasks of the quality bench: carried out once, each in a process of its own, and none is left running."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streamrec.errors import EmbeddedError
from tests.support.deployment import until
from tools.benchmarks.tasks import Task, carry_out, versions

REPORT = {"metrics": {"fused": {"recall_10": 0.25, "mrr_20": 0.125, "targets": 8}}}


def task(place: Path, name: str = "log seed-0", code: str = "pass", **environment: str) -> Task:
    """Appends to a tally, does what `code` says, and leaves a report."""
    script = f"""
import os
open({str(place.parent / "tally")!r}, "a").write("x")
{code}
open({str(place / "report.json")!r}, "w").write({json.dumps(REPORT)!r})
"""
    return Task(name, place, (sys.executable, "-c", script), environment)


def test_what_is_done_is_not_done_again_and_what_changed_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once = task(tmp_path / "a")
    carry_out([once], 1)
    assert "[1/1] log seed-0: fused Recall@10 0.2500, MRR@20 0.1250, 8 targets" in capsys.readouterr().out
    carry_out([once], 1)
    assert "1 of 1 results are there already" in capsys.readouterr().out
    assert once.report() == REPORT
    assert len(versions([once])) == 1
    for changed in (task(tmp_path / "a", code="1"), task(tmp_path / "a", MORE="1")):
        assert not changed.done()
        carry_out([changed], 1)
    assert (tmp_path / "tally").read_text() == "xxx"


def test_a_receipt_without_a_command_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for text in ("{}", "{", ""):
        (tmp_path / "a" / "task.json").write_text(text)
        assert not task(tmp_path / "a").done()


def test_a_failure_is_told_in_its_own_words_and_stops_no_other(tmp_path: Path) -> None:
    bad, good = task(tmp_path / "a", "bad", "raise SystemExit('no such log')"), task(tmp_path / "b", "good")
    with pytest.raises(EmbeddedError, match=r"1 of 2 runs failed; the same command goes on") as caught:
        carry_out([bad, good], 1)
    assert "bad: no such log" in str(caught.value)
    assert good.done()
    assert not bad.done()


def test_settings_of_whoever_runs_the_bench_are_not_those_of_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMREC_LEARNING__SEED", "7")
    monkeypatch.setenv("OTHER", "1")
    code = "assert sorted(n for n in os.environ if n[:3] in ('STR', 'OTH')) == ['OTHER', 'STREAMREC_X']"
    carry_out([task(tmp_path / "a", code=code, STREAMREC_X="1")], 1)


def test_so_many_run_at_a_time_as_are_asked_for(tmp_path: Path) -> None:
    # Each waits until all four are there, which they are only when none waits for another to end.
    code = f"""
import time, pathlib
deadline = time.monotonic() + 60
while len(pathlib.Path({str(tmp_path / "tally")!r}).read_text()) < 4:
    assert time.monotonic() < deadline, "the others have not begun"
    time.sleep(0.02)
"""
    carry_out([task(tmp_path / str(n), code=code) for n in range(4)], 4)


def test_stopping_the_bench_stops_what_it_started(tmp_path: Path) -> None:
    script = """
import signal, sys
from pathlib import Path
from tools.benchmarks.tasks import Task, carry_out
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
sleep = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
carry_out([Task(name, Path(name), (sys.executable, "-c", sleep)) for name in ("a", "b")], 1)
"""
    bench = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    pid = tmp_path / "pid"
    until(lambda: pid.exists() and bool(pid.read_text()))
    bench.send_signal(signal.SIGTERM)
    assert bench.wait(timeout=20) == 143
    assert not Path("/proc", pid.read_text()).exists()
    assert not (tmp_path / "b").exists()
