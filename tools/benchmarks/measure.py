"""One measurement, in a process of its own: none sees another's memory or compiled loops.

python -m tools.benchmarks.measure TASK      the task as JSON; prints the result as JSON
"""

from __future__ import annotations

import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from streamrec.config.groups import Learning, Redis, Serving, SnapshotSettings, Topics
from streamrec.config.settings import Settings
from streamrec.evaluation.backtest import backtest as replaying
from streamrec.events import EventType
from streamrec.replay.logs import Log, open_log
from streamrec.transport import Record
from streamrec.wiring import build_rehearsal, connect_worker
from streamrec.worker.loop import Worker
from streamrec.worker.profiling import Stopwatch, watch_worker

TIME_LIMIT_S = 1_800


class BenchLog(msgspec.Struct, frozen=True):
    """The first rows of a log. Rows of types that are no event type (cancellations) are left out."""

    name: str
    path: str
    mapping: dict[str, str]
    type: EventType
    rows: int

    def open(self) -> Log:
        return open_log(Path(self.path), mapping=self.mapping, skip_unknown_types=True, rows=(0, self.rows))


class Task(msgspec.Struct, frozen=True):
    """What to measure. `learning` off is the ceiling: the same loop, in which nothing is wanted and nothing asked."""

    log: BenchLog
    way: Literal["backtest", "broker"]
    learning: bool
    place: str
    events: int = 0  # that lie in the topic
    kafka: dict[str, str | int] = {}
    redis: str = "redis://127.0.0.1:9/0"

    @property
    def name(self) -> str:
        """Unlike that of any other task of the same run."""
        return f"{self.log.name}-{self.way}-{'learning' if self.learning else 'ceiling'}"

    @property
    def settings(self) -> Settings:
        return Settings(
            group_id=f"bench-{self.name}",
            kafka=dict(self.kafka),
            redis=Redis(url=self.redis, prefix=f"bench-{self.name}"),
            topics=Topics(events=self.log.name),
            learning=Learning(positives=(self.log.type,) if self.learning else ()),
            serving=Serving(recommend_on=frozenset({self.log.type}) if self.learning else frozenset()),
            snapshots=SnapshotSettings(url=f"{self.place}/snapshots-{self.name}"),
        )


class Result(msgspec.Struct, frozen=True):
    """What came of it. `steps` are seconds by step, each without the steps inside it; `cpu_s` is of all threads."""

    events: int
    seconds: float
    cpu_s: float
    slates: int
    peak_mb: float
    steps: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds


def measure(task: Task) -> Result:
    """Carry out one task.

    Raises:
        StreamrecError: the worker stopped.
    """
    return _backtest(task) if task.way == "backtest" else _broker(task)


def _backtest(task: Task) -> Result:
    """The backtest as it is, with the ranked list of every event written to `slates.parquet`."""
    stopwatch = Stopwatch()
    build = build_rehearsal

    def build_watched(*arguments: Any, **options: Any) -> Worker:
        worker = build(*arguments, **options)
        watch_worker(worker, stopwatch)
        return worker

    setattr(replaying, "build_rehearsal", build_watched)  # noqa: B010
    stopwatch.watch(replaying.Observer, "__call__", "write slates.parquet")
    done = replaying.backtest(task.log.open(), task.settings, Path(task.place, task.name))
    return _result(done.events, done.seconds, len(done.ranks), _peak_mb(), stopwatch)


def _broker(task: Task) -> Result:
    """A worker on events that lie in the topic already, until it has handled them all and saved a checkpoint."""
    stopwatch = Stopwatch()
    worker = connect_worker(task.settings)
    watch_worker(worker, stopwatch)
    step = worker.step
    handled = 0
    began_s = 0.0

    def counted(records: Sequence[Record]) -> None:
        nonlocal handled, began_s
        if records and not handled:
            began_s = time.perf_counter()
            stopwatch.seconds.clear()  # joining the group is no part of it
        step(records)
        handled += len(records)
        if handled >= task.events:
            worker.stop()

    setattr(worker, "step", counted)  # noqa: B010
    worker.run()
    seconds = time.perf_counter() - began_s
    samples = [sample for metric in worker.metrics.slates.collect() for sample in metric.samples]
    slates = round(sum(sample.value for sample in samples if sample.name == "streamrec_slates_total"))
    return _result(handled, seconds, slates, _peak_mb(), stopwatch)


def _result(events: int, seconds: float, slates: int, peak_mb: float, stopwatch: Stopwatch) -> Result:
    steps = dict(stopwatch.seconds)
    steps["everything else"] = max(seconds - sum(steps.values()), 0.0)
    return Result(events, seconds, stopwatch.cpu_s, slates, peak_mb, steps)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    signal.alarm(TIME_LIMIT_S)  # whoever started this may be gone
    print(msgspec.json.encode(measure(msgspec.json.decode(sys.argv[1], type=Task))).decode())
