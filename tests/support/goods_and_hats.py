"""A shop on Apache Kafka whose workers each have a learner beside them: half of its users like goods, the rest hats."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from streamrec.codec import decode_slate
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis, free_ports
from streamrec.engine.examples import EXAMPLES_PARTITION, decoded
from streamrec.errors import BadEvent
from streamrec.events import Event, EventType, Slate
from streamrec.transport import Record
from streamrec.transport.partitioners import murmur2
from streamrec.wiring.connections import build_snapshots
from streamrec.wiring.learner import build_fold
from tests.support.deployment import Deployment, WorkerProcess, until

PARTITIONS, WORKERS = 4, 3
BEGAN = 1_700_000_000_000
GOODS, HATS = [f"g{n}" for n in range(12)], [f"h{n}" for n in range(12)]


class Shop:
    """Users of the first two partitions like goods alone, all others hats alone."""

    def __init__(self, directory: Path, kafka: EmbeddedBroker, redis: EmbeddedRedis) -> None:
        self.ports = free_ports(WORKERS)
        self.deployment = Deployment(
            directory,
            kafka.settings,
            redis.url,
            partitions=PARTITIONS,
            preset="fast",
            limits={"max_items": 512, "max_users": 2_000},
            learner={"where": "beside", "snapshot_every": 500, "publish_every_s": 0.05},
        )
        self.draw, self.ts, self.sent = random.Random(3), BEGAN, 0

    def worker(self, number: int = 0) -> WorkerProcess:
        """One of WORKERS at most at a time; its learner answers on a port of its own."""
        os.environ["STREAMREC_LEARNER__METRICS_PORT"] = str(self.ports[number])
        try:
            return self.deployment.worker()
        finally:
            del os.environ["STREAMREC_LEARNER__METRICS_PORT"]

    def send(self, count: int) -> None:
        events = []
        for _ in range(count):
            user, self.ts = f"u{self.draw.randrange(200)}", self.ts + 1_000
            liked = GOODS if home(user) < 2 else HATS
            events.append(Event(type=EventType.PURCHASE, user_id=user, ts=self.ts, item_id=self.draw.choice(liked)))
        self.deployment.send(events)
        self.sent += count

    def slates(self, users: Sequence[str]) -> list[Slate]:
        """Answers to requests that are sent now."""
        names = {f"asked-{user}-{self.ts}" for user in users}
        self.ts += 1_000
        self.deployment.send([
            Event(type=EventType.REQUEST, user_id=user, ts=self.ts, event_id=f"asked-{user}-{self.ts - 1_000}", k=20)
            for user in users
        ])  # fmt: skip
        found: dict[str, Slate] = {}

        def answered() -> bool:
            for record in self.deployment.read(self.deployment.settings.topics.recommendations):
                slate = decode_slate(record.value or b"", record.headers)
                if slate.request_id in names:
                    found[slate.request_id] = slate
            return found.keys() == names

        until(answered)
        return list(found.values())

    def examples(self) -> list[Record]:
        """Every record of the examples, changes of the catalogue among them."""
        return self.deployment.read(self.deployment.settings.topics.examples)

    def recount(self) -> tuple[int, int]:
        """How many events were sent to the learner, and how many of them say what somebody liked; each counted once."""
        liked = dict[tuple[int, int], bool]()
        for record in self.examples():
            with suppress(BadEvent):
                example = decoded(record.value or b"")
                liked[example.partition, example.offset] = example.label is not None
        return len(liked), sum(liked.values())

    def at_work(self) -> tuple[int, int]:
        """Which of the learners is at work, and the examples of events that it says it has learned; -1: none."""
        for number, port in enumerate(self.ports):
            try:
                lines = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode().splitlines()
            except (OSError, HTTPException, ValueError):
                continue
            said = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
            if float(said["streamrec_learner_at_work"]):
                return number, int(float(said["streamrec_examples_learned_total"]))
        return -1, 0

    def learned(self) -> int:
        """Examples that the learner at work has learned from."""
        return self.at_work()[1]

    def differing(self) -> list[str]:
        """The arrays of the newest snapshot that are not, to the bit, those of one fold over the same examples."""
        snapshots = build_snapshots(self.deployment.settings)
        newest = str(snapshots.latest())
        position = snapshots.describe(newest).watermarks[EXAMPLES_PARTITION]
        fold = build_fold(self.deployment.settings)
        for _ in fold.take([record for record in self.examples() if record.offset < position]):
            pass
        live, folded = snapshots.load(newest).arrays, fold.state()
        assert live.keys() == folded.keys()
        return [
            f"{part}.{name}"
            for part, arrays in folded.items()
            for name, array in arrays.items()
            if array.tobytes() != live[part][name].tobytes()
        ]


def learners(worker: WorkerProcess) -> list[int]:
    """Every process below a worker: what keeps a learner going, and, last, the learner."""
    found, look = list[int](), [worker.pid]
    while look:
        parent = look.pop()
        listed = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False).stdout
        below = [int(line) for line in listed.split()]
        found += below
        look += below
    return found


def offered(slates: Sequence[Slate]) -> set[str]:
    """The kinds of items on them: g, h."""
    return {item.item_id[0] for slate in slates for item in slate.items}


def home(user: str) -> int:
    return murmur2(user.encode(), PARTITIONS)
