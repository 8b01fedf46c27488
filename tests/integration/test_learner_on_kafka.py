"""One model and many workers, on Apache Kafka: what was learned outlives whoever learned it, and whoever sent it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from streamrec.codec import decode_slate
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis, free_ports
from streamrec.engine.examples import EXAMPLES_PARTITION, decoded
from streamrec.events import Event, EventType, Slate
from streamrec.transport import Record
from streamrec.transport.partitioners import murmur2
from streamrec.wiring.connections import build_snapshots
from streamrec.wiring.learner import build_fold
from tests.support.deployment import Deployment, WorkerProcess, until

PARTITIONS = 4
BEGAN = 1_700_000_000_000
GOODS, HATS = [f"g{n}" for n in range(12)], [f"h{n}" for n in range(12)]


class Shop:
    """Users of the first two partitions like goods alone, all others hats alone."""

    def __init__(self, directory: Path, kafka: EmbeddedBroker, redis: EmbeddedRedis) -> None:
        self.ports = free_ports(2)
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
        """One of at most two at a time; its learner answers on a port of its own."""
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
        return self.deployment.read(self.deployment.settings.topics.examples)

    def at_work(self) -> tuple[int, int]:
        """Which of the two learners is at work, and the examples of events that it says it has learned; -1: none."""
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


def home(user: str) -> int:
    return murmur2(user.encode(), PARTITIONS)


@pytest.fixture
def shop(tmp_path: Path, apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis) -> Shop:
    return Shop(tmp_path, apache_kafka, redis_server)


def offered(slates: Sequence[Slate]) -> set[str]:
    """The kinds of items on them: g, h."""
    return {item.item_id[0] for slate in slates for item in slate.items}


def test_what_was_learned_outlives_the_worker_whose_users_taught_it(shop: Shop) -> None:
    strangers = [f"stranger{n}" for n in range(8)]
    with shop.worker(0) as one, shop.worker(1) as other:
        shop.send(600)
        until(lambda: shop.learned() >= 600, one)
        one.kill()  # and its learner with it; the other's takes over, and the other worker the partitions
        shop.send(200)
        until(lambda: shop.learned() >= 800, other)
        assert offered(shop.slates(strangers)) == {"g", "h"}
        with shop.worker(0):
            other.kill()
            shop.send(200)
            until(lambda: shop.learned() >= 1_000)
            slates = shop.slates([f"another{n}" for n in range(8)])
    assert all(offered([slate]) == {"g", "h"} for slate in slates)
    # Each event taught once, however often a worker that took over sent it again.
    taught = {(e.partition, e.offset) for e in map(_example, shop.examples()) if e.label is not None}
    assert len(taught) == shop.sent == 1_000
    assert _newest(shop)["sources"]["learned"][:, 1].sum() > 0


def test_a_learner_killed_again_and_again_comes_to_the_arrays_of_one_fold(shop: Shop) -> None:
    with shop.worker(0) as worker, shop.worker(1) as other:
        for _ in range(3):
            shop.send(400)
            until(lambda: shop.learned() > 0, worker)
            os.kill(_children((worker, other)[shop.at_work()[0]])[-1], signal.SIGKILL)
        until(lambda: shop.learned() == 1_200, worker)
        slate = shop.slates(["u1"])[0]
        assert worker.stop() == 0
        assert other.stop() == 0
    fold = build_fold(shop.deployment.settings)
    records = shop.examples()
    for _ in fold.take([record for record in records if record.offset < _position(shop)]):
        pass
    live, folded = _newest(shop), fold.state()
    assert live.keys() == folded.keys()
    differing = [
        f"{part}.{name}"
        for part, arrays in folded.items()
        for name, array in arrays.items()
        if array.tobytes() != live[part][name].tobytes()
    ]
    assert differing == []
    assert slate.model_version is not None
    assert 0 < slate.model_version <= len(records)


def test_with_no_learner_slates_go_on_and_readyz_says_so(shop: Shop) -> None:
    with shop.worker(0) as worker:
        shop.send(300)
        until(lambda: shop.learned() >= 300, worker)
        before = shop.slates(["stranger"])[0]
        for process in _children(worker):
            os.kill(process, signal.SIGSTOP)  # keeper and learner: nobody starts another one
        try:
            shop.send(50)
            until(lambda: "no learner is heard of" in worker.said, worker)
            after = shop.slates(["stranger"])[0]
        finally:
            for process in _children(worker):
                os.kill(process, signal.SIGCONT)
        assert [item.item_id for item in after.items]
        assert after.model_version == before.model_version or after.model_version is not None


def test_another_list_of_models_takes_a_restart_and_no_warmup(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = build_snapshots(shop.deployment.settings)
    with shop.worker() as worker:
        shop.send(400)
        until(lambda: shop.learned() >= 400, worker)
        assert worker.stop() == 0
    before = snapshots.load(str(snapshots.latest())).arrays
    monkeypatch.setenv("STREAMREC_LEARNING__MODELS", "popularity,popularity_days,covisit,sessions")
    with shop.worker() as worker:
        slate = shop.slates(["stranger"])[0]  # before anything more is learned
        assert offered([slate]) == {"g", "h"}
        assert worker.said.count("the snapshot is of another list of models") > 0
        shop.send(200)
        until(lambda: shop.learned() >= 600, worker)
        later = shop.slates([f"u{n}" for n in range(8)])[0]
        assert worker.stop() == 0
    after = snapshots.load(str(snapshots.latest())).arrays
    assert later.model_version is not None
    assert slate.model_version is not None
    assert later.model_version > slate.model_version >= 400
    assert after["model.covisit"]["mass"].sum() > before["model.covisit_recent"]["mass"].sum() > 0
    assert any("sessions" in item.scores for item in later.items)
    assert {name for name in after if name.startswith("model.")} == {
        f"model.{name}" for name in ("popularity", "popularity_days", "covisit", "sessions")
    }


def _example(record: Record) -> Any:
    return decoded(record.value or b"")


def _newest(shop: Shop) -> Mapping[str, Mapping[str, Any]]:
    snapshots = build_snapshots(shop.deployment.settings)
    return snapshots.load(str(snapshots.latest())).arrays


def _position(shop: Shop) -> int:
    snapshots = build_snapshots(shop.deployment.settings)
    return int(snapshots.describe(str(snapshots.latest())).watermarks[EXAMPLES_PARTITION])


def _children(worker: WorkerProcess) -> list[int]:
    """Every process below it: what keeps a learner going, and the learner."""
    found, look = list[int](), [worker._child.pid]
    while look:
        parent = look.pop()
        listed = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False).stdout
        below = [int(line) for line in listed.split()]
        found += below
        look += below
    return found
