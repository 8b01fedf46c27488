"""What workers make of the trends: what is said and what is counted here agree, and nobody needs either to serve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.codec import decode_slate, encode
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import MicroBatch
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.learning.quarantine import MODEL
from streamrec.engine.trending.local_counts import LocalTrendCounts
from streamrec.engine.trending.table import BEFORE, COUNT, TrendTable
from streamrec.engine.trending.topic_counts import TopicTrendCounts
from streamrec.engine.trending.windows import Windows, acceleration, rate_per_hour
from streamrec.errors import TransportError
from streamrec.events import Event, Slate, Trend, WindowTrend
from streamrec.state.memory import MemoryStore
from streamrec.testing import records, shop
from streamrec.transport import Record
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.transport.local_follower import LocalFollower
from streamrec.trends.counts import PartitionCounts
from streamrec.trends.totals import TrendTotals
from streamrec.wiring import build_worker
from streamrec.worker.loop import Worker
from streamrec.worker.trends_feed import START_S, TrendsFeed

LENGTHS_S = (20, 60)
ITEMS = 6
CAPACITY = 16
START = 1_704_067_200_000
HOUR_MS = 3_600_000


def table(stale_after_s: float = 900.0, capacity: int = CAPACITY) -> TrendTable:
    return TrendTable(capacity, LENGTHS_S, stale_after_s)


def named(*names: str) -> ItemTable:
    items = ItemTable(CAPACITY)
    for name in names:
        items.intern(name, START)
    return items


def wanted(visits: Sequence[tuple[int, int]]) -> MicroBatch:
    """A micro-batch of (item, ts)."""
    batch = MicroBatch.empty(len(visits), len(visits), 1, 1)
    batch.learned = len(visits)
    batch.examples.item[:] = [item for item, _ in visits]
    batch.examples.ts[:] = [ts for _, ts in visits]
    batch.examples.label[:] = 1
    return batch


def held(table: TrendTable, item: int) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in table.said[item][:, [COUNT, BEFORE]].tolist()]


CUTS = st.lists(
    st.lists(st.tuples(st.integers(0, ITEMS - 1), st.integers(0, 300_000)), min_size=1, max_size=8),
    min_size=1,
    max_size=12,
)


@given(CUTS, st.booleans())
def test_what_is_counted_here_is_what_a_service_would_say(cuts: list[list[tuple[int, int]]], in_order: bool) -> None:
    here, service, board = (
        LocalTrendCounts(table(), 0.001),
        PartitionCounts(0, Windows(LENGTHS_S), 1_000),
        TrendTotals(),
    )
    log = [(item, START + ms) for cut in cuts for item, ms in cut]
    if in_order:
        log.sort(key=lambda visit: visit[1])
    offset, at = 0, 0
    for cut in cuts:
        visits, at = log[at : at + len(cut)], at + len(cut)
        before = service.clock
        here.learn(wanted(visits))
        for item, ts in visits:
            service.take(offset, ts, f"i{item}")
            offset += 1
        if service.clock == before:
            continue  # by log time nothing is due
        flush = service.flush()
        assert flush is not None
        for name, trend in flush.said.items():
            board.take(0, name, trend)
        for item in range(ITEMS):
            says = [(window.count, window.before) for window in board.of(f"i{item}")]
            counted = held(here.table, item)
            assert counted == says if says else not any(count for count, _ in counted)


STATEMENTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, ITEMS - 1),
        st.integers(0, 120_000),
        st.one_of(st.none(), st.tuples(*[st.tuples(st.integers(0, 50), st.integers(0, 50))] * 2)),
    ),
    max_size=30,
)


@given(STATEMENTS, st.integers(0, ITEMS))
def test_statements_add_up_as_the_board_adds_them_whenever_an_item_gets_its_index(
    said: list[tuple[int, int, int, tuple[tuple[int, int], ...] | None]], known_first: int
) -> None:
    items, board = named(*(f"i{n}" for n in range(known_first))), TrendTotals()
    statements = TopicTrendCounts(table(), items, 100)
    for partition, item, ms, counts in said:
        name = f"i{item}"
        if counts is None:
            statements.withdraw(partition, name)
            board.take(partition, name, None)
            continue
        statements.take(partition, name, START + ms, counts)
        windows = tuple(
            WindowTrend(window_s=length_s, count=count, before=before, rate=0.0, acceleration=0.0)
            for length_s, (count, before) in zip(LENGTHS_S, counts, strict=True)
        )
        board.take(partition, name, Trend(item_id=name, partition=partition, ts=START + ms, windows=windows))
        statements.settle()
    for n in range(known_first, ITEMS):
        items.intern(f"i{n}", START)
    statements.settle()
    for n in range(ITEMS):
        expected = [(window.count, window.before) for window in board.of(f"i{n}")]
        assert held(statements.table, items.lookup(f"i{n}")) == (expected or [(0, 0)] * len(LENGTHS_S))


def test_momentum_is_the_demand_of_the_next_windows_if_growth_went_on() -> None:
    here = table()
    here.said[0] = [[12, 5], [40, 90]]
    here.say(2, START)
    expected = sum(
        rate_per_hour(count, length_s) * 2 ** acceleration(count, before)
        for length_s, (count, before) in zip(LENGTHS_S, [(12, 5), (40, 90)], strict=True)
    )
    assert here.log_momentum[0] == pytest.approx(math.log(expected))
    assert here.log_momentum[1] == -np.inf


def test_the_top_is_best_first_and_empty_when_it_is_stale() -> None:
    here = table(capacity=200)
    here.said[:150, 0, COUNT] = np.arange(150) % 50
    here.say(150, START)
    assert here.top(4).tolist() == [49, 99, 149, 48]
    assert len(here.top(1_000)) == 147  # three are in no window
    here.tick(START + 900_000)
    assert len(here.top(4)) == 4
    assert here.age_s == 900
    here.tick(START + 900_001)
    assert len(here.top(4)) == 0


def test_what_never_said_anything_is_absent_and_not_stale() -> None:
    here = table()
    assert not here.stale(START)
    assert not here.stale_at(np.array([START])).any()
    here.say(0, START)
    assert here.stale_at(np.array([START, START + 900_000, START + 900_001])).tolist() == [False, False, True]
    assert here.stale(START + 900_001)


def test_a_forgotten_item_has_no_trend_and_finds_its_own_again_when_it_returns() -> None:
    items = named("a", "b")
    statements = TopicTrendCounts(table(), items, 100)
    statements.take(0, "a", START, [(3, 0), (9, 0)])
    statements.take(1, "a", START, [(1, 0), (1, 0)])
    statements.settle()
    gone = items.make_room(CAPACITY - 1)
    statements.forget(gone)
    statements.settle()
    assert 0 in gone
    assert not statements.table.said.any()
    other, back = items.intern("other", START), items.intern("a", START)
    statements.settle()
    assert held(statements.table, back) == [(4, 0), (10, 0)]
    assert held(statements.table, other) == [(0, 0), (0, 0)]


def test_of_too_many_statements_the_items_longest_unmentioned_leave() -> None:
    statements = TopicTrendCounts(table(), named("a", "b", "c"), 4)
    for partition, name in [(0, "a"), (0, "b"), (1, "b"), (0, "c"), (1, "a"), (2, "a"), (0, "a")]:
        statements.take(partition, name, START, [(1, 0), (1, 0)])
        assert len(statements) <= 4
    statements.settle()
    assert statements.dropped == 1
    assert [held(statements.table, item)[0] for item in range(3)] == [(3, 0), (0, 0), (1, 0)]
    for partition in range(9):
        statements.take(partition, "a", START, [(1, 0), (1, 0)])
    statements.settle()
    assert held(statements.table, 0)[0] == (4, 0)


def test_after_a_restoration_statements_are_where_their_items_are_now() -> None:
    items = named("a", "b")
    statements = TopicTrendCounts(table(), items, 100)
    statements.take(0, "b", START, [(3, 1), (9, 2)])
    statements.settle()
    assert statements.state() == {}
    items.restore(named("x", "y", "z", "b").state())
    statements.restore({})
    assert [held(statements.table, item)[0] for item in range(4)] == [(0, 0), (0, 0), (0, 0), (3, 1)]
    assert np.flatnonzero(statements.table.log_momentum > -np.inf).tolist() == [3]


# As they come


def record(
    value: bytes | None, key: bytes = b"a", partition: int = 0, sent_ms: int = START + HOUR_MS, offset: int = 0
) -> Record:
    return Record("item-trends", partition, offset, key, value, (), sent_ms)


def trend(item: str, ts: int, *counts: int, lengths_s: Sequence[int] = LENGTHS_S) -> bytes:
    windows = tuple(
        WindowTrend(window_s=length_s, count=count, before=0, rate=0.0, acceleration=0.0)
        for length_s, count in zip(lengths_s, counts, strict=True)
    )
    return encode(Trend(item_id=item, partition=0, ts=ts, windows=windows))


def fed(*said: Record) -> tuple[TrendsFeed, TopicTrendCounts]:
    statements = TopicTrendCounts(table(), named("a", "b"), 100)
    feed = TrendsFeed(LocalFollower("item-trends", said), statements, 10_000)
    feed.look()
    return feed, statements


def test_what_cannot_be_used_is_counted_and_passed_over() -> None:
    good = trend("a", START, 3, 9)
    feed, statements = fed(
        record(good),
        record(b"{"),
        record(b"\xff\x00"),
        record(good, key=b"b"),
        record(good, key=b""),
        record(trend("a", START, -1, 9)),
        record(trend("a", START, 1, 2**60)),
        record(trend("a", -5, 1, 2)),
        record(trend("a", START, 1, lengths_s=[77])),
        record(b" " * 10_001),
        record(None, key=b"never-heard-of"),
        record(trend("b", START, 4, lengths_s=[60]), key=b"b"),
    )
    assert feed.refused == {"malformed": 2, "invalid": 4, "keyless": 1, "windows": 1, "too_large": 1}
    assert held(statements.table, 0) == [(3, 0), (9, 0)]
    assert held(statements.table, 1) == [(0, 0), (4, 0)]


def test_a_statement_ahead_of_its_sending_does_not_make_all_others_old() -> None:
    _, statements = fed(record(trend("a", START, 3, 9)), record(trend("b", START + HOUR_MS, 1, 1), b"b", 0, START))
    assert statements.clock == START
    assert held(statements.table, 0) == [(3, 0), (9, 0)]


@dataclass
class Broken(LocalFollower):
    """A topic that nobody may read."""

    def __post_init__(self) -> None:
        super().__init__("item-trends", [record(None)])

    def look(self, most: int, wait_s: float = 0.0) -> Sequence[Record]:
        raise TransportError("not allowed")


def test_a_topic_that_cannot_be_read_and_one_without_end_keep_nobody_from_serving() -> None:
    feed = TrendsFeed(Broken(), TopicTrendCounts(table(), named("a"), 100), 10_000)
    feed.read(0.0, lambda: True)
    feed.look()
    feed.close()
    now = iter(np.arange(0.0, 100.0, 3.0).tolist())
    endless = LocalFollower("item-trends", [record(None)] * 100_000)
    feed = TrendsFeed(endless, TopicTrendCounts(table(), named("a"), 100), 10_000, clock=lambda: next(now))
    feed.read(0.0, lambda: True)
    assert not endless.whole()
    assert next(now) < START_S + 10


# A worker


def worker(
    log: list[Event], trends: LocalFollower | None, models: tuple[str, ...] = (), **settings: object
) -> tuple[Worker, LocalSink]:
    chosen = Settings.model_validate(
        {
            "learning": {"models": ("popularity", "repeats", *models)},
            "fusion": {"form": "linear"},
            "limits": {"max_items": 1_024},
            "trends": {"windows_s": LENGTHS_S, **settings},
        }
    )
    sink = LocalSink()
    source = LocalSource("user-events", records("user-events", log))
    return build_worker(chosen, source, sink, MemoryStore(), None, trends=trends), sink


def slates(sink: LocalSink) -> list[Slate]:
    return [decode_slate(found.value or b"", found.headers) for found in sink.records("recommendations")]


LOG = shop(1_500, seed=5)
MIDDLE_MS = (LOG[0].ts + LOG[-1].ts) // 2


def test_slates_use_what_is_said_until_it_is_too_old_and_then_say_so() -> None:
    said = [record(trend(f"item-{n}", MIDDLE_MS, n, 90), f"item-{n}".encode(), sent_ms=0) for n in (7, 8)]
    working, sink = worker(LOG, LocalFollower("item-trends", said), ("trends",), stale_after_s=60)
    working.run()
    found = slates(sink)
    assert len(found) > 200
    for slate in found:
        late = slate.ts > MIDDLE_MS + 60_000
        assert slate.stale == (("trends",) if late else ())
        if late:
            assert not any("trends" in place.scores for place in slate.items)
    raised = [place for slate in found for place in slate.items if place.shares.get("trends", 0.0) > 0.2]
    assert {place.item_id for place in raised} <= {"item-7", "item-8"}
    assert len(raised) > 20
    metrics = {sample.name: sample.value for family in working.metrics.registry.collect() for sample in family.samples}
    assert metrics["streamrec_trends_age_seconds"] > 60


def test_a_worker_that_hears_nothing_serves_and_calls_nothing_stale() -> None:
    working, sink = worker(LOG, LocalFollower("item-trends"), ("trends",))
    working.run()
    assert len(slates(sink)) > 200
    assert not any(slate.stale for slate in slates(sink))


def test_what_is_said_is_known_though_no_model_scores_by_it() -> None:
    said = LocalFollower("item-trends", [record(trend("item-7", LOG[-1].ts, 90, 90), b"item-7", sent_ms=0)])
    working, sink = worker(LOG, said)
    working.run()
    features = working.pipeline.features
    assert features.trends is not None
    assert [features.items.ids[item] for item in features.trends.table.top(5)] == ["item-7"]
    assert "trends" not in working.pipeline.fusion.models
    assert not any("trends" in place.scores for slate in slates(sink) for place in slate.items)


def test_without_a_topic_trends_are_counted_here_when_somebody_asks_for_them() -> None:
    idle, _ = worker(LOG, None)
    assert idle.pipeline.features.trends is None
    by_model, _ = worker(LOG, None, ("trends",))
    alone, _ = worker(LOG, None, rehearse=True)
    for working in (by_model, alone):
        working.run()
        trends = working.pipeline.features.trends
        assert trends is not None
        assert len(trends.table.top(5)) == 5
        assert trends.table.clock > LOG[-1].ts - 60_000


def test_counts_made_here_are_in_a_snapshot_and_statements_are_not() -> None:
    counting, _ = worker(LOG, None, ("trends",))
    counting.run()
    state = counting.pipeline.state()
    again, _ = worker(LOG, None, ("trends",))
    again.pipeline.restore(state)
    kept = MODEL + "trends"
    restored = again.pipeline.state()[kept]
    assert restored.keys() == state[kept].keys()
    assert len(restored) > 3
    assert all(restored[name].tobytes() == state[kept][name].tobytes() for name in restored)
    said = LocalFollower("item-trends", [record(trend("item-7", LOG[-1].ts, 90, 90), b"item-7", sent_ms=0)])
    told, _ = worker([], said, ("trends",))
    told.run()
    told.pipeline.restore(state)  # a warm-up's
    assert told.pipeline.state()[kept] == {}
    features = told.pipeline.features
    assert features.trends is not None
    assert [features.items.ids[item] for item in features.trends.table.top(5)] == ["item-7"]
