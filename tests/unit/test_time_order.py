"""Several partitions read as one log, in one worker and over several."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.codec import CONTENT_TYPE, JSON, MSGPACK, encode_event
from streamrec.config.groups import preset_settings
from streamrec.config.settings import Settings
from streamrec.errors import StateUnavailable
from streamrec.events import Event, EventType
from streamrec.state.memory import MemoryStore
from streamrec.testing import records, shop
from streamrec.testing.transports import Reader
from streamrec.transport import Record, Source, time_order
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.transport.time_order import TimeOrderedSource
from streamrec.wiring import build_worker
from streamrec.worker.drift import AGAIN_S, SELDOM_S, STILL_S, Drift
from streamrec.worker.memory import Clocks
from streamrec.worker.validation import log_time

HOUR_S, HOUR_MS = 3_600, 3_600_000


def log(*partitions: Sequence[int]) -> list[Record]:
    """Records that hold nothing but their time, by partition."""
    return [
        Record("t", partition, offset, b"k", b"x" * 100, timestamp_ms=ms)
        for partition, times in enumerate(partitions)
        for offset, ms in enumerate(times)
    ]


def ordered(
    records: list[Record], partitions: int, limit: time_order.Limit = lambda heads, oldest: None
) -> TimeOrderedSource:
    source = TimeOrderedSource(
        LocalSource("t", records, partitions=partitions), lambda record: record.timestamp_ms, limit
    )
    source.subscribe(Reader())
    return source


def read(source: TimeOrderedSource, portion: int = 512) -> list[Record]:
    records: list[Record] = []
    while not source.exhausted():
        records += source.poll(portion, 0.0)
    return records


def spread(count: int, partitions: int, seed: int = 1) -> list[Record]:
    """A history, one second from record to record, each on a partition drawn at random, some partitions oftener."""
    draw = random.Random(seed)
    times: list[list[int]] = [[] for _ in range(partitions)]
    for second in range(count):
        times[min(int(draw.expovariate(1)), partitions - 1)].append(second * 1_000)
    return log(*times)


@pytest.mark.parametrize("portion", [1, 100, 512])
def test_a_history_over_six_partitions_is_read_as_it_happened(portion: int) -> None:
    records = spread(3_000, 6)
    came = [record.timestamp_ms for record in read(ordered(records, 6), portion)]
    assert came == sorted(record.timestamp_ms for record in records)


@given(st.lists(st.lists(st.integers(0, 50), max_size=30), min_size=1, max_size=4), st.integers(1, 9))
def test_whatever_the_times_each_record_comes_once_and_in_the_order_of_its_partition(
    times: list[list[int]], portion: int
) -> None:
    came = read(ordered(log(*times), len(times)), portion)
    for partition, own in enumerate(times):
        assert [r.offset for r in came if r.partition == partition] == list(range(len(own)))


def test_a_record_dated_ahead_of_its_neighbours_keeps_nobody_waiting() -> None:
    came = read(ordered(log([1, 9_999, 3, 5], [2, 4, 6]), 2))
    assert [record.timestamp_ms for record in came] == [1, 2, 9_999, 3, 4, 5, 6]


def test_what_waits_is_bounded_and_partitions_that_run_ahead_are_not_fetched_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time_order, "MOST_RECORDS", 200)
    records = log([*range(1_000)], [5_000 + n for n in range(1_000)])  # one lies behind the other
    source, most = ordered(records, 2), 0
    came = []
    while not source.exhausted():
        came += source.poll(50, 0.0)
        most = max(most, sum(len(waiting.records) for waiting in source._waiting.values()))
    assert [record.timestamp_ms for record in came] == sorted(record.timestamp_ms for record in records)
    assert most <= 200 + 2 * 50


def test_bytes_that_wait_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_order, "MOST_BYTES", 200 * 100)
    source = ordered(log([*range(1_000)], [5_000 + n for n in range(1_000)]), 2)
    most = 0
    while not source.exhausted():
        source.poll(50, 0.0)
        most = max(most, sum(waiting.bytes for waiting in source._waiting.values()))
    assert most <= (200 + 2 * 50) * 100


class Stuck(LocalSource):
    """A log whose partition 1 gives nothing, though it should."""

    stuck = True

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        self.hold([1] if self.stuck else [])
        return super().poll(max_records, timeout_s)


def test_a_partition_that_gives_nothing_is_waited_for_a_while_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(time_order, "PATIENCE_S", 0.05)
    stuck = Stuck("t", log([1, 2, 3], [4, 5]), partitions=2)
    source = TimeOrderedSource(stuck, lambda record: record.timestamp_ms)
    source.subscribe(Reader())
    assert source.poll(10, 0.01) == []
    came: list[Record] = []
    while len(came) < 3:
        came += source.poll(10, 0.01)
    assert "a partition gives nothing; it is not waited for partition=1 to_come=2" in caplog.text
    stuck.stuck = False
    assert [record.timestamp_ms for record in source.poll(10, 0.0)] == [4, 5]


def test_what_is_fetched_and_not_handed_out_is_lag_and_is_lost_to_nobody() -> None:
    source = ordered(log([*range(20)], [*range(20)]), 2)
    assert len(source.poll(8, 0.0)) == 8
    assert sum(source.lag().values()) == 32
    source.seek({0: 0})
    assert [r.offset for r in read(source) if r.partition == 0] == [*range(20)]


# The time that a record counts at.


@pytest.mark.parametrize("content", [JSON, MSGPACK])
def test_a_record_counts_at_its_events_time_but_not_later_than_its_own(content: str) -> None:
    value = encode_event(Event(type=EventType.CLICK, user_id="u", ts=5_000, item_id="i"), content)

    def at(sent_ms: int, value: bytes | None = value) -> int:
        return log_time(Record("t", 0, 0, b"u", value, ((CONTENT_TYPE, content.encode()),), sent_ms), 1_000)

    assert [at(9_000), at(0), at(4_000)] == [5_000, 5_000, 4_000]
    assert [at(7_000, b"{"), at(7_000, None), at(7_000, b" " * 2_000), at(7_000, b'{"ts":"x"}')] == [7_000] * 4


# Several workers.


class Time:
    """A clock that stands until it is moved; by the wall it is long after every log here."""

    def __init__(self, wall_ms: int = 10**12) -> None:
        self.now_s = 0.0
        self.clocks = Clocks(lambda: self.now_s, lambda: wall_ms)


def test_no_partition_runs_further_ahead_of_the_slowest_than_it_may() -> None:
    day = [spread(6_000, 2, seed) for seed in (1, 2)]
    store, time = MemoryStore(), Time()
    backlogs = [[r.timestamp_ms for r in records] for records in day]
    left = [sorted(backlog) for backlog in backlogs]
    workers = []
    for number, history in enumerate(day):
        drift = Drift(store.exchange, 600, time.clocks)

        def limit(
            heads: Mapping[int, int | None], oldest: int, drift: Drift = drift, number: int = number
        ) -> int | None:
            return drift.limit({2 * number + partition: head for partition, head in heads.items()}, oldest)

        workers.append(ordered(history, 2, limit))
    for source in workers:
        source.poll(0, 0.0)  # joins
    draw, furthest = random.Random(3), 0
    while any(left):
        time.now_s += 0.05
        number = 0 if draw.random() < 0.8 else 1  # one is faster than the other
        for record in workers[number].poll(200, 0.0):
            left[number].remove(record.timestamp_ms)
            other = left[1 - number]
            if len(other) > 2 * time_order.BACKLOG_RECORDS:
                furthest = max(furthest, record.timestamp_ms - other[0])
    assert 500_000 < furthest <= 600_000


def test_a_gap_longer_than_the_drift_stops_nobody() -> None:
    store, time = MemoryStore(), Time()
    ours, theirs = (Drift(store.exchange, HOUR_S, time.clocks) for _ in range(2))
    assert ours.limit({0: 10 * HOUR_MS}, 0) is None
    assert theirs.limit({1: 20 * HOUR_MS}, 0) == 11 * HOUR_MS
    time.now_s += 1
    assert ours.limit({0: 30 * HOUR_MS}, 0) == 21 * HOUR_MS
    time.now_s += 1
    assert theirs.limit({1: 20 * HOUR_MS}, 0) == 31 * HOUR_MS


def test_a_partition_that_stands_still_is_left_behind_and_said(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    drift = Drift(lambda heads: {**{p: ms for p, ms in heads.items() if ms is not None}, 7: 0}, HOUR_S, time.clocks)
    assert drift.limit({0: HOUR_MS}, 0) == HOUR_MS
    time.now_s += STILL_S - 1
    assert drift.limit({0: HOUR_MS}, 0) == HOUR_MS
    time.now_s += 1
    assert drift.limit({0: HOUR_MS}, 0) is None
    time.now_s += 1
    assert drift.limit({0: HOUR_MS}, 0) is None
    assert caplog.text.count("a partition stands still; it is not waited for partition=7") == 1


def test_what_people_do_now_waits_for_nobody() -> None:
    drift = Drift(lambda heads: {7: 0}, HOUR_S, Time(wall_ms=100 * HOUR_MS).clocks)
    assert drift.limit({0: None}, 99 * HOUR_MS) == HOUR_MS
    assert drift.limit({0: None}, 99 * HOUR_MS + 1) is None


def test_a_store_that_is_away_from_the_start_is_asked_now_and_then() -> None:
    time, asked = Time(), []

    def exchange(heads: Mapping[int, int | None]) -> Mapping[int, int]:
        asked.append(heads)
        raise StateUnavailable("away")

    drift = Drift(exchange, HOUR_S, time.clocks)
    for _ in range(20):
        time.now_s += AGAIN_S / 10
        assert drift.limit({0: None}, 0) is None
    assert len(asked) == 2


def test_the_last_limit_holds_while_the_store_is_away() -> None:
    time, asked = Time(), []

    def exchange(heads: Mapping[int, int | None]) -> Mapping[int, int]:
        asked.append(heads)
        if len(asked) == 2:
            raise StateUnavailable("away")
        return {7: 0}

    drift = Drift(exchange, HOUR_S, time.clocks)
    assert drift.limit({0: None}, 0) == HOUR_MS
    time.now_s += SELDOM_S
    assert drift.limit({0: None}, 0) == HOUR_MS
    time.now_s += AGAIN_S - 1
    assert drift.limit({0: None}, 0) == HOUR_MS
    assert len(asked) == 2


# What a history teaches.


def hits(log: list[Record], partitions: int, in_order: bool = True) -> dict[str, float]:
    """Wanted items in the first ten of each list, before they were learned, by list."""
    settings = Settings.model_validate({**preset_settings("fast"), "limits": {"max_items": 512, "max_users": 500}})
    source: Source = LocalSource(settings.topics.events, log, partitions=partitions)
    if in_order:
        source = TimeOrderedSource(source, lambda record: log_time(record, 65_536))
    worker = build_worker(settings, source, LocalSink(keep=1), MemoryStore(), None)
    worker.run()
    return {
        sample.labels["list"]: sample.value
        for family in worker.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "streamrec_hits_total"
    }


def test_a_history_over_six_partitions_teaches_each_model_what_it_teaches_over_one() -> None:
    log = shop(3_000, users=100, items=150, seed=4, apart_ms=60_000)
    one, six = (hits(records("user-events", log, partitions), partitions) for partitions in (1, 6))
    assert one.keys() == six.keys()
    assert min(one.values()) > 50
    for name, count in one.items():
        assert six[name] == pytest.approx(count, rel=0.02), name
