"""Several workers and one learner on a topic that holds a log: what each costs an event, and how well it is learned.

All of them share this machine, so the time that counts is that of processors, per event. Then the same fleet is asked
at a steady pace while its learner stands still, and while it learns from a backlog as fast as it can.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from streamrec.cli.commands.learner import NICENESS
from streamrec.client import EventProducer, RecommendationConsumer
from streamrec.config.groups import LearnerSettings, Learning, Redis, Serving, SnapshotSettings, Topics
from streamrec.config.settings import Settings, shown
from streamrec.config.toml import toml_lines
from streamrec.demo.embedded import EmbeddedServer, free_ports
from streamrec.errors import EmbeddedError
from streamrec.evaluation.backtest.backtest import backtest
from streamrec.events import Event, EventType
from streamrec.transport.topics import apply, wanted
from tools.benchmarks.measure import BenchLog

LIMIT_S = 1_800.0
TICK = os.sysconf("SC_CLK_TCK")
REQUESTS_PER_S, EVENTS_PER_S, ASKED_S = 50, 300, 15.0
"""Of the steady pace."""
SAMPLE, BACKLOG = 5_000, 20_000
"""Events whose users and items go on; events to be learned, more than a learner learns meanwhile."""


PORTS = {"learner": "LEARNER__METRICS_PORT", "serve": "GATEWAY__PORT"}


class Part(EmbeddedServer):
    """`streamrec worker`, `learner` or `serve`."""

    durable = True
    start_limit_s = 600.0

    def __init__(self, command: str, config: Path, log: Path, port: int) -> None:
        self.kind = f"streamrec {command}"
        self._url = f"http://127.0.0.1:{port}"
        own = f"STREAMREC_{PORTS.get(command, 'METRICS_PORT')}={port}"
        behind = ["nice", "-n", str(NICENESS)] if command == "learner" else []  # as one beside a worker
        run = ["env", own, *behind, sys.executable, "-m", "streamrec.cli", command, "--config", str(config)]
        super().__init__(run, self._answers, log)

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self._url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def metrics(self, *names: str) -> list[float]:
        """What it counts, summed over labels; of hits those of the whole list.

        Raises:
            EmbeddedError: it does not answer.
        """
        try:
            with urlopen(f"{self._url}/metrics", timeout=60) as answer:
                families = text_string_to_metric_families(answer.read().decode())
        except OSError as error:
            said = self._log.read_text(encoding="utf-8", errors="replace")[-2_000:]
            raise EmbeddedError(f"{self.kind} does not answer ({error}); the end of its log:\n{said}") from error
        totals = dict.fromkeys(names, 0.0)
        for sample in (sample for family in families for sample in family.samples):
            if sample.name in totals and sample.labels.get("list", "fused") == "fused":
                totals[sample.name] += sample.value
        return list(totals.values())

    def cpu_s(self) -> float:
        """Processor time so far, of all its threads."""
        user, system = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / TICK

    def resident_mb(self) -> float:
        """The memory it holds."""
        lines = Path(f"/proc/{self.pid}/status").read_text()
        return int(lines.partition("VmRSS:")[2].split()[0]) / 1024

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.pid is not None
        os.kill(self.pid, number)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a log cost."""

    log: str
    workers: int
    events: int
    seconds: float
    learned_s: float  # until the last example was learned
    worker_us: float  # of processors, per event, all workers together
    learner_us: float  # per example
    update_bytes: int
    workers_mb: Sequence[float]
    learner_mb: float
    recall: float  # in the first ten, prequential
    targets: int

    def line(self) -> str:
        """In one line."""
        return (
            f"{self.log:>14} {self.workers} workers: {self.events / self.seconds:,.0f} events/s answered, "
            f"{self.events / self.learned_s:,.0f} learned; of processors {self.worker_us:,.0f} us an event in workers, "
            f"{self.learner_us:,.0f} in the learner; updates {self.update_bytes / self.learned_s / 1e6:.2f} MB/s; "
            f"memory {max(self.workers_mb):,.0f} MB a worker, {self.learner_mb:,.0f} MB the learner; "
            f"Recall@10 {self.recall:.4f} of {self.targets:,}"
        )


@dataclass(slots=True)
class Fleet:
    """Workers and their learner."""

    settings: Settings
    config: Path
    learner: Part
    workers: list[Part] = field(default_factory=list)
    stopped_at: float | None = None
    """How much a learner had learned that stands still, and cannot say so."""

    def total(self, name: str) -> float:
        """Over all workers."""
        return sum(worker.metrics(name)[0] for worker in self.workers)

    def learned(self) -> float:
        """Examples that the learner has learned."""
        return self.stopped_at or self.learner.metrics("streamrec_examples_learned_total")[0]

    def not_learned(self) -> int:
        """Those that were sent to it, and that it has yet to learn."""
        learned = self.learned()  # before it is asked what was sent
        return int(self.total("streamrec_examples_sent_total") - learned)


def settings_of(log: BenchLog, partitions: int, kafka: Mapping[str, str | int], redis: str) -> Settings:
    """A system of its own, in which every event is answered."""
    return Settings(
        kafka=dict(kafka),
        redis=Redis(url=redis),
        topics=Topics(events=log.name, partitions=partitions),
        learning=Learning(positives=(log.type,)),
        serving=Serving(recommend_on=frozenset({log.type, EventType.REQUEST})),
        learner=LearnerSettings(where="elsewhere"),
    )


@contextmanager
def fleet(settings: Settings, workers: int, place: Path) -> Iterator[Fleet]:
    """Started, and ready."""
    place.mkdir(parents=True)
    settings = settings.model_copy(update={"snapshots": SnapshotSettings(url=str(place / "snapshots"))})
    config, ports = place / "streamrec.toml", free_ports(workers + 1)
    config.write_text("\n".join(toml_lines(shown(settings))) + "\n", encoding="utf-8")
    apply(wanted(settings.topics), settings.kafka)
    with ExitStack() as parts:

        def started(command: str, number: int) -> Part:
            part = Part(command, config, place / f"{command}-{number}.log", ports[number])
            parts.callback(part.stop)
            part.start()
            return part

        running = Fleet(settings, config, started("learner", 0))
        running.workers += [started("worker", number) for number in range(1, workers + 1)]
        yield running


def cost(running: Fleet, log: BenchLog, fill: Callable[[], int]) -> Cost:
    """Fill the topic, and wait until all of it is answered and learned."""
    parts = [running.learner, *running.workers]
    before = [part.cpu_s() for part in parts]
    began = time.perf_counter()
    events = fill()
    _until(lambda: running.total("streamrec_events_total") >= events)
    seconds = time.perf_counter() - began
    _until(lambda: not running.not_learned())
    learned_s = time.perf_counter() - began
    spent = [part.cpu_s() - cpu_s for part, cpu_s in zip(parts, before, strict=True)]
    names = ("examples_learned_total", "model_update_bytes_total", "hits_total", "trials_total")
    learned, update_bytes, hits, targets = running.learner.metrics(*(f"streamrec_{name}" for name in names))
    return Cost(
        log=log.name,
        workers=len(running.workers),
        events=events,
        seconds=seconds,
        learned_s=learned_s,
        worker_us=1e6 * sum(spent[1:]) / events,
        learner_us=1e6 * spent[0] / learned,
        update_bytes=int(update_bytes),
        workers_mb=[worker.resident_mb() for worker in running.workers],
        learner_mb=running.learner.resident_mb(),
        recall=hits / targets,
        targets=int(targets),
    )


@dataclass(frozen=True, slots=True)
class Latency:
    """From a request to its slate, as a client sees it, and how far the models were behind."""

    log: str
    what: str  # the learner does
    ms: Sequence[float]
    behind_events: Sequence[float]
    not_learned: int  # examples, in the end

    def percentiles_ms(self) -> tuple[float, ...]:
        """The 50th, 90th and 99th."""
        return tuple(float(ms) for ms in np.percentile(self.ms, (50, 90, 99)))

    def behind(self) -> float:
        """Events, at the median."""
        return float(np.median(self.behind_events))

    def line(self) -> str:
        """In one line."""
        p50, p90, p99 = self.percentiles_ms()
        return (
            f"{'':>14} the learner {self.what}: p50 {p50:.0f} ms, p90 {p90:.0f}, p99 {p99:.0f} ({len(self.ms)}); "
            f"models behind by {self.behind():,.0f} events; "
            f"{self.not_learned:,} not learned in the end"
        )


def latencies(running: Fleet, log: BenchLog) -> Iterator[Latency]:
    """At a steady pace: while the learner keeps up, while it stands still, and while it works off a backlog.

    Args:
        running: a fleet that has learned everything.
        log: whose users and items go on, dated now.
    """
    sample = [event for _, event in islice(log.open().events(), SAMPLE)]
    _asked(running, log.name, sample, "")  # the slates of the log end first, all at once: years have passed
    yield _asked(running, log.name, sample, "keeps up")
    running.stopped_at = running.learned()
    running.learner.signal(signal.SIGSTOP)
    try:
        answered = running.total("streamrec_events_total")
        with _producer(running) as events:
            for number in range(BACKLOG):
                event = sample[number % len(sample)]
                events.send(type=event.type, user_id=event.user_id, item_id=event.item_id)
        _until(lambda: running.total("streamrec_events_total") >= answered + BACKLOG)
        yield _asked(running, log.name, sample, "stands still")
    finally:
        running.learner.signal(signal.SIGCONT)
        running.stopped_at = None
    yield _asked(running, log.name, sample, "at full load")


def _asked(running: Fleet, log: str, sample: Sequence[Event], what: str) -> Latency:
    kafka = running.settings.kafka
    took: list[float] = []
    asked: dict[str, float] = {}
    behind: list[float] = []
    with (
        _producer(running) as events,
        closing(
            RecommendationConsumer(
                str(kafka["bootstrap.servers"]), topic=running.settings.topics.recommendations, settings=kafka
            )
        ) as slates,
    ):
        leaving = threading.Event()

        def listen() -> None:
            while asked or not leaving.is_set():
                slate = slates.poll(0.5)
                at = None if slate is None else asked.pop(slate.request_id or "", None)
                if at is not None:
                    took.append(1e3 * (time.perf_counter() - at))

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        began, sent = time.perf_counter(), 0
        while (at := time.perf_counter() - began) < ASKED_S:
            while sent < at * EVENTS_PER_S:
                now_ms, event = int(time.time() * 1000), sample[sent % len(sample)]
                events.send(type="view", user_id=event.user_id, item_id=event.item_id, ts=now_ms)
                if sent * REQUESTS_PER_S % EVENTS_PER_S < REQUESTS_PER_S:
                    name = f"{what}-{sent}"
                    asked[name] = time.perf_counter()
                    events.send(type="request", user_id=event.user_id, event_id=name, ts=now_ms)
                sent += 1
            if int(at) > len(behind):
                behind.append(running.total("streamrec_models_behind_events"))
            time.sleep(0.002)
        leaving.set()
        listener.join(30.0)
        if asked:
            raise EmbeddedError(f"{len(asked)} of the requests were not answered within 30 s")
    return Latency(log, what, took, behind, running.not_learned())


def backtest_recall(log: BenchLog) -> float:
    """The same figure of a backtest, which learns in one process."""
    settings = Settings(learning=Learning(positives=(log.type,)), serving=Serving(recommend_on=frozenset({log.type})))
    with TemporaryDirectory(prefix="streamrec-bench-") as out:
        ranks = backtest(log.open(), settings, Path(out), warmup=0.0).ranks
    return float(((ranks > 0) & (ranks <= 10)).mean())


def _producer(running: Fleet) -> EventProducer:
    kafka = running.settings.kafka
    return EventProducer(str(kafka["bootstrap.servers"]), topic=running.settings.topics.events, settings=kafka)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise EmbeddedError(f"not everything was done within {LIMIT_S:.0f} s; take fewer rows (--rows)")
        time.sleep(0.25)
