"""Windowed counts equal a recount by brute force, whatever the order, and whatever was read again."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.codec import decode, encode
from streamrec.engine.trending.windows import PARTS, SHRINKAGE, Windows, acceleration
from streamrec.errors import ConfigError
from streamrec.events import Trend
from streamrec.trends.counts import CATEGORY, EVERYTHING, ITEM, RANKED, Flush, PartitionCounts
from streamrec.trends.page import trends_page
from streamrec.trends.totals import TrendTotals
from streamrec.trends.watchdog import Watchdog

WINDOWS = Windows((20, 60))
"""Parts of one and of three seconds."""
START = 1_704_067_200_000


@dataclass(frozen=True)
class Wanted:
    """An event, as far as it is counted."""

    item: str | None
    ts: int
    category: str | None = None


EVENTS = st.lists(
    st.builds(
        Wanted,
        st.sampled_from(["a", "b", "c", "d", None]),
        st.integers(0, 300_000).map(lambda ms: START + ms),
        st.sampled_from(["x", "y", None]),
    ),
    min_size=1,
    max_size=60,
)


class Table:
    """What was said and kept so far, as the topic and the changelog hold it."""

    def __init__(self) -> None:
        self.said: dict[str, Trend] = {}
        self.kept: dict[str, bytes] = {}

    def write(self, flush: Flush | None, most: int | None = None) -> None:
        """All of it, or the first `most` of what is kept, as when a process dies in the middle."""
        if flush is None:
            return
        for item, trend in flush.said.items():
            self.said.pop(item, None)
            if trend is not None:
                self.said[item] = trend
        for subject, value in list(flush.kept.items())[:most]:
            self.kept.pop(subject, None)
            if value is not None:
                self.kept[subject] = value


def counts_of(table: Table | None = None, most: int = 1_000) -> PartitionCounts:
    counts = PartitionCounts(0, WINDOWS, most)
    if table is not None:
        counts.restore(table.kept.items())
    return counts


def take_all(counts: PartitionCounts, log: list[Wanted], first: int = 0) -> None:
    for offset, event in enumerate(log[first:], start=first):
        counts.take(offset, event.ts, event.item, event.category)


def recount(log: list[Wanted]) -> dict[str, list[int]]:
    """Count and before of each window, event by event, by the newest time of all."""
    clock = max(event.ts for event in log)
    held: dict[str, list[int]] = {}
    for event in log:
        if event.item is None:
            continue
        for at, length_s in enumerate(WINDOWS.lengths_s):
            part_ms = length_s * 1000 // PARTS
            age = clock // part_ms - event.ts // part_ms
            subjects = [ITEM + event.item, EVERYTHING] + ([CATEGORY + event.category] if event.category else [])
            for subject in subjects:
                if age < 2 * PARTS:
                    held.setdefault(subject, [0, 0, 0, 0])[2 * at + (age >= PARTS)] += 1
    return held


def figures(trend: Trend) -> list[int]:
    return [figure for window in trend.windows for figure in (window.count, window.before)]


def expected(log: list[Wanted]) -> dict[str, list[int]]:
    """What must be said of items."""
    return {
        subject.removeprefix(ITEM): sums
        for subject, sums in recount(log).items()
        if subject.startswith(ITEM) and any(sums[::2])
    }


def said(table: Table) -> dict[str, list[int]]:
    return {item: figures(trend) for item, trend in table.said.items()}


@given(EVENTS)
def test_counts_equal_a_recount_by_brute_force(log: list[Wanted]) -> None:
    counts, table = counts_of(), Table()
    take_all(counts, log)
    table.write(counts.flush())
    assert said(table) == expected(log)
    for subject, sums in recount(log).items():
        assert list(counts.sums(subject)) == sums


@given(EVENTS, st.sets(st.integers(0, 60)))
def test_how_often_it_is_said_changes_nothing(log: list[Wanted], flush_after: set[int]) -> None:
    counts, table = counts_of(), Table()
    for offset, event in enumerate(log):
        counts.take(offset, event.ts, event.item, event.category)
        if offset in flush_after:
            table.write(counts.flush())
    table.write(counts.flush())
    assert said(table) == expected(log)


@given(EVENTS, st.randoms(use_true_random=False))
def test_the_order_of_events_changes_nothing(log: list[Wanted], draw: object) -> None:
    mixed = list(log)
    draw.shuffle(mixed)  # type: ignore[attr-defined]
    one, other = Table(), Table()
    for table, order in ((one, log), (other, mixed)):
        counts = counts_of()
        take_all(counts, order)
        table.write(counts.flush())
    assert one.said == other.said


@settings(max_examples=300)
@given(st.data(), EVENTS)
def test_nothing_counts_twice_after_a_crash_in_the_middle_of_a_flush(data: st.DataObject, log: list[Wanted]) -> None:
    table, committed = Table(), 0
    for _ in range(data.draw(st.integers(1, 3), label="crashes")):
        counts, at = counts_of(table), committed
        for _ in range(data.draw(st.integers(0, 3), label="whole flushes")):
            end = data.draw(st.integers(at, len(log)), label="flushed at")
            take_all(counts, log[:end], at)
            table.write(counts.flush())
            at = end
            if data.draw(st.booleans(), label="offsets committed too"):
                committed = at
        end = data.draw(st.integers(at, len(log)), label="died at")
        take_all(counts, log[:end], at)
        flush = counts.flush()
        table.write(flush, most=data.draw(st.integers(0, 4), label="kept of the last flush"))
    counts = counts_of(table)
    take_all(counts, log, committed)
    table.write(counts.flush())
    assert said(table) == expected(log)
    again = counts_of(table)
    for subject, sums in recount(log).items():
        assert list(again.sums(subject)) == sums


@given(EVENTS, st.data())
def test_nothing_counts_twice_when_it_is_delivered_twice(log: list[Wanted], data: st.DataObject) -> None:
    counts, table = counts_of(), Table()
    read = 0
    while read < len(log):
        back = data.draw(st.integers(0, read), label="seek back to")
        read = data.draw(st.integers(read + 1, len(log)), label="read up to")
        take_all(counts, log[:read], back)
        if data.draw(st.booleans(), label="flush"):
            table.write(counts.flush())
    table.write(counts.flush())
    assert said(table) == expected(log)


def test_only_what_changed_is_said_again() -> None:
    counts = counts_of()
    take_all(counts, [Wanted("a", START), Wanted("b", START)])
    first = counts.flush()
    assert first is not None
    assert set(first.said) == {"a", "b"}
    assert counts.flush() is None
    counts.take(2, START, "b")
    second = counts.flush()
    assert second is not None
    assert second.said["b"] is not None
    assert second.said["b"].windows[0].count == 2
    counts.take(3, START)  # a request, say: the position moves, nothing is to be said
    third = counts.flush()
    assert third is not None
    assert not third.said
    assert set(third.kept) == {EVERYTHING}


def test_what_leaves_all_windows_gets_a_tombstone_and_is_forgotten() -> None:
    counts, table = counts_of(), Table()
    counts.take(0, START, "a")
    table.write(counts.flush())
    assert set(table.said) == {"a"}
    counts.take(1, START + 61_000, "b")  # past the longest window, within the one before
    flush = counts.flush()
    assert flush is not None
    assert flush.said["a"] is None
    table.write(flush)
    assert ITEM + "a" in table.kept
    counts.take(2, START + 200_000, "b")
    table.write(counts.flush())
    assert set(table.said) == {"b"}
    assert ITEM + "a" not in table.kept
    assert len(counts) == 2  # b, and everything


def test_a_late_event_counts_where_its_window_is_still_open() -> None:
    counts = counts_of()
    counts.take(0, START + 50_000, "a")
    counts.take(1, START + 5_000, "a")  # 45 s late: too late for 20 s and the 20 before, not for 60
    counts.flush()
    assert counts.sums(ITEM + "a") == (1, 0, 2, 0)
    counts.take(2, START - 500_000, "late")
    flush = counts.flush()
    assert flush is not None
    assert "late" not in flush.said


def test_memory_is_bounded_and_the_least_active_leave() -> None:
    counts, table = counts_of(most=80), Table()
    offset = 0
    for number in range(1_000):
        for item in ("busy", f"once-{number}"):
            counts.take(offset, START + number, item)
            offset += 1
        assert len(counts) <= 80
        if number % 7 == 0:
            table.write(counts.flush())
    table.write(counts.flush())
    assert len(table.said) < 80
    assert len(table.kept) == len(counts)
    assert figures(table.said["busy"]) == [1_000, 0, 1_000, 0]
    assert "once-999" in table.said


def test_ranks_go_by_acceleration_and_few_events_say_little() -> None:
    counts = counts_of()
    log = [Wanted("old", START)] * 50 + [Wanted("old", START + 20_000)] * 100  # twice as many
    log += [Wanted("new", START + 20_000)] * 20  # out of nothing
    log += [Wanted("rare", START + 20_000), Wanted("dull", START + 20_000), Wanted("dull", START)]
    take_all(counts, log)
    flush = counts.flush()
    assert flush is not None
    windows = {item: trend.windows[0] for item, trend in flush.said.items() if trend is not None}
    assert {item: window.rank for item, window in windows.items()} == {"new": 1, "old": 2, "rare": 3, "dull": None}
    assert windows["old"].acceleration == pytest.approx(math.log2((100 + SHRINKAGE) / (50 + SHRINKAGE)))
    assert windows["old"].rate == 100 * 180
    assert acceleration(1, 0) < acceleration(100, 50)


def test_only_so_many_have_a_rank() -> None:
    counts = counts_of()
    take_all(counts, [Wanted(f"item-{n}", START) for n in range(RANKED + 50)])
    flush = counts.flush()
    assert flush is not None
    ranks = Counter(trend.windows[0].rank is not None for trend in flush.said.values() if trend is not None)
    assert ranks == {True: RANKED, False: 50}


def test_records_and_table_values_come_back_as_they_were() -> None:
    counts = counts_of()
    take_all(counts, [Wanted("наталья|i:小", START, "c|1"), Wanted("a", START)])
    flush = counts.flush()
    assert flush is not None
    for item, trend in flush.said.items():
        assert trend is not None
        assert trend.item_id == item
        assert decode(encode(trend), (), Trend) == trend
    restored = PartitionCounts(0, WINDOWS, 10)
    restored.restore((subject, value) for subject, value in flush.kept.items() if value is not None)
    again = {subject: restored._kept(subject) for subject in flush.kept}
    assert again == flush.kept


def test_a_reader_adds_the_partitions_up() -> None:
    log = [Wanted("a", START + 500 * n) for n in range(40)] + [Wanted("b", START + 3_000)]
    board = TrendTotals()
    for partition in range(3):
        counts = PartitionCounts(partition, WINDOWS, 100)
        for offset, event in enumerate(log[partition::3]):
            counts.take(offset, event.ts, event.item)
        flush = counts.flush()
        assert flush is not None
        for _ in range(2):  # repeats do no harm
            for item, trend in flush.said.items():
                board.take(partition, item, trend)
    assert [(w.count, w.before) for w in board.of("a")] == [(40, 0), (40, 0)]
    assert board.items() == {"a", "b"}
    for partition in range(3):
        board.take(partition, "b", None)
    assert board.items() == {"a"}


def test_a_partition_that_fell_silent_is_out_of_a_window_once_that_is_over() -> None:
    board = TrendTotals()
    for partition, ts in enumerate((START, START + 30_000)):
        counts = PartitionCounts(partition, WINDOWS, 100)
        counts.take(0, ts, "a")
        flush = counts.flush()
        assert flush is not None
        board.take(partition, "a", flush.said["a"])
    assert [window.count for window in board.of("a")] == [1, 2]


@pytest.mark.parametrize("lengths_s", [(), (60, 60), (60, 5), (0, 5)])
def test_windows_that_make_no_sense_are_refused(lengths_s: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        Windows(lengths_s)


def test_the_page_adds_up_and_shows_no_markup_of_others() -> None:
    both = []
    for partition in range(2):
        counts = PartitionCounts(partition, WINDOWS, 100)
        take_all(counts, [Wanted("<b>mug</b>", START, "<i>")] * 7)
        counts.flush()
        both.append(counts)
    page = trends_page(WINDOWS, both, {"malformed": 3})
    assert "&lt;b&gt;mug&lt;/b&gt;" in page
    assert "<b>mug" not in page
    assert "14 events in the last minute, 0 in as long before" in page
    assert page.count("<h2>") == 3  # one list for each question, whatever the windows
    assert "last 20 seconds</th>" in page
    assert "refresh" not in page
    assert "malformed 3" in page
    titled = trends_page(WINDOWS, both, {}, {"<b>mug</b>": "A <mug>"})
    assert "A &lt;mug&gt; <code>&lt;b&gt;mug&lt;/b&gt;</code>" in titled
    assert "nothing yet" in trends_page(WINDOWS, [], {})


@pytest.mark.parametrize(
    ("length_s", "words"), [(1, "second"), (300, "5 minutes"), (3_600, "hour"), (86_400, "day"), (5_400, "90 minutes")]
)
def test_a_window_is_called_as_people_call_it(length_s: int, words: str) -> None:
    counts = PartitionCounts(0, Windows((length_s,)), 100)
    assert f"0 events in the last {words}, 0" in trends_page(Windows((length_s,)), [counts], {})


class Watched:
    """A log and an app that move as told, before a watchdog with a limit of ten seconds."""

    def __init__(self) -> None:
        self.now, self.end, self.stored, self.said = 0.0, 0, {0: 0}, []  # type: ignore[var-annotated]
        self.no_records = range(0)  # offsets that hold none
        self.watchdog = Watchdog(
            lambda: ({0: 0}, {0: self.end}),
            lambda: self.stored,
            lambda partition, first, end: len(set(range(first, end)) - set(self.no_records)),
            self.said.append,
            10.0,
            clock=lambda: self.now,
        )

    def pass_time(self, seconds: int, grows: int = 0, stores: int = 0) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.end += grows
            if self.stored is not None:
                self.stored = {partition: offset + stores for partition, offset in self.stored.items()}
            self.watchdog.look()


def test_the_watchdog_leaves_alone_who_moves_and_who_has_nothing_to_do() -> None:
    watched = Watched()
    watched.pass_time(60)
    watched.pass_time(60, grows=5, stores=1)  # behind and getting further behind, but moving
    watched.stored = {}  # a spare
    watched.pass_time(60, grows=5)
    assert watched.said == []


def test_the_watchdog_passes_over_what_stays_at_the_end_of_the_log_and_is_no_record() -> None:
    watched = Watched()
    watched.pass_time(5, grows=2, stores=1)
    watched.stored = {0: watched.end - 1}  # a transaction's marker
    watched.pass_time(60)
    assert watched.said == []


def test_the_watchdog_waits_for_nobody_to_count_what_was_aborted() -> None:
    watched = Watched()
    watched.end, watched.stored, watched.no_records = 7, {0: 5}, range(5, 40)
    watched.pass_time(15)  # it came to a partition that ends so
    watched.pass_time(15, grows=2)
    assert watched.said == []
    watched.pass_time(15, grows=2)  # records, from offset 40 on
    assert "records behind the end of the log: counting hangs" in watched.said[0]


@pytest.mark.parametrize("backlog", [0, 1_000])
def test_the_watchdog_ends_who_stands_still_within_its_limit(backlog: int) -> None:
    watched = Watched()
    watched.end = backlog
    watched.pass_time(10, grows=1)
    assert watched.said == []
    watched.pass_time(3, grows=1)
    assert watched.said
    assert "counting hangs" in watched.said[0]


def test_the_watchdog_ends_who_is_handed_no_partitions() -> None:
    watched = Watched()
    watched.stored = None  # type: ignore[assignment]
    watched.pass_time(12)
    assert "joining hangs" in watched.said[0]
