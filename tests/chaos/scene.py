"""A deployment under load, whose input is known: what was sent, what must have come of it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import count, islice
from pathlib import Path

from confluent_kafka.admin import AdminClient

from streamrec.codec import MSGPACK, decode, decode_slate, encode_event
from streamrec.config.groups import preset_settings
from streamrec.errors import StateError
from streamrec.events import Event, Outcome, Slate
from streamrec.state import PartitionMark, Store
from streamrec.testing import HEADERS, STARTED_MS, partition_of, shop
from streamrec.transport.confluent import KafkaSink
from streamrec.wiring import build_store
from tests.chaos.faulty_worker import Fault
from tests.chaos.workers import ForkedWorker, Supervised, log_in
from tests.support.deployment import PATIENCE_S, Deployment, until
from tests.support.oracle import (
    assert_counts_equal_a_recount,
    assert_each_item_shown_has_one_outcome,
    assert_each_request_has_its_answer,
)

FAST = preset_settings("fast")
GROUPS: Mapping[str, Mapping[str, object]] = {
    "learning": {"device": "cpu", **FAST["learning"]},
    "fusion": FAST["fusion"],
    "limits": {"max_items": 2_048},
    "attribution": {"window_s": 120, "lateness_s": 5},
}
READY_AGAIN_S = 3.0 + 30.0
"""Until what a dead worker held is read again: the session timeout of an embedded broker's clients, and time for a busy
machine to start a worker; less than the 45 s that clients have by default."""
PORTION = 250
"""Events made up at a time."""
BROKERS_AWAY_S = 180.0
"""How long events wait for a broker that is away, before the tests give up."""


class Scene:
    """Sends made-up events that go on without end, and says what must have been counted of them.

    `partitions` share the users; `store_url` is where Redis is reached past whatever stands between it and the worker.
    """

    def __init__(
        self,
        directory: Path,
        kafka: Mapping[str, str | int],
        redis_url: str,
        *,
        seed: int,
        partitions: int = 3,
        start_ms: int = STARTED_MS,
        store_url: str | None = None,
        **groups: Mapping[str, object],
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.deployment = Deployment(directory, kafka, redis_url, partitions, **{**GROUPS, **groups})
        self.partitions = partitions
        self.draw = random.Random(seed)
        self.sent: list[Event] = []
        settings = self.deployment.settings
        redis = settings.redis.model_copy(update={"url": store_url or redis_url, "timeout_s": 2.0})
        self.outside = settings.model_copy(update={"redis": redis})
        """The settings by which tests look on."""
        self.events = self._made_up(seed, start_ms)

    # Workers

    def worker(self, fault: Fault | None = None, environment: Mapping[str, str] | None = None) -> ForkedWorker:
        """Start a worker; `environment` are settings of this one alone, as STREAMREC_... variables."""
        return ForkedWorker(self.deployment.config, log_in(self.deployment.directory), fault, environment)

    def supervised(self) -> Supervised:
        """Start a worker that is started again when it fails."""
        return Supervised(self.worker)

    def members(self) -> set[str]:
        """The consumer group's members, by the names the broker gave them when they joined."""
        group = self.deployment.settings.group_id
        client = AdminClient({"bootstrap.servers": self.deployment.settings.kafka["bootstrap.servers"]})
        # The client is held in a name until it has answered.
        described = client.describe_consumer_groups([group])[group].result(10)
        return {member.member_id for member in described.members}

    # Events

    def send(self, number: int) -> None:
        """The next events, as fast as the broker takes them."""
        with closing(self.sink()) as sink:
            for event in islice(self.events, number):
                self.publish(sink, event)

    @contextmanager
    def traffic(self, per_second: float) -> Iterator[None]:
        """So many events a second while inside; on leaving, all of them are stored by the broker."""
        leaving, failures = threading.Event(), list[BaseException]()

        def go_on() -> None:
            try:
                with closing(self.sink()) as sink:
                    while not leaving.wait(0.02):
                        for event in islice(self.events, max(1, round(per_second * 0.02))):
                            self.publish(sink, event)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            leaving.set()
            thread.join(BROKERS_AWAY_S)
        assert not failures, failures

    def sink(self) -> KafkaSink:
        """A producer that waits for brokers that are away."""
        return KafkaSink(self.deployment.settings.kafka, block_s=BROKERS_AWAY_S)

    def publish(self, sink: KafkaSink, event: Event) -> None:
        """Send one event, and know of it."""
        topic = self.deployment.settings.topics.events
        sink.publish(topic, event.user_id.encode(), encode_event(event, MSGPACK), HEADERS)
        self.sent.append(event)

    def _made_up(self, seed: int, start_ms: int) -> Iterator[Event]:
        for batch_result in count():
            log = shop(PORTION, seed=seed * 1_000_003 + batch_result, start_ms=start_ms, users=120, items=300)
            yield from log
            start_ms = log[-1].ts + 1

    # What came of them

    @contextmanager
    def store(self) -> Iterator[Store]:
        """The worker's store."""
        with closing(build_store(self.outside)) as store:
            yield store

    def marks(self) -> dict[int, PartitionMark]:
        """Where each partition stands; nothing when the store is away."""
        with suppress(StateError), self.store() as store:
            return store.marks()
        return {}

    def committed(self) -> int:
        """Input records that are behind the last checkpoints, all partitions together."""
        return sum(mark.watermark or 0 for mark in self.marks().values())

    def slates(self) -> list[Slate]:
        """Every slate there is."""
        records = self.deployment.read(self.deployment.settings.topics.recommendations)
        return [decode_slate(record.value or b"", record.headers) for record in records]

    def outcomes(self) -> list[Outcome]:
        """Every outcome there is."""
        records = self.deployment.read(self.deployment.settings.topics.outcomes)
        return [decode(record.value or b"", record.headers, Outcome) for record in records]

    def by_partition(self) -> list[list[Event]]:
        """What was sent, as the log holds it."""
        logs: list[list[Event]] = [[] for _ in range(self.partitions)]
        for event in self.sent:
            logs[partition_of(event.user_id, self.partitions)].append(event)
        return logs

    def until_caught_up(self, worker: ForkedWorker | Supervised, limit_s: float = PATIENCE_S) -> None:
        """Wait until everything sent is behind the last checkpoints."""
        try:
            until(lambda: self.committed() == len(self.sent), worker, limit_s)
        except AssertionError as error:
            error.add_note(f"sent, by partition: {[len(log) for log in self.by_partition()]}; marks: {self.marks()}")
            raise

    def finish(self) -> None:
        """Let one more worker catch up and leave in good order."""
        with self.worker() as worker:
            until(worker.ready, worker)
            self.until_caught_up(worker)
            assert worker.stop() == 0, worker.said

    def until_progress(self, worker: ForkedWorker | Supervised, limit_s: float = PATIENCE_S) -> float:
        """Wait for the next checkpoint that comes further than the last one; how many seconds it took."""
        began, before = time.monotonic(), self.committed()
        until(lambda: self.committed() > before, worker, limit_s)
        return time.monotonic() - began

    def assert_exact(self) -> None:
        """Counts equal a recount of everything sent; each request has one slate, and no outcome comes twice."""
        with self.store() as store:
            assert_counts_equal_a_recount(store, self.sent)
        slates = self.slates()
        assert_each_request_has_its_answer(slates, self.sent)
        assert_each_item_shown_has_one_outcome(self.outcomes(), slates)

    def assert_no_half_write(self) -> None:
        """What is stored of each partition is what its log says up to its watermark, no more and no less."""
        with self.store() as store:
            marks = store.marks()
            seen = [event for number, log in enumerate(self.by_partition()) for event in log[: marks[number].watermark]]
            assert_counts_equal_a_recount(store, seen)


def rest(seconds: float, unless: Callable[[], bool] = lambda: False) -> None:
    """Let the load go on for a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not unless():
        time.sleep(0.02)
