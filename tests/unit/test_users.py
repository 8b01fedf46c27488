"""The user table is bounded, and a user who left for the store comes back exactly as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.engine.arrays.batch import NOTHING, Examples, Queries, arrays_of
from streamrec.engine.arrays.labels import GAINS
from streamrec.engine.arrays.timeline import ASK, REMEMBER, Timeline, TimelineStep
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.users.affinity import Affinity
from streamrec.engine.users.counts import Counts
from streamrec.engine.users.deduplication import Deduplication
from streamrec.engine.users.history import History
from streamrec.engine.users.price_level import PriceLevel
from streamrec.engine.users.seen import SeenItems
from streamrec.engine.users.user_table import UserTable
from streamrec.events import EVENT_TYPES

ITEMS = 40
BEGAN = 1_700_000_000_000


class Memory:
    """A user table with every family, over items that fall into twelve categories."""

    def __init__(self, capacity: int = 8) -> None:
        self.items = ItemTable(8_192)
        for number in range(ITEMS):
            self.items.categorise(self.items.intern(f"i{number}", BEGAN), f"c{number % 12}")
        self.history = History(0, 1_800.0, False)
        self.counts = Counts(0)
        self.affinity = Affinity(
            0, lambda: self.items.category, GAINS, self.items.category_names, self.items.category_code
        )
        self.duplicates = Deduplication(0)
        self.seen = SeenItems()
        self.prices = PriceLevel(0, GAINS)
        families = [self.history, self.counts, self.affinity, self.prices, self.duplicates, self.seen]
        self.users = UserTable(capacity, families, self.items)

    def admit(self, *users: str, values: list[bytes | None] | None = None, partition: int = 0) -> None:
        lacking = self.users.missing([(partition, user) for user in users])
        self.users.admit(lacking, values or [None] * len(lacking), BEGAN)

    def remember(self, user: str, visits: list[tuple[int, int, int, int]], partition: int = 0) -> None:
        """Visits are (ts, session, item, type)."""
        row = self.users.touch((partition, user))
        steps: list[TimelineStep] = [
            (REMEMBER, row, 0, ts, session, item, kind, NOTHING) for ts, session, item, kind in visits
        ]
        if steps:
            queries, examples = Queries.empty(1), Examples.empty(1)
            prices = {place: 1.0 + item for place, (_, _, item, _) in enumerate(visits)}
            for family in (self.history, self.counts, self.affinity, self.prices):
                family.fold(Timeline.of(steps, prices), queries, examples)
        for ts, _, item, _ in visits:
            self.seen.add(row, item)
            self.duplicates.first_time(np.array([row], np.int32), np.array([ts], np.uint64))

    def context(self, user: str, ts: int, partition: int = 0) -> dict[str, object]:
        """Everything that is known of a user at a time."""
        row = self.users.touch((partition, user))
        queries = Queries.empty(1)
        steps: list[TimelineStep] = [(ASK, row, 0, ts, 0, NOTHING, 0, NOTHING)]
        for family in (self.history, self.counts, self.affinity, self.prices):
            family.fold(Timeline.of(steps), queries, Examples.empty(1))
        known: dict[str, object] = {name: array.tobytes() for name, array in arrays_of(queries).items()}
        known["counts"] = self.counts.counts[row].tolist()
        known["times"] = self.counts.first_ts[row], self.counts.last_ts[row]
        prices = self.prices
        known["prices"] = [float(each[row]) for each in (prices.weight, prices.mean, prices.squares, prices.as_of)]
        known["priced"] = int(prices.events[row])
        known["seen"] = self.seen.of(row).tolist()
        known["session"] = self.history.session[row], self.history.session_started[row]
        return known


visits = st.lists(
    st.tuples(
        st.integers(0, 10**10).map(lambda ms: BEGAN + ms),
        st.sampled_from([0, 0, 77, 2**64 - 1]),
        st.integers(0, ITEMS - 1),
        st.integers(0, len(EVENT_TYPES) - 1),
    ),
    max_size=100,
)


@given(before=visits, after=visits)
def test_a_user_comes_back_from_the_store_exactly_as_they_were(before: list, after: list) -> None:  # type: ignore[type-arg]
    stayed, left = Memory(), Memory()
    for memory in (stayed, left):
        memory.admit("u")
        memory.remember("u", before)
    stored = left.users.take_changes(0)
    left.users.drop([0])
    assert left.users.missing([(0, "u")]) == [(0, "u")]
    left.admit("other", "u", values=[None, stored["user", "u"]])
    asked = BEGAN + 10**10 + 1
    assert left.context("u", asked) == stayed.context("u", asked)
    for memory in (stayed, left):
        memory.remember("u", after)
    assert left.context("u", asked) == stayed.context("u", asked)
    assert left.users.take_changes(0)["user", "u"] == stayed.users.take_changes(0)["user", "u"]


def test_somebody_new_in_an_old_row_knows_nothing_of_who_was_there() -> None:
    memory = Memory(capacity=1)
    memory.admit("old")
    memory.remember("old", [(BEGAN, 5, 3, 0), (BEGAN + 1, 5, 4, 3)])
    memory.users.take_changes(0)
    memory.admit("new")
    blank = Memory(capacity=1)
    blank.admit("new")
    assert memory.context("new", BEGAN + 2) == blank.context("new", BEGAN + 2)


def test_the_longest_idle_leave_first() -> None:
    memory = Memory(capacity=3)
    memory.admit("a", "b", "c")
    memory.users.missing([(0, "a")])  # asked for again
    memory.admit("d")
    assert memory.users.missing([(0, name) for name in "abcd"]) == [(0, "b")]
    assert len(memory.users) == 3


def test_a_user_with_changes_does_not_leave_before_they_are_handed_over() -> None:
    memory = Memory(capacity=3)
    memory.admit("a", "b", "c")
    memory.remember("a", [(BEGAN, 0, 1, 0)])
    memory.users.missing([(0, "b"), (0, "c")])
    memory.admit("d")
    assert memory.users.missing([(0, "a")]) == []
    assert set(memory.users.take_changes(0)) == {("user", "a")}
    assert memory.users.take_changes(0) == {}


def test_those_who_are_asked_for_together_do_not_make_room_for_one_another() -> None:
    memory = Memory(capacity=4)
    memory.admit("a", "b", "c", "d")
    wanted = [(0, "a"), (0, "e"), (0, "f")]
    lacking = memory.users.missing(wanted)
    memory.users.admit(lacking, [None] * len(lacking), BEGAN)
    for user in wanted:
        memory.users.touch(user)


def test_too_many_changes_are_announced_before_they_could_be_lost() -> None:
    memory = Memory(capacity=3)
    memory.admit("a", "b")
    assert not memory.users.crowded(3)
    memory.remember("a", [])
    assert memory.users.changed == 1
    assert not memory.users.crowded(2)
    assert memory.users.crowded(3)
    memory.users.take_changes(0)
    assert not memory.users.crowded(3)


@given(polls=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), max_size=60))
def test_memory_stays_bounded_and_nobody_asked_for_is_missing(polls: list[list[int]]) -> None:
    memory, stored = Memory(capacity=6), {}
    for poll in polls:
        wanted = [(0, f"u{number}") for number in poll]
        lacking = memory.users.missing(wanted)
        if memory.users.crowded(len(set(wanted))):
            stored |= memory.users.take_changes(0)
        memory.users.admit(lacking, [stored.get(("user", name)) for _, name in lacking], BEGAN)
        for user in wanted:
            row = memory.users.touch(user)
            memory.counts.counts[row, 0] += 1
        assert len(memory.users) <= 6
    stored |= memory.users.take_changes(0)
    import msgpack

    counted = {name: msgpack.unpackb(value)["counts"]["view"] for (_, name), value in stored.items()}
    drawn = [number for poll in polls for number in poll]
    assert counted == {f"u{number}": drawn.count(number) for number in set(drawn)}


def test_the_same_name_on_two_partitions_is_two_users() -> None:
    memory = Memory()
    memory.admit("u")
    memory.admit("u", partition=1)
    memory.remember("u", [(BEGAN, 0, 1, 0)])
    assert memory.context("u", BEGAN + 1) != memory.context("u", BEGAN + 1, partition=1)
    memory.users.drop([0])
    assert memory.users.missing([(0, "u"), (1, "u")]) == [(0, "u")]


def test_forgotten_items_are_nowhere_in_what_is_stored() -> None:
    memory = Memory()
    memory.admit("u")
    memory.remember("u", [(BEGAN + n, 0, n, 0) for n in range(4)])
    memory.users.forget_items(np.array([1, 2], np.int32))
    stored = memory.users.take_changes(0)["user", "u"]
    assert b"i0" in stored
    assert b"i3" in stored
    assert b"i1" not in stored
    assert b"i2" not in stored


@pytest.mark.parametrize("room", [True, False])
def test_items_that_only_the_store_remembers_get_an_index_while_there_is_plenty_of_room(room: bool) -> None:
    first = Memory()
    first.admit("u")
    first.items.intern("unheard", BEGAN)
    first.remember("u", [(BEGAN, 0, ITEMS, 0)])
    second = Memory()
    if not room:
        for number in range(8_192 - ITEMS - 32):
            second.items.intern(f"more {number}", BEGAN)
    second.admit("u", values=[first.users.take_changes(0)["user", "u"]])
    assert (second.items.lookup("unheard") != NOTHING) is room
