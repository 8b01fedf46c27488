"""`streamrec trends` on Apache Kafka: whoever dies and whenever, what is said in the end equals a recount; and workers
that read it need it as little as it needs them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from streamrec.cli.commands.trends import LOOKS, group_of, run
from streamrec.codec import decode, decode_slate, encode_event
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.engine.arrays.labels import WANTED, Interest
from streamrec.engine.trending.windows import PARTS
from streamrec.errors import ConfigError
from streamrec.events import Event, EventType, Slate, Trend
from streamrec.testing import partition_of, shop
from tests.support.deployment import Deployment, WorkerProcess, until

PARTITIONS = 4
BUSY_S = 10.0
"""A thread on a busy machine may come round so much later."""
Figures = dict[tuple[int, str], tuple[tuple[int, int], ...]]
"""By partition and item, count and before of each window."""


@pytest.fixture
def deployment(apache_kafka: EmbeddedBroker, tmp_path: Path) -> Deployment:
    nowhere = "redis://127.0.0.1:9/0"  # trends need none
    trends = {"emit_every_s": 0.3, "windows_s": [300, 1800, 7200], "stall_s": 60}
    return Deployment(tmp_path, apache_kafka.settings, nowhere, PARTITIONS, trends=trends)


def committed(deployment: Deployment) -> int:
    """Records behind the offsets of the group, all partitions together; 0 while its coordinator is still loading."""
    partitions = range(deployment.settings.topics.partitions)
    places = [TopicPartition(deployment.settings.topics.events, partition) for partition in partitions]
    config = {**deployment.settings.kafka, "group.id": group_of(deployment.settings)}
    with closing(Consumer(config)) as consumer:
        try:
            return sum(max(0, place.offset) for place in consumer.committed(places, timeout=10))
        except KafkaException as error:
            if error.args[0].code() not in (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS):
                raise
            return 0


def said(deployment: Deployment) -> Figures:
    """What the topic says after compaction."""
    last: Figures = {}
    for record in deployment.read(deployment.settings.topics.trends):
        key = (record.partition, (record.key or b"").decode())
        last.pop(key, None)
        if record.value is not None:
            trend = decode(record.value, (), Trend)
            assert (trend.partition, trend.item_id) == key
            last[key] = tuple((window.count, window.before) for window in trend.windows)
    return last


def recount(deployment: Deployment, log: Sequence[Event]) -> Figures:
    """What must be said of a log: event by event, by each partition's own newest time."""
    interest = Interest(deployment.settings.learning.positives)
    lengths_s = deployment.settings.trends.windows_s
    clocks: dict[int, int] = {}
    for event in log:
        partition = partition_of(event.user_id, PARTITIONS)
        clocks[partition] = max(clocks.get(partition, 0), event.ts)
    found: dict[tuple[int, str], list[list[int]]] = {}
    for event in log:
        if interest.label(event) != WANTED or event.item_id is None:
            continue
        partition = partition_of(event.user_id, PARTITIONS)
        sums = found.setdefault((partition, event.item_id), [[0, 0] for _ in lengths_s])
        for window, length_s in zip(sums, lengths_s, strict=True):
            part_ms = length_s * 1000 // PARTS
            age = clocks[partition] // part_ms - event.ts // part_ms
            if age < 2 * PARTS:
                window[age >= PARTS] += 1
    return {
        key: tuple((count, before) for count, before in sums)
        for key, sums in found.items()
        if any(count for count, _ in sums)
    }


def differences(said: Figures, expected: Figures) -> dict[tuple[int, str], tuple[object, object]]:
    """What is said otherwise than it must be."""
    return {
        key: (said.get(key), expected.get(key))
        for key in said.keys() | expected.keys()
        if said.get(key) != expected.get(key)
    }


def test_two_instances_count_exactly_although_one_is_killed_and_another_joins(deployment: Deployment) -> None:
    log = shop(6_000, users=300, items=150, seed=3, apart_ms=700)  # 70 minutes: things leave the shorter windows
    deployment.send(log[:1_000])
    with ExitStack() as running:
        first = running.enter_context(deployment.trends())
        until(lambda: committed(deployment) > 500, first)
        second = running.enter_context(deployment.trends())
        deployment.send(log[1_000:3_000])
        until(lambda: committed(deployment) > 2_000, second)
        first.kill()
        deployment.send(log[3_000:4_000])
        until(lambda: committed(deployment) == 4_000, second)
        assert differences(said(deployment), recount(deployment, log[:4_000])) == {}
        with deployment.trends() as third:
            deployment.send(log[4_000:5_000])
            until(lambda: committed(deployment) > 4_200, third)
            second.kill()
            deployment.send(log[5_000:])
            until(lambda: committed(deployment) == 6_000, third)
            expected = recount(deployment, log)
            assert len(expected) > 300
            assert differences(said(deployment), expected) == {}
            assert third.stop() == 0, third.said


@pytest.mark.whole
def test_who_is_stopped_in_the_middle_loses_nothing_and_who_comes_says_nothing_twice(deployment: Deployment) -> None:
    log = shop(1_500, users=100, items=80, seed=4)
    late = Event(type=EventType.VIEW, user_id="u", ts=log[0].ts, item_id="a")
    deployment.send([*log[:300], late])
    with deployment.trends() as one:
        until(lambda: committed(deployment) > 100, one)
        deployment.send(log[300:1_000])
        assert one.stop() == 0, one.said
    with deployment.trends() as one:
        until(lambda: committed(deployment) == 1_001, one)
        assert one.stop() == 0, one.said
    records = len(deployment.read(deployment.settings.topics.trends))
    with deployment.trends() as other:
        time.sleep(2)
        assert other.running, other.said
        assert len(deployment.read(deployment.settings.topics.trends)) == records
        deployment.send(log[1_000:])
        until(lambda: committed(deployment) == 1_501, other)
    assert differences(said(deployment), recount(deployment, [*log, late])) == {}


TROUBLED = """
import asyncio, sys, time
from streamrec.cli.commands import trends
from streamrec.config.settings import load_settings
from pathlib import Path

class Blocked(trends.Trends):
    def take(self, message):
        if message.offset == 100:
            time.sleep(10_000)
        super().take(message)

class Waiting(trends.Trends):
    async def _count(self, stream):
        async for event in stream.noack().events():
            self.take(event.message)
            if event.message.offset == 100:
                await asyncio.Event().wait()

class Losing(trends.Trends):
    def take(self, message):
        lost = self.__dict__.setdefault("lost", set())
        if message.offset == 50 and message.partition not in lost:
            lost.add(message.partition)
            return
        super().take(message)

kinds = {"blocked": Blocked, "waiting": Waiting, "losing": Losing}
trends.run(load_settings(Path(sys.argv[1])), kinds[sys.argv[2]])
"""


@pytest.mark.whole
def test_counting_that_hangs_ends_the_process_with_a_reason_within_the_stated_time(
    apache_kafka: EmbeddedBroker, tmp_path: Path
) -> None:
    stall_s = 5.0
    children = []
    for how in ("blocked", "waiting"):
        place = tmp_path / how
        place.mkdir()
        settings = {"emit_every_s": 0.3, "stall_s": stall_s}
        deployment = Deployment(place, apache_kafka.settings, "redis://127.0.0.1:9/0", 1, trends=settings)
        deployment.send(shop(600, seed=5))
        command = [sys.executable, "-c", TROUBLED, str(deployment.config), how]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
        children.append((deployment, child))
    try:
        for deployment, child in children:
            until(lambda child=child: child.poll() is not None, limit_s=60)  # type: ignore[misc]
            said = child.stderr.read() if child.stderr else ""
            assert child.returncode == 1, said
            stood = re.search(r"partition 0 has stood at offset \d+ for (\d+) s, \d+ behind .*: counting hangs", said)
            assert stood is not None, said
            assert stall_s <= int(stood[1]) <= stall_s * (1 + 2 / LOOKS) + BUSY_S
            assert committed(deployment) <= 101
    finally:
        for _, child in children:
            child.kill()
            child.wait()


@pytest.mark.whole
def test_events_that_faust_drops_are_noticed_and_offsets_that_hold_no_record_are_no_loss(
    deployment: Deployment,
) -> None:
    log = shop(600, seed=8)
    brokers = deployment.settings.kafka["bootstrap.servers"]
    producer = Producer({"bootstrap.servers": brokers, "transactional.id": group_of(deployment.settings)})
    producer.init_transactions(20)
    for at in range(0, 600, 150):  # each transaction ends in a marker, which takes an offset and is no record
        producer.begin_transaction()
        for event in log[at : at + 150]:
            partition = partition_of(event.user_id, PARTITIONS)
            producer.produce(deployment.settings.topics.events, encode_event(event), event.user_id, partition)
        producer.commit_transaction(20)
    all_but_the_last_markers = 600 + 3 * PARTITIONS
    command = [sys.executable, "-c", TROUBLED, str(deployment.config), "losing"]
    child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == 1
    assert "events were never delivered" in child.stderr
    assert committed(deployment) < all_but_the_last_markers
    with deployment.trends() as instance:
        until(lambda: committed(deployment) >= all_but_the_last_markers, instance)
    assert differences(said(deployment), recount(deployment, log)) == {}


def test_what_was_aborted_is_not_counted(deployment: Deployment) -> None:
    log, aborted = shop(120, seed=9), shop(60, seed=10)
    brokers = deployment.settings.kafka["bootstrap.servers"]
    producer = Producer({"bootstrap.servers": brokers, "transactional.id": group_of(deployment.settings)})
    producer.init_transactions(20)
    for events, end in ((aborted, producer.abort_transaction), (log, producer.commit_transaction)):
        producer.begin_transaction()
        for event in events:
            partition = partition_of(event.user_id, PARTITIONS)
            producer.produce(deployment.settings.topics.events, encode_event(event), event.user_id, partition)
        producer.flush(20)
        end(20)
    with deployment.trends() as instance:
        until(lambda: len(said(deployment)) >= len(recount(deployment, log)), instance)
        assert instance.stop() == 0
    assert differences(said(deployment), recount(deployment, log)) == {}


def test_a_flush_that_fails_ends_the_process_before_its_offsets_are_committed(deployment: Deployment) -> None:
    topic = ConfigResource(ResourceType.TOPIC, deployment.settings.topics.trends)
    refuse = ConfigEntry("max.message.bytes", "60", incremental_operation=AlterConfigOpType.SET)
    topic.add_incremental_config(refuse)
    admin = AdminClient({"bootstrap.servers": deployment.settings.kafka["bootstrap.servers"]})
    admin.incremental_alter_configs([topic])[topic].result(10)
    deployment.send(shop(200, seed=6))
    with deployment.trends() as refused:
        assert refused.wait() == 1
        assert "a flush failed" in refused.said
    assert committed(deployment) == 0


def test_bad_messages_are_passed_over_and_the_page_shows_them(deployment: Deployment) -> None:
    from streamrec.transport.confluent import KafkaSink

    now_ms = int(time.time() * 1000)
    ahead = Event(type=EventType.VIEW, user_id="u", ts=now_ms + 240_000, item_id="ahead")
    deployment.send([ahead, *[Event(type=EventType.VIEW, user_id="u", ts=now_ms, item_id="mug")] * 3])
    with closing(KafkaSink(deployment.settings.kafka)) as sink:
        for value in (b"{", b"", b'{"type": "view"}'):
            sink.publish(deployment.settings.topics.events, b"u", value)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with deployment.trends("--web-port", str(port)) as instance:
        until(lambda: committed(deployment) == 7, instance)
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/trends", timeout=10).read().decode()
    assert "mug" in page
    assert "empty 1, invalid 1, malformed 1" in page
    # A date ahead of its sending moves no window: both are in the newest five minutes.
    assert {item: figures[0] for (_, item), figures in said(deployment).items()} == {"ahead": (1, 0), "mug": (3, 0)}


def test_a_trends_topic_with_too_few_partitions_is_refused(deployment: Deployment) -> None:
    from streamrec.transport.topics import MissingTopic, apply

    small = f"{deployment.settings.topics.trends}-small"
    apply([MissingTopic(small, PARTITIONS - 1, 1)], deployment.settings.kafka)
    topics = deployment.settings.topics.model_copy(update={"trends": small})
    with pytest.raises(ConfigError, match=f"has {PARTITIONS - 1} partitions, expected {PARTITIONS}"):
        run(deployment.settings.model_copy(update={"topics": topics}))


def answer(deployment: Deployment, worker: WorkerProcess, ts: int) -> Slate:
    """The slate for a request that is sent now and dated `ts`."""
    name = f"asked-{uuid.uuid4()}"
    deployment.send([Event(type=EventType.REQUEST, user_id="user-1", ts=ts, event_id=name, k=10)])
    found: list[Slate] = []

    def answered() -> bool:
        slates = deployment.read(deployment.settings.topics.recommendations)
        found.extend(slate for r in slates if (slate := decode_slate(r.value or b"", r.headers)).request_id == name)
        return bool(found)

    until(answered, worker)
    return found[0]


def test_slates_use_the_trends_and_a_worker_serves_on_without_them(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    learning = {"models": ["popularity", "covisit_recent", "trends"], "device": "cpu"}
    trends = {"emit_every_s": 0.3, "stale_after_s": 600}
    deployment = Deployment(
        tmp_path,
        apache_kafka.settings,
        redis_server.url,
        2,
        learning=learning,
        fusion={"form": "linear"},
        trends=trends,
    )
    log = shop(600, seed=9, items=60)
    deployment.send(log)
    with deployment.trends() as service, deployment.worker() as worker:
        until(lambda: committed(deployment) == len(log), service)

        def used(slate: Slate) -> bool:
            assert slate.stale == ()
            return any("trends" in place.scores for place in slate.items)

        until(lambda: used(answer(deployment, worker, log[-1].ts)), worker)
        service.kill()
        deployment.send(shop(100, seed=10, items=60, start_ms=log[-1].ts + 550_000))
        after = answer(deployment, worker, log[-1].ts + 700_000)
        assert after.stale == ("trends",)
        assert len(after.items) == 10
        assert not any("trends" in place.scores for place in after.items)
        assert worker.stop() == 0, worker.said
