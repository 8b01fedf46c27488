"""A system of its own on servers that run already: topics, keys, a consumer group, workers as processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from streamrec.codec import MSGPACK, encode_event
from streamrec.config.groups import preset_settings
from streamrec.config.settings import Settings
from streamrec.events import Event
from streamrec.testing import HEADERS
from streamrec.transport import Record

PATIENCE_S = 240.0  # far longer than any takes alone: what is waited for comes late on a busy machine
STOP_LIMIT_S = 60.0


class WorkerProcess:
    """`streamrec worker` as a child process, ended with the `with` block. What it says goes to `log`.

    `command` is another one that runs until it is stopped.
    """

    def __init__(self, config: Path, log: Path, *command: str) -> None:
        self._log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "streamrec.cli", *(command or ("worker",)), "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def said(self) -> str:
        """Everything it has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._child.kill()
        self._child.wait(STOP_LIMIT_S)

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self._child.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, limit_s: float = STOP_LIMIT_S) -> int:
        """Its exit code, once it has ended by itself.

        Raises:
            subprocess.TimeoutExpired: it did not end in time.
        """
        return self._child.wait(limit_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()


class Deployment:
    """Topics, keys, consumer group and snapshots that nothing else uses, on a broker and a Redis server given.

    `directory` holds the configuration file, the snapshots and what workers say. `groups` are settings beside the
    defaults, as `limits={"max_depth": 3}`. Unless they say otherwise a worker learns by itself: one process less.
    """

    def __init__(
        self,
        directory: Path,
        kafka: Mapping[str, str | int],
        redis_url: str,
        partitions: int = 1,
        preset: str = "default",
        **groups: Mapping[str, object],
    ) -> None:
        from streamrec.config.settings import shown
        from streamrec.config.toml import toml_lines
        from streamrec.transport.topics import apply, plan

        name = f"t{uuid.uuid4().hex[:10]}"
        topics = {kind: f"{name}-{kind.replace('_', '-')}" for kind in TOPICS}
        values: dict[str, object] = {
            "group_id": name,
            "kafka": dict(kafka),
            "redis": {"url": redis_url, "prefix": name},
            "topics": {**topics, "partitions": partitions, **groups.pop("topics", {})},
            "checkpoints": {"interval_s": 0.3, "share": 0.5},
            "snapshots": {"url": str(directory / "snapshots")},
            **preset_settings(preset),
            "learning": {"device": "cpu", **preset_settings(preset).get("learning", {})},
            "learner": {"where": "within"},
            **groups,
        }
        self.directory = directory
        self.settings = Settings.model_validate(values)
        self.config = directory / "streamrec.toml"
        self.config.write_text("\n".join(toml_lines(shown(self.settings))), encoding="utf-8")
        apply(plan(self.settings.topics, self.settings.kafka), self.settings.kafka)

    def worker(self) -> WorkerProcess:
        """Start a worker; several share the work."""
        return WorkerProcess(self.config, self.directory / f"worker-{uuid.uuid4().hex[:6]}.log")

    def trends(self, *options: str) -> WorkerProcess:
        """Start an instance of `streamrec trends`; several share the work."""
        return WorkerProcess(self.config, self.directory / f"trends-{uuid.uuid4().hex[:6]}.log", "trends", *options)

    def command(self, *arguments: str, limit_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Run a `streamrec` command to its end, with this deployment's configuration."""
        return subprocess.run(
            [sys.executable, "-m", "streamrec.cli", *arguments, "--config", str(self.config)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def send(self, log: Iterable[Event]) -> None:
        """Publish events and wait until they are stored."""
        from contextlib import closing

        from streamrec.wiring import kafka_sink

        with closing(kafka_sink(self.settings)) as sink:
            for event in log:
                value = encode_event(event, MSGPACK)
                sink.publish(self.settings.topics.events, event.user_id.encode(), value, HEADERS)

    def read(self, topic: str) -> list[Record]:
        """Every record of a topic as of now, partition by partition."""
        from contextlib import closing

        from streamrec.transport.positions import TopicReader

        found: list[Record] = []
        with closing(TopicReader(topic, self.settings.kafka)) as reader:
            reader.read(reader.beginning(), found.append)
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def committed(self) -> int:
        """Input records that are behind the last checkpoints, all partitions together."""
        from contextlib import closing

        from streamrec.wiring import build_store

        with closing(build_store(self.settings)) as store:
            return sum(mark.watermark or 0 for mark in store.marks().values())


TOPICS = ("events", "items", "recommendations", "outcomes", "trends", "dead_letters", "examples", "model_updates")


class Running(Protocol):
    """A process that may end, and what it said."""

    @property
    def running(self) -> bool: ...

    @property
    def said(self) -> str: ...


def until(condition: Callable[[], bool], worker: Running | None = None, limit_s: float = PATIENCE_S) -> None:
    """Wait for something to become true.

    Raises:
        AssertionError: it did not in time, or `worker` ended first; with what the worker said.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        ended = worker is not None and not worker.running
        if ended or time.monotonic() > deadline:
            said = "" if worker is None else f"; the worker said:\n{worker.said[-3_000:]}"
            raise AssertionError(f"the worker ended first{said}" if ended else f"not within {limit_s:.0f} s{said}")
        time.sleep(0.05)
