"""Small real parts for tests, ours and those of programs that use streamrec: a made-up shop, its log, a recount, and a
deployment of its own on servers that run already.

    log = shop(2_000, seed=7)
    source = LocalSource("user-events", records("user-events", log, partitions=3), partitions=3)
    ...
    assert what_the_worker_counted == recount(log).users

The shop is random but repeatable, and has something to learn: people keep to a few kinds of items, and one item leads
to the next. The recount adds events up one by one and knows nothing of how a worker does it.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from streamrec.codec import CONTENT_TYPE, MSGPACK, encode_event
from streamrec.config.groups import PRESETS
from streamrec.config.settings import Settings
from streamrec.events import Event, EventType
from streamrec.transport import Record

STARTED_MS = 1_704_067_200_000  # 2024-01-01: in the past wherever tests run, so no event is dated ahead of its sending
PATIENCE_S = 120.0
STOP_LIMIT_S = 60.0
HEADERS = ((CONTENT_TYPE, MSGPACK.encode()),)
WEIGHTS: Mapping[EventType, int] = {
    EventType.VIEW: 30,
    EventType.CLICK: 25,
    EventType.REQUEST: 20,
    EventType.ADD_TO_CART: 8,
    EventType.PURCHASE: 8,
    EventType.IMPRESSION: 3,
    EventType.SEARCH: 2,
    EventType.LIKE: 2,
    EventType.SKIP: 1,
    EventType.RATING: 1,
}
"""How often each type comes in a hundred events."""


def shop(
    count: int,
    *,
    users: int = 60,
    items: int = 200,
    kinds: int = 8,
    seed: int = 0,
    apart_ms: int = 900,
    start_ms: int = STARTED_MS,
) -> list[Event]:
    """So many events in time order, each with an `event_id` of its own; some share their user and time, as baskets do.

    Args:
        users, items, kinds: how many there are; items of one kind follow one another.
        apart_ms: from one event to the next, on average.
        start_ms: of the first event.
    """
    draw = random.Random(seed)
    types, weights = list(WEIGHTS), list(WEIGHTS.values())
    last: dict[int, int] = {}
    log: list[Event] = []
    user, ts = 0, start_ms
    for number in range(count):
        if not (number and draw.random() < 0.15):  # else another one of the same basket
            user = min(int(draw.expovariate(4 / users)), users - 1)
            ts += draw.randrange(2 * apart_ms)
        before = last.get(user, user)
        item = draw.choices(
            [(before + kinds) % items, draw.randrange(items // kinds) * kinds + before % kinds, draw.randrange(items)],
            [60, 25, 15],
        )[0]
        kind = draw.choices(types, weights)[0]
        itemless = kind is EventType.SEARCH or (kind is EventType.REQUEST and draw.random() < 0.9)
        if not itemless:
            last[user] = item
        log.append(
            Event(
                type=kind,
                user_id=f"user-{user}",
                ts=ts,
                item_id=None if itemless else f"item-{item}",
                event_id=f"{seed}-{number}",
                session_id=f"{user}-{ts // 600_000}" if user % 2 else None,
                value=float(draw.randrange(1, 6)) if kind is EventType.RATING else None,
                context=None if itemless else {"category": f"kind-{item % kinds}"},
                k=draw.choice([None, 5, 10]) if kind is EventType.REQUEST else None,
            )
        )
    return log


def partition_of(user_id: str, partitions: int) -> int:
    """A user's partition, as Kafka's default partitioner of librdkafka has it (CRC32 of the key)."""
    return zlib.crc32(user_id.encode()) % partitions


def records(topic: str, log: Iterable[Event], partitions: int = 1) -> list[Record]:
    """A log as a broker would hold it: each user's events in one partition, offsets counted from 0 in each."""
    ends = [0] * partitions
    held = []
    for event in log:
        partition = partition_of(event.user_id, partitions)
        key, value = event.user_id.encode(), encode_event(event, MSGPACK)
        held.append(Record(topic, partition, ends[partition], key, value, HEADERS, event.ts))
        ends[partition] += 1
    return held


@dataclass(frozen=True, slots=True)
class Recount:
    """Events by type, per user and per item."""

    users: dict[str, dict[str, int]] = field(default_factory=dict)
    items: dict[str, dict[str, int]] = field(default_factory=dict)


def recount(log: Iterable[Event]) -> Recount:
    """What a worker must have counted of a log; an event whose id its user has sent before counts once."""
    users: dict[str, Counter[str]] = {}
    items: dict[str, Counter[str]] = {}
    known: set[tuple[str, str]] = set()
    for event in log:
        if event.event_id is not None:
            if (event.user_id, event.event_id) in known:
                continue
            known.add((event.user_id, event.event_id))
        users.setdefault(event.user_id, Counter())[event.type.value] += 1
        if event.item_id is not None:
            items.setdefault(event.item_id, Counter())[event.type.value] += 1
    return Recount(_plain(users), _plain(items))


def _plain(counts: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {name: dict(counter) for name, counter in counts.items()}


def requests(log: Sequence[Event]) -> list[Event]:
    """The events that ask for a slate, with the default settings."""
    return [event for event in log if event.type in (EventType.REQUEST, EventType.SEARCH)]


# A system of its own on servers that run already


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
    defaults, as `limits={"max_depth": 3}`.
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
            "topics": {**topics, "partitions": partitions},
            "checkpoints": {"interval_s": 0.3, "share": 0.5, "directory": directory / "snapshots"},
            **PRESETS[preset],
            "learning": {"device": "cpu", **PRESETS[preset].get("learning", {})},
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

        from streamrec.transport.confluent import KafkaSink

        with closing(KafkaSink(self.settings.kafka)) as sink:
            for event in log:
                value = encode_event(event, MSGPACK)
                sink.publish(self.settings.topics.events, event.user_id.encode(), value, HEADERS)

    def read(self, topic: str) -> list[Record]:
        """Every record of a topic as of now, partition by partition."""
        from contextlib import closing

        from streamrec.transport.positions import Surveyor

        found: list[Record] = []
        with closing(Surveyor(topic, self.settings.kafka)) as reader:
            reader.read(reader.beginning(), found.append)
        return sorted(found, key=lambda record: (record.partition, record.offset))

    def committed(self) -> int:
        """Input records that are behind the last checkpoints, all partitions together."""
        from contextlib import closing

        from streamrec.wiring import build_store

        with closing(build_store(self.settings)) as store:
            return sum(mark.watermark or 0 for mark in store.marks().values())


TOPICS = ("events", "items", "recommendations", "outcomes", "trends", "dead_letters")


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
