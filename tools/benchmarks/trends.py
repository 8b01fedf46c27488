"""How many events per second one instance of `streamrec trends` keeps up with, beside a Faust agent that does nothing.

Each measurement has a process of its own: python -m tools.benchmarks.trends TASK, the task as JSON, prints the result.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

import msgspec
from msgspec import structs

from streamrec.codec import MSGPACK, encode_event
from streamrec.config.groups import Topics
from streamrec.config.settings import Settings
from streamrec.errors import EmbeddedError
from streamrec.events import Event
from streamrec.testing import HEADERS, STARTED_MS, shop

PARTITIONS = 2
TIME_LIMIT_S = 900
EVENTS_PER_S = 8_000
"""In log time: what one instance has to keep up with."""


class Task(msgspec.Struct, frozen=True):
    """What to measure. `counting` off: the same agent and acknowledgements, and nothing counted, said or kept."""

    name: str
    kafka: dict[str, str | int]
    events: int
    counting: bool
    emit_every_s: float

    @property
    def settings(self) -> Settings:
        return Settings.model_validate(
            {
                "group_id": f"bench-{self.name.replace(' ', '-')}",
                "kafka": self.kafka,
                "topics": {"partitions": PARTITIONS},
                "trends": {"emit_every_s": self.emit_every_s},
            }
        )


class Result(msgspec.Struct, frozen=True):
    """What came of it; from the first event to the last, counts stored. `cpu_s` is of all threads."""

    events: int
    seconds: float
    cpu_s: float
    peak_mb: float
    subjects: int


def bench_events(count: int) -> list[Event]:
    """A shop with 20,000 items, so that most flushes say something of thousands."""
    log = shop(count, users=5_000, items=20_000, kinds=50)
    return [structs.replace(event, ts=STARTED_MS + number * 1000 // EVENTS_PER_S) for number, event in enumerate(log)]


def send(events: Iterable[Event], kafka: Mapping[str, str | int]) -> None:
    """Publish them to the default events topic, and wait until they are stored."""
    from streamrec.transport.confluent import KafkaSink

    with closing(KafkaSink(kafka)) as sink:
        for event in events:
            sink.publish(Topics().events, event.user_id.encode(), encode_event(event, MSGPACK), HEADERS)


def in_a_process_of_its_own(task: Task) -> Result:
    """Carry out one task.

    Raises:
        EmbeddedError: the process failed, or took longer than a quarter of an hour.
    """
    command = [sys.executable, "-m", "tools.benchmarks.trends", msgspec.json.encode(task).decode()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise EmbeddedError(f"measuring {task.name} took longer than {TIME_LIMIT_S} s; take fewer events") from None
    if done.returncode:
        raise EmbeddedError(f"measuring {task.name} ended with status {done.returncode}: {done.stderr[-2_000:]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Result)


async def measure(task: Task) -> Result:
    """In this process, on a topic that holds the events already."""
    from streamrec.cli.commands.trends import assemble
    from streamrec.trends.app import TrendsApp, run

    stop = asyncio.Event()
    began: list[tuple[float, float]] = []

    class Watched(TrendsApp):
        """The app as it is, with a look at the clock before the first event."""

        def take(self, message: Any) -> None:
            if not began:
                began.append((time.perf_counter(), time.process_time()))
            super().take(message)

    class Idle(Watched):
        """Takes messages and acknowledges them."""

        def take(self, message: Any) -> None:
            if not began:
                began.append((time.perf_counter(), time.process_time()))
            self._held.append(message)
            self.counts[message.partition].position = message.offset

    settings = task.settings
    trends = assemble(settings, PARTITIONS, Watched if task.counting else Idle)
    running = asyncio.create_task(run(trends, settings.trends.emit_every_s, stop))
    while sum(counts.position + 1 for counts in trends.counts.values()) < task.events:
        await asyncio.sleep(0.02)
    await trends.flush()
    seconds, cpu_s = time.perf_counter() - began[0][0], time.process_time() - began[0][1]
    subjects = sum(map(len, trends.counts.values()))
    stop.set()
    await running
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Result(task.events, seconds, cpu_s, peak_mb, subjects)


def line(task: Task, result: Result) -> str:
    """One measurement in one line."""
    return (
        f"{task.name:>10}: {result.events / result.seconds:7,.0f} events/s, "
        f"{result.events / result.cpu_s:7,.0f} per second of CPU ({1e6 * result.cpu_s / result.events:.0f} us each; "
        f"{result.events:,} events, {result.subjects:,} items and categories), peak {result.peak_mb:,.0f} MB"
    )


if __name__ == "__main__":
    print(msgspec.json.encode(asyncio.run(measure(msgspec.json.decode(sys.argv[1], type=Task)))).decode(), flush=True)
    os._exit(0)  # Faust leaves threads behind
