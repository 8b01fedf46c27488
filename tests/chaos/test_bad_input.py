"""Messages made to break whoever reads them, a log of nothing else, and a log whose beginning is gone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from streamrec.codec import decode_event
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.events import EventType
from tests.chaos.hostile import DAY_MS, HOSTILE, JUDGED_BY_WORKER, Headers
from tests.chaos.scene import GROUPS, Scene
from tests.chaos.workers import FAILED
from tests.support.deployment import Deployment, until
from tests.support.oracle import assert_counts_equal_a_recount, assert_each_request_has_its_answer

LARGEST_SENT_BYTES = 900_000
"""A broker takes no more than a megabyte by default: what is larger never arrives."""
GENTLE_PER_S = 200
ROUNDS = 5
"""Of clean and beset times in turn: what else the machine is busy with strikes some of them, clean or not, so that the
best of each are compared."""
ONE_IN = 100
NOISE_S = 0.5
"""Two quantiles of a few hundred latencies differ by so much, or threefold, on a machine that has other work. A message
that takes seconds shows all the same; that each is refused in milliseconds is counted elsewhere."""
Sent = tuple[str, bytes | None, bytes | None]


def corpus() -> list[tuple[str, bytes | None, bytes | None, Headers]]:
    """Every hostile message that a broker takes, made for now: reason, key, value, headers."""
    now_ms = int(time.time() * 1000)
    judged = [(each.reason, each.build(now_ms)) for each in JUDGED_BY_WORKER]
    return [
        *((each.reason, each.key, each.value, each.headers) for each in HOSTILE),
        *((reason, fields.key, fields.value, fields.headers) for reason, fields in judged),
    ]


def dead_letters(deployment: Deployment) -> Counter[Sent]:
    """What is in the dead-letter topic: reason, key and value."""
    records = deployment.read(deployment.settings.topics.dead_letters)
    return Counter((dict(record.headers)["reason"].decode(), record.key, record.value) for record in records)


def latencies_s(scene: Scene) -> dict[str | None, float]:
    """Per request, from its sending to its first slate, as the log's clocks have it."""
    topics = scene.deployment.settings.topics
    asked: dict[str | None, int] = {}
    for record in scene.deployment.read(topics.events):
        if record.key is not None and record.key.startswith(b"user-"):
            event = decode_event(record.value, record.headers)
            if event.type in (EventType.REQUEST, EventType.SEARCH):
                asked[event.event_id] = record.timestamp_ms
    answered: dict[str | None, int] = {}
    records = scene.deployment.read(topics.recommendations)
    for record, slate in zip(records, scene.slates(), strict=True):
        answered.setdefault(slate.request_id, record.timestamp_ms)
    return {request_id: (answered[request_id] - sent_ms) / 1000 for request_id, sent_ms in asked.items()}


def test_hostile_messages_are_put_aside_with_their_reason_and_slow_nobody_down(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int, whole: bool
) -> None:
    now_ms = int(time.time() * 1000)
    limits = {**GROUPS["limits"], "max_behind_s": 30 * DAY_MS / 1000}
    scene = Scene(tmp_path, apache_kafka.settings, redis_server.url, seed=seed, start_ms=now_ms - DAY_MS, limits=limits)
    hostile = [each for each in corpus() if len(each[2] or b"") < LARGEST_SENT_BYTES]
    scene.draw.shuffle(hostile)
    sent: Counter[Sent] = Counter()
    phase = ONE_IN * (len(hostile) // ROUNDS - 1) if whole else 2 * GENTLE_PER_S
    phases: list[set[str | None]] = [set() for _ in range(2 * ROUNDS)]  # whose requests came when: clean, beset, clean
    with scene.worker() as worker, closing(scene.sink()) as sink:
        waiting = iter(hostile)
        topic = scene.deployment.settings.topics.events

        def send_one() -> None:
            reason, key, value, headers = next(waiting)
            sink.publish(topic, key, value, headers)
            sent[reason, key, value] += 1

        scene.send(200)
        scene.until_caught_up(worker)
        began = time.monotonic()
        for number, event in enumerate(islice(scene.events, phase * len(phases))):
            scene.publish(sink, event)
            phases[number // phase].add(event.event_id)
            if number // phase % 2 and number % ONE_IN == 0:
                send_one()
            time.sleep(max(0.0, began + number / GENTLE_PER_S - time.monotonic()))
        for event in islice(scene.events, len(hostile) - sent.total()):  # and the rest of them, all at once
            send_one()
            scene.publish(sink, event)
        sink.flush(30.0)
        scene.send(60)  # a partition's position stays before the unusable messages at its end
        until(lambda: scene.committed() == len(scene.sent) + len(hostile), worker)
        assert worker.metric("streamrec_dead_letters") == len(hostile)
        assert worker.stop() == 0
    assert dead_letters(scene.deployment) == sent
    with scene.store() as store:
        assert_counts_equal_a_recount(store, scene.sent)
    took = latencies_s(scene)
    p99_s = [np.quantile([s for request, s in took.items() if request in phase], 0.99) for phase in phases]
    clean_s, beset_s = float(min(p99_s[::2])), float(min(p99_s[1::2]))  # what slows down always slows the best too
    print(f"p99 of slate latency: {clean_s * 1000:.0f} ms clean, {beset_s * 1000:.0f} ms with 1% hostile")
    assert beset_s <= max(3 * clean_s, clean_s + NOISE_S)


def test_a_message_as_large_as_a_broker_takes_is_put_aside_too(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int
) -> None:
    scene = Scene(tmp_path, apache_kafka.settings, redis_server.url, seed=seed, partitions=1)
    producer = Producer({"bootstrap.servers": apache_kafka.bootstrap, "message.max.bytes": 1_048_588, "linger.ms": 0})
    producer.produce(scene.deployment.settings.topics.events, key=b"k", value=b"\xff" * 1_048_000)
    assert producer.flush(10) == 0
    scene.send(50)
    with scene.worker() as worker:
        until(lambda: scene.committed() == 51, worker)
        assert worker.stop() == 0
    (dead_letter,) = scene.deployment.read(scene.deployment.settings.topics.dead_letters)
    assert dict(dead_letter.headers)["reason"] == b"too_large"


def test_a_log_of_nothing_but_hostile_messages_stops_the_worker_and_stays_unread(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int
) -> None:
    limits = {**GROUPS["limits"], "max_bad_in_a_row": 25}
    scene = Scene(tmp_path, apache_kafka.settings, redis_server.url, seed=seed, partitions=1, limits=limits)
    scene.send(100)
    with scene.worker() as worker:
        scene.until_caught_up(worker)
        small = [each for each in HOSTILE if len(each.value or b"") < 1_000]
        scene.draw.shuffle(small)
        with closing(scene.sink()) as sink:
            for each in islice(cycle(small), 60):
                sink.publish(scene.deployment.settings.topics.events, each.key, each.value, each.headers)
        assert worker.wait() == FAILED
    for _ in range(2):
        assert "25 messages in a row could not be used" in worker.said
        assert scene.committed() == 100
        with scene.worker() as worker:
            assert worker.wait() == FAILED
    scene.assert_exact()


# A log whose beginning is gone


def delete_before(scene: Scene, offsets: Mapping[int, int]) -> None:
    """Let the broker delete the records before an offset of each partition."""
    topic = scene.deployment.settings.topics.events
    client = AdminClient({"bootstrap.servers": str(scene.deployment.settings.kafka["bootstrap.servers"])})
    places = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
    for future in client.delete_records(places).values():
        future.result(20)


def with_gap(scene: Scene, number: int) -> dict[int, int]:
    """Stop a deployment and delete the first unread records, `number` of each partition; where it stands."""
    scene.send(300)
    with scene.worker() as worker:
        scene.until_caught_up(worker)
        assert worker.stop() == 0
    stands = {partition: mark.watermark or 0 for partition, mark in scene.marks().items()}
    scene.send(300)
    delete_before(scene, {partition: watermark + number for partition, watermark in stands.items()})
    return stands


def test_a_gap_before_the_log_s_start_stops_the_worker(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int
) -> None:
    scene = Scene(tmp_path, apache_kafka.settings, redis_server.url, seed=seed)
    stands = with_gap(scene, 20)
    for _ in range(2):
        with scene.worker() as worker:
            assert worker.wait() == FAILED
        assert "records were deleted before they were read" in worker.said
        assert "Traceback" not in worker.said
    assert {partition: mark.watermark for partition, mark in scene.marks().items()} == stands
    scene.assert_no_half_write()


def test_a_gap_before_the_log_s_start_is_passed_over_and_counted_where_that_was_asked_for(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, seed: int
) -> None:
    checkpoints = {"interval_s": 0.3, "share": 0.5, "on_gap": "skip"}
    scene = Scene(tmp_path, apache_kafka.settings, redis_server.url, seed=seed, checkpoints=checkpoints)
    gap = 20
    stands = with_gap(scene, gap)
    with scene.worker() as worker:
        scene.until_caught_up(worker)
        until(lambda: worker.metric("streamrec_skipped_records_total") == gap * len(stands), worker)
        assert worker.stop() == 0
    kept = [
        event
        for partition, log in enumerate(scene.by_partition())
        for event in [*log[: stands[partition]], *log[stands[partition] + gap :]]
    ]
    with scene.store() as store:
        assert_counts_equal_a_recount(store, kept)
    assert_each_request_has_its_answer(scene.slates(), kept)
