"""A log learned before the first worker starts: the real command on a real broker and a real Redis."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import polars as pl
import pytest
from confluent_kafka import Consumer, Producer

from streamrec.codec import MSGPACK, decode_event, decode_slate, encode_event
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.events import Event, EventType, Slate
from streamrec.state import Kind
from streamrec.state import inspection as inspect
from streamrec.testing import HEADERS, recount, requests, shop
from streamrec.transport import Record
from streamrec.transport.identity import IdentityReader
from streamrec.transport.partitioners import LIBRDKAFKA
from streamrec.transport.positions import TopicReader, group_is_live
from streamrec.wiring import build_store
from streamrec.worker.topic_watch import facts
from tests.support.deployment import Deployment, until

# Young enough for the topic's retention where messages carry the events' own times.
STARTED_MS = time.time_ns() // 1_000_000 - 6 * 3600 * 1000
EVENTS = shop(1_500, seed=5, start_ms=STARTED_MS)
ENDS = 1_000
"""About so many events are learned from the log; the topic holds those from BEGINS on."""
BEGINS = 800
END_MS = EVENTS[ENDS].ts - 1
SMALL = {"max_items": 512}


def parts() -> tuple[list[Event], list[Event], list[Event]]:
    """What is learned from the log; what the topic holds; what of that was not learned."""
    log = [event for event in EVENTS if event.ts <= END_MS]
    return log, EVENTS[BEGINS:], EVENTS[len(log) :]


def without_ids(events: Sequence[Event]) -> list[Event]:
    return [msgspec.structs.replace(event, event_id=None) for event in events]


def write_log(path: Path, events: Sequence[Event]) -> Path:
    rows = [{**msgspec.to_builtins(event), "category": (event.context or {}).get("category")} for event in events]
    pl.DataFrame(rows, infer_schema_length=None).drop("context").write_parquet(path)
    return path


def send_as_they_happened(deployment: Deployment, events: Sequence[Event]) -> None:
    """As a live shop would have: half a second after each event."""
    names = {"bootstrap.servers": deployment.settings.kafka["bootstrap.servers"]}
    producer = Producer({**names, "partitioner": LIBRDKAFKA[deployment.settings.topics.partitioner]})
    for event in events:
        producer.produce(
            deployment.settings.topics.events,
            key=event.user_id.encode(),
            value=encode_event(event, MSGPACK),
            headers=list(HEADERS),
            timestamp=event.ts + 500,
        )
        producer.poll(0)
    assert producer.flush(20) == 0


def warmed_up(deployment: Deployment, log: Path, *options: str) -> str:
    """What `streamrec warmup` printed."""
    done = deployment.command("warmup", str(log), "--map", "context.category=category", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(deployment: Deployment, log: Path, *options: str) -> str:
    """Why `streamrec warmup` did not begin."""
    done = deployment.command("warmup", str(log), *options)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def starts(printed: str) -> dict[int, int]:
    """The table of positions that a warm-up prints."""
    return {int(partition): int(offset) for partition, offset in re.findall(r"│ +(\d+) +│ +(\d+) +│", printed)}


def event_of(record: Record) -> Event:
    return decode_event(record.value, record.headers, max_bytes=65_536, max_depth=8)


def slates(deployment: Deployment) -> list[Slate]:
    published = deployment.read(deployment.settings.topics.recommendations)
    return [decode_slate(record.value or b"", record.headers) for record in published]


def assert_counts_equal_a_recount(deployment: Deployment, events: Sequence[Event]) -> None:
    expected = recount(events)
    with closing(build_store(deployment.settings)) as store:
        users = {name: inspect.user(store, name) for name in expected.users}
        items = {name: inspect.item(store, name) for name in expected.items}
    assert {name: known and known["counts"] for name, known in users.items()} == expected.users
    assert {name: known and known["counts"] for name, known in items.items()} == expected.items


@pytest.mark.parametrize(
    ("kind", "partitions", "partitioner", "sent_live"),
    [
        pytest.param("tansu", 1, "murmur2", False, marks=pytest.mark.whole),
        ("apache_kafka", 4, "crc32", True),
    ],
)
def test_the_live_worker_reads_on_at_the_first_event_that_the_log_does_not_hold(
    request: pytest.FixtureRequest,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
    kind: str,
    partitions: int,
    partitioner: str,
    sent_live: bool,
) -> None:
    log, topic, tail = (without_ids(part) for part in parts())  # nobody can tell a repeat by its id
    broker: EmbeddedBroker = request.getfixturevalue(kind)
    by = {"partitioner": partitioner}
    deployment = Deployment(tmp_path, broker.settings, redis_server.url, partitions, limits=SMALL, topics=by)
    if sent_live:
        send_as_they_happened(deployment, topic)
    else:
        deployment.send(topic)
    expected = dict.fromkeys(range(partitions), 0)
    for record in deployment.read(deployment.settings.topics.events):
        expected[record.partition] += event_of(record).ts <= END_MS
    assert 0 < sum(expected.values()) == len(topic) - len(tail)

    printed = warmed_up(deployment, write_log(tmp_path / "log.parquet", EVENTS), "--until", str(END_MS))
    assert f"learned {len(log):,} events of {len(log):,} rows" in printed
    assert f"{len(recount(log).users)} users" in printed
    assert starts(printed) == expected
    assert_counts_equal_a_recount(deployment, log)
    with closing(build_store(deployment.settings)) as store:
        assert store.known_topic({}) == facts(
            IdentityReader(deployment.settings.topics.events, broker.settings).identity()
        )

    with deployment.worker() as worker:
        until(lambda: deployment.committed() == len(topic), worker)
        assert "are running; stop them first" in refused(deployment, tmp_path / "log.parquet", "--fresh")
        assert worker.stop() == 0
    assert_counts_equal_a_recount(deployment, [*log, *tail])
    asked = [(event.user_id, event.ts) for event in requests(tail)]
    assert sorted((slate.user_id, slate.ts) for slate in slates(deployment)) == sorted(asked)


@pytest.mark.whole
def test_events_that_are_in_both_are_recognised_by_their_ids(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    log, topic, tail = EVENTS[:300], EVENTS[280:320], EVENTS[300:320]
    deployment = Deployment(tmp_path, apache_kafka.settings, redis_server.url, 2, limits=SMALL)
    deployment.send(topic)
    assert starts(warmed_up(deployment, write_log(tmp_path / "log.parquet", log), "--from", "earliest")) == {0: 0, 1: 0}
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == len(topic), worker)
        assert worker.stop() == 0
    assert_counts_equal_a_recount(deployment, [*log, *tail])
    first = next(slate for slate in slates(deployment) if slate.ts == requests(tail)[0].ts)
    assert {place.item_id for place in first.items} - {event.item_id for event in topic} != set()

    assert "checkpoints of 2 partitions" in refused(deployment, tmp_path / "log.parquet")
    begun_anew = json.loads(warmed_up(deployment, tmp_path / "log.parquet", "--fresh", "--from", "latest", "--json"))
    assert sum(begun_anew["starts"].values()) == len(topic)
    assert_counts_equal_a_recount(deployment, log)


@pytest.mark.whole
def test_a_warm_up_that_was_killed_is_not_started_from(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    log = shop(6_000, seed=6, users=400, start_ms=STARTED_MS)
    path = write_log(tmp_path / "log.parquet", log)
    # So few users fit into memory that some are written to Redis long before the end.
    deployment = Deployment(tmp_path, apache_kafka.settings, redis_server.url, 2, limits={**SMALL, "max_users": 60})
    command = [sys.executable, "-m", "streamrec.cli", "warmup", str(path), "--config", str(deployment.config)]

    def written() -> bool:
        with closing(build_store(deployment.settings)) as store:
            return bool(store.find(Kind.USER, "user-0"))

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(written)
        process.kill()
    with deployment.worker() as worker:
        assert worker.wait() == 1
        assert "is sealed: a warm-up is filling it, or was cut short" in worker.said
    warmed_up(deployment, path)
    assert_counts_equal_a_recount(deployment, log)


# Where a moment lies


@pytest.fixture
def surveyed(broker: EmbeddedBroker, make_topic: Callable[[int], str]) -> Iterator[TopicReader]:
    """Two partitions: on the first, records that tell of 1 to 9 s, sent a minute later; none on the other."""
    topic = make_topic(2)
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for n in range(1, 10):
        value = b"" if n == 5 else b"%d" % (STARTED_MS + n * 1_000)
        producer.produce(topic, value, partition=0, timestamp=STARTED_MS + 60_000 + n * 1_000)
        producer.flush(10)  # one by one: Tansu takes a batch for one record when it is asked for the end
    with closing(TopicReader(topic, broker.settings)) as surveyor:
        yield surveyor


def told(record: Record) -> int | None:
    return int(record.value) if record.value else None


def test_a_moment_lies_where_records_tell_of_it_however_late_they_were_sent(surveyed: TopicReader) -> None:
    def since(seconds: float) -> int:
        found = surveyed.since(STARTED_MS + int(seconds * 1_000), told)
        assert found[1] == 0
        return found[0]

    assert [since(at) for at in (-100, 0, 1, 1.5, 3, 9)] == [0, 0, 0, 1, 2, 8]
    assert since(5) == 5  # the one that tells of nothing is passed over
    assert since(9.5) == since(100) == 9


def test_the_ends_of_a_topic(surveyed: TopicReader) -> None:
    assert (surveyed.beginning(), surveyed.end()) == ({0: 0, 1: 0}, {0: 9, 1: 0})
    assert [record.offset for record in surveyed.oldest(3)] == [0, 1, 2]
    assert len(surveyed.oldest(100)) == 9


def test_a_group_lives_while_somebody_reads_as_it(broker: EmbeddedBroker, make_topic: Callable[[int], str]) -> None:
    group = uuid.uuid4().hex
    assert not group_is_live(group, broker.settings)
    member = Consumer({**broker.settings, "group.id": group})
    member.subscribe([make_topic(1)])
    deadline = time.monotonic() + 30
    while not member.assignment():
        assert time.monotonic() < deadline
        member.poll(0.1)
    assert group_is_live(group, broker.settings)
    member.close()
    assert not group_is_live(group, broker.settings)


# What is refused


def test_rows_that_no_worker_would_take_are_left_out_as_far_as_allowed_and_said(
    tansu: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, tansu.settings, redis_server.url, limits=SMALL, preset="fast")
    asked = msgspec.structs.replace(EVENTS[30], type=EventType.REQUEST, scenario="nosuch")
    log = write_log(tmp_path / "log.parquet", [*EVENTS[:30], asked, *EVENTS[30:60]])
    assert "1 of 61 rows cannot be used:\n  row 30: field 'scenario' is 'nosuch'" in refused(deployment, log)
    said = json.loads(warmed_up(deployment, log, "--max-refused", "0.02", "--json"))
    assert (said["events"], said["refused_rows"], said["dead_letters"]) == (60, 1, 0)
    assert (said["refused"]["invalid scenario"]["rows"], said["refused"]["invalid scenario"]["first_row"]) == (1, 30)


def test_what_is_missing_is_told_in_one_line(
    tansu: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, tansu.settings, redis_server.url, limits=SMALL)
    log = write_log(tmp_path / "log.parquet", EVENTS[:50])
    unsorted = write_log(tmp_path / "unsorted.parquet", EVENTS[50::-1])
    assert "sort the log by time" in refused(deployment, unsorted)
    seconds = write_log(tmp_path / "s.parquet", [msgspec.structs.replace(e, ts=e.ts // 1000) for e in EVENTS[:50]])
    assert "seconds? If all rows have them, use --ts-unit s" in refused(deployment, seconds)
    assert "no connection to Redis at redis://127.0.0.1:9/0" in refused(
        deployment, log, "--redis", "redis://127.0.0.1:9/0"
    )
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Deployment(tmp_path / "elsewhere", tansu.settings, redis_server.url, limits=SMALL)
    config = elsewhere.config.read_text("utf-8").replace(elsewhere.settings.topics.events, "nowhere")
    elsewhere.config.write_text(config, encoding="utf-8")
    assert "topic 'nowhere' does not exist; make it: `streamrec topics apply`" in refused(elsewhere, log)
