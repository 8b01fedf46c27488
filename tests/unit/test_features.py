"""What is remembered of users equals a recount in plain Python, however the log is cut."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamrec.engine.arrays.batch import CATEGORIES, HISTORY, NOTHING, RECENT, Examples, Excluded, Queries
from streamrec.engine.arrays.labels import GAINS
from streamrec.engine.arrays.logged_event import name_hash
from streamrec.engine.arrays.timeline import ASK, REMEMBER, Timeline, TimelineStep
from streamrec.engine.users.affinity import HALF_LIFE_S, Affinity
from streamrec.engine.users.counts import ACTIVITY_HALF_LIFE_S, Counts
from streamrec.engine.users.deduplication import REMEMBERED, Deduplication
from streamrec.engine.users.history import TOUCHES, History
from streamrec.engine.users.seen import LIMIT, SeenItems
from streamrec.events import EVENT_TYPES, TYPE_CODES, EventType

USERS, ITEMS, GAP_S = 3, 90, 1_800.0
CATEGORY = np.array([item % 11 if item % 5 else NOTHING for item in range(ITEMS)], np.int32)
ASKED = None
"""In place of an event type: a question."""


@dataclass
class Moment:
    """One event or question. `example` marks an event that teaches."""

    user: int
    ts: int
    type: EventType | None
    item: int = NOTHING
    session: str | None = None
    example: bool = True


gaps = st.sampled_from([0, 0, 1_000, 60_000, 1_800_000, 1_800_001, 90_000_000, -5_000, -4_000_000])
moments = st.lists(
    st.tuples(
        st.integers(0, USERS - 1),
        gaps,
        st.sampled_from([ASKED, ASKED, *EVENT_TYPES, EventType.VIEW, EventType.VIEW, EventType.VIEW]),
        st.integers(NOTHING, ITEMS - 1),
        st.sampled_from([None, None, "morning", "evening"]),
        st.booleans(),
    ),
    max_size=120,
)
cuts = st.integers(1, 40)


def timed(drawn: list[tuple]) -> list[Moment]:  # type: ignore[type-arg]
    ts, log = 1_700_000_000_000, []
    for user, gap, kind, item, session, teaches in drawn:
        ts += gap
        log.append(Moment(user, ts, kind, NOTHING if kind is ASKED else item, session, teaches))
    return log


def folded(family: object, log: list[Moment], size: int) -> tuple[Queries, Examples]:
    """Fold the log in portions of `size`; the answers to its questions, and its examples, in order."""
    queries, examples = Queries.empty(len(log)), Examples.empty(len(log))
    examples.label[:] = 1
    asked = taught = 0
    for start in range(0, len(log), size):
        steps: list[TimelineStep] = []
        for moment in log[start : start + size]:
            session = name_hash(moment.session)
            if moment.type is ASKED:
                steps.append((ASK, moment.user, asked, moment.ts, session, NOTHING, 0, NOTHING))
                asked += 1
                continue
            code, row = TYPE_CODES[moment.type], NOTHING
            if moment.example and moment.item != NOTHING:
                row = taught
                taught += 1
            steps.append((REMEMBER, moment.user, 0, moment.ts, session, moment.item, code, row))
        family.fold(Timeline.of(steps), queries, examples)  # type: ignore[attr-defined]
    return queries, examples


@dataclass
class Person:
    """The plain recount of one user's history."""

    past: list[tuple[int, int]] = field(default_factory=list)  # (item, ts), newest first
    session: str | None = None
    last: int = 0
    in_session: int = 0


def recounted(log: list[Moment], collapse: bool) -> tuple[list[tuple], list[tuple]]:  # type: ignore[type-arg]
    """(items, ages, session length) of each question, and the same with a label for each example."""
    people = [Person() for _ in range(USERS)]
    asked, taught = [], []
    for moment in log:
        person = people[moment.user]
        if moment.session is not None:
            fresh = moment.session != person.session
        else:
            fresh = moment.ts - person.last > GAP_S * 1000
        length = 0 if fresh else min(person.in_session, HISTORY)
        past = [(item, max(moment.ts - ts, 0) / 1000) for item, ts in person.past]
        if moment.type is ASKED:
            asked.append((past[:HISTORY], length))
            continue
        if fresh:
            person.session, person.in_session = moment.session, 0
        person.last = max(person.last, moment.ts)
        if moment.item == NOTHING:
            continue
        touches = TYPE_CODES[moment.type] in TOUCHES
        repeat = collapse and touches and length > 0 and person.past[0][0] == moment.item
        if moment.example:
            taught.append((past[:RECENT], min(length, RECENT), -1 if repeat else 1))
        if touches and not repeat:
            person.past.insert(0, (moment.item, moment.ts))
            person.in_session += 1
    return asked, taught


def padded(past: list[tuple[int, float]], size: int) -> tuple[list[int], list[float]]:
    rest = size - len(past)
    return [item for item, _ in past] + [NOTHING] * rest, [age for _, age in past] + [0.0] * rest


LONG_VISIT = [(0, 1_000, EventType.VIEW, n % ITEMS, "morning", True) for n in range(HISTORY + 9)] + [
    (0, 0, ASKED, 0, "morning", True)
]


@pytest.mark.parametrize("collapse", [False, True])
@given(drawn=moments, size=cuts)
@example(drawn=LONG_VISIT, size=7)
def test_history_equals_a_recount(collapse: bool, drawn: list, size: int) -> None:  # type: ignore[type-arg]
    log = timed(drawn)
    queries, examples = folded(History(USERS, GAP_S, collapse), log, size)
    asked, taught = recounted(log, collapse)
    for q, (past, length) in enumerate(asked):
        items, ages = padded(past, HISTORY)
        assert queries.items[q].tolist() == items
        assert queries.ages_s[q] == pytest.approx(ages)
        assert queries.session[q] == length
    for e, (past, length, label) in enumerate(taught):
        items, ages = padded(past, RECENT)
        assert examples.recent[e].tolist() == items
        assert examples.recent_ages_s[e] == pytest.approx(ages)
        assert (examples.session[e], examples.label[e]) == (length, label)


def session_lengths(*visits: tuple[int, str | None]) -> list[int]:
    """What a question at each of these times and sessions is told of the views at those before it."""
    log = []
    for place, (ts, session) in enumerate(visits):
        log += [Moment(0, ts, ASKED, session=session), Moment(0, ts, EventType.VIEW, place, session)]
    queries, _ = folded(History(1, GAP_S, False), log, 100)
    return queries.session[: len(visits)].tolist()


def test_a_pause_ends_a_session_without_an_id() -> None:
    first, pause = 10**12, int(GAP_S * 1000)
    assert session_lengths((first, None), (first + pause, None), (first + 2 * pause + 1, None)) == [0, 1, 0]


def test_a_new_id_ends_a_session_and_a_pause_does_not_while_the_id_stays() -> None:
    first, day = 10**12, 86_400_000
    assert session_lengths((first, "a"), (first + day, "a"), (first + day, "b"), (first + day, "a")) == [0, 1, 0, 0]


@given(drawn=moments, size=cuts)
def test_counts_equal_a_recount(drawn: list, size: int) -> None:  # type: ignore[type-arg]
    log = timed(drawn)
    counts = Counts(USERS)
    queries, _ = folded(counts, log, size)
    tally = [dict.fromkeys(EVENT_TYPES, 0) for _ in range(USERS)]
    times: list[list[int]] = [[] for _ in range(USERS)]
    activity, asked = [0.0] * USERS, 0
    for moment in log:
        user = moment.user
        elapsed_s = max(moment.ts - max(times[user], default=0), 0) / 1000
        decayed = activity[user] * 0.5 ** (elapsed_s / ACTIVITY_HALF_LIFE_S)
        if moment.type is ASKED:
            assert queries.activity[asked] == pytest.approx(decayed, rel=1e-5)
            asked += 1
        else:
            tally[user][moment.type] += 1
            times[user].append(moment.ts)
            activity[user] = decayed + 1
    assert counts.counts.tolist() == [list(of.values()) for of in tally]
    assert counts.first_ts.tolist() == [min(of, default=0) for of in times]
    assert counts.last_ts.tolist() == [max(of, default=0) for of in times]


@given(drawn=moments, size=cuts)
def test_affinity_equals_a_recount(drawn: list, size: int) -> None:  # type: ignore[type-arg]
    log = timed(drawn)
    names = [f"category {code}" for code in range(11)]
    queries, _ = folded(Affinity(USERS, lambda: CATEGORY, GAINS, lambda: names, names.index), log, size)
    people: list[dict[int, float]] = [{} for _ in range(USERS)]
    as_of, asked = [0] * USERS, 0
    for moment in log:
        weights = people[moment.user]
        factor = 0.5 ** (max(moment.ts - as_of[moment.user], 0) / 1000 / HALF_LIFE_S)
        if moment.type is ASKED:
            told = {
                int(c): float(w)
                for c, w in zip(queries.categories[asked], queries.affinity[asked], strict=True)
                if c != NOTHING
            }
            assert told == pytest.approx({c: w * factor for c, w in weights.items()}, rel=1e-5)
            asked += 1
            continue
        gain = GAINS[TYPE_CODES[moment.type]]
        if moment.item == NOTHING or CATEGORY[moment.item] == NOTHING or gain == 0:
            continue
        as_of[moment.user] = max(as_of[moment.user], moment.ts)
        for c in weights:
            weights[c] *= factor
        kind = int(CATEGORY[moment.item])
        if kind not in weights and len(weights) == CATEGORIES:
            weakest = min(weights.values())
            if sum(math.isclose(w, weakest, rel_tol=1e-9) for w in weights.values()) > 1:
                return  # which of the equal ones leaves is not promised
            del weights[next(c for c, w in weights.items() if w == weakest)]
        weights[kind] = weights.get(kind, 0.0) + gain


def test_the_weakest_category_makes_room_for_a_new_one() -> None:
    category = np.arange(20, dtype=np.int32)
    affinity = Affinity(1, lambda: category, GAINS, list, int)
    views = [(item, kind) for item in range(CATEGORIES) for kind in (EventType.PURCHASE, EventType.VIEW)]
    log = [Moment(0, 1_000 + n, kind, item) for n, (item, kind) in enumerate(views) if item != 3 or n % 2]
    folded(affinity, [*log, Moment(0, 2_000, EventType.LIKE, 19)], 5)
    assert set(affinity.categories[0].tolist()) == {*range(CATEGORIES), 19} - {3}


ids = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, 60)), max_size=250)


@given(sent=ids, size=cuts)
def test_only_the_first_of_equal_event_ids_is_new(sent: list[tuple[int, int]], size: int) -> None:
    duplicates, told = Deduplication(USERS), []
    for start in range(0, len(sent), size):
        part = sent[start : start + size]
        rows = np.array([user for user, _ in part], np.int32)
        told += duplicates.first_time(rows, np.array([number for _, number in part], np.uint64)).tolist()
    recent: list[list[int]] = [[] for _ in range(USERS)]
    for (user, number), new in zip(sent, told, strict=True):
        assert new == (number == 0 or number not in recent[user])  # 0 stands for no id
        if number and new:
            recent[user] = [*recent[user], number][-REMEMBERED:]


@given(sent=ids, at=st.integers(0, 250))
def test_event_ids_survive_the_store(sent: list[tuple[int, int]], at: int) -> None:
    before, after = Deduplication(USERS), Deduplication(USERS)
    rows = np.array([user for user, _ in sent], np.int32)
    numbers = np.array([number for _, number in sent], np.uint64)
    before.first_time(rows[:at], numbers[:at])
    for row in range(USERS):
        after.unpack(row, before.pack(row, []), {})
    assert after.first_time(rows[at:], numbers[at:]).tolist() == before.first_time(rows[at:], numbers[at:]).tolist()


@given(touched=st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, 40)), max_size=100))
def test_seen_holds_what_was_added_and_its_views_do_not_change(touched: list[tuple[int, int]]) -> None:
    seen, plain = SeenItems(), [[] for _ in range(USERS)]  # type: ignore[var-annotated]
    views = []
    for user, item in touched:
        views.append((seen.of(user), list(plain[user])))
        seen.add(user, item)
        plain[user].append(item)
    for user in range(USERS):
        assert set(seen.of(user).tolist()) == set(plain[user])
    for view, then in views:
        assert set(view.tolist()) == set(then)
    together = Excluded.of(seen.of(user) for user in range(USERS))
    ends = zip(together.starts[:-1], together.starts[1:], strict=True)
    assert [set(together.items[first:last].tolist()) for first, last in ends] == [set(of) for of in plain]


def test_seen_is_bounded_and_keeps_the_newest() -> None:
    seen = SeenItems()
    for item in range(3 * LIMIT):
        seen.add(0, item)
        assert len(seen.of(0)) <= LIMIT
    assert set(range(3 * LIMIT - LIMIT // 2, 3 * LIMIT)) <= set(seen.of(0).tolist())


def test_seen_forgets_items_and_users() -> None:
    seen = SeenItems()
    for item in (4, 5, 6):
        seen.add(0, item)
        seen.add(1, item)
    seen.forget_items(np.array([5], np.int32))
    seen.clear(np.array([1], np.int32))
    assert set(seen.of(0).tolist()) - {NOTHING} == {4, 6}
    assert len(seen.of(1)) == 0


@settings(max_examples=50)
@given(drawn=moments, size=cuts)
def test_forgotten_items_leave_the_history(drawn: list, size: int) -> None:  # type: ignore[type-arg]
    history = History(USERS, GAP_S, False)
    folded(history, timed(drawn), size)
    gone = np.arange(0, ITEMS, 2, dtype=np.int32)
    history.forget_items(gone)
    queries, _ = folded(history, [Moment(user, 10**13, ASKED) for user in range(USERS)], 1)
    assert not np.isin(queries.items[:USERS], gone).any()
