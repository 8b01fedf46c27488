"""Indices are dense, unique and bounded; what was unseen for longest gives way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.engine.arrays.batch import NOTHING
from streamrec.engine.arrays.packing import packed_strings, unpacked_strings
from streamrec.engine.items.item_table import ItemTable


def filled(capacity: int, count: int) -> ItemTable:
    """Items i0, i1, ... seen in this order."""
    table = ItemTable(capacity)
    for number in range(count):
        table.intern(f"i{number}", 1_000 + number)
    return table


@given(names=st.lists(st.text(max_size=3), max_size=60))
def test_every_item_keeps_its_own_index(names: list[str]) -> None:
    table = ItemTable(100)
    indices = {name: table.intern(name, ts) for ts, name in enumerate(names)}
    assert sorted(indices.values()) == list(range(len(set(names))))
    assert all(table.lookup(name) == index and table.ids[index] == name for name, index in indices.items())
    assert table.known == len(table) == len(set(names))


def test_an_unknown_item_is_nothing() -> None:
    assert filled(4, 2).lookup("other") == NOTHING


def test_being_named_again_does_not_move_the_times_and_being_seen_does() -> None:
    table = filled(4, 2)
    assert table.intern("i0", 9_000) == 0
    assert (table.first_ts[0], table.last_ts[0]) == (1_000, 1_000)
    table.seen(np.array([0, 0, 1], np.int32), np.array([9_000, 8_000, 500], np.int64))
    assert table.first_ts[:2].tolist() == [1_000, 1_001]
    assert table.last_ts[:2].tolist() == [9_000, 1_001]


def test_there_is_nothing_to_forget_while_there_is_room() -> None:
    assert len(filled(10, 6).make_room(4)) == 0


def test_the_longest_unseen_are_forgotten_first() -> None:
    table = filled(10, 10)
    table.seen(np.array([0, 2], np.int32), np.array([9_000, 9_000], np.int64))
    assert table.make_room(3).tolist() == [1, 3, 4]
    assert table.known == 7
    assert table.lookup("i1") == NOTHING
    assert sorted(table.intern(name, 9_999) for name in "abc") == [1, 3, 4]
    assert (table.known, len(table)) == (10, 10)


def test_a_new_item_in_an_old_place_has_nothing_of_the_old_one() -> None:
    table = filled(2, 2)
    table.categorise(0, "mugs")
    assert table.make_room(1).tolist() == [0]
    assert table.intern("new", 7_777) == 0
    assert (table.category[0], table.first_ts[0], table.last_ts[0]) == (NOTHING, 7_777, 7_777)


@given(newcomers=st.lists(st.integers(0, 12), max_size=30))
def test_a_table_asked_for_room_never_outgrows_its_capacity(newcomers: list[int]) -> None:
    table, number = ItemTable(16), 0
    for count in newcomers:
        gone = table.make_room(count)
        assert len(set(gone.tolist())) == len(gone)
        for _ in range(count):
            table.intern(f"i{number}", number)
            number += 1
        assert len(table) <= 16
        assert table.known == len(table) - len(table._free)


def test_categories_have_codes_that_hold() -> None:
    table = filled(3, 2)
    table.categorise(0, "mugs")
    table.categorise(1, "lamps")
    assert table.category[:2].tolist() == [table.category_code("mugs"), table.category_code("lamps")]
    assert table.category_names() == ["mugs", "lamps"]
    assert table.category_code("rugs") == 2
    assert table.category_code("one too many") == NOTHING


@given(forgotten=st.integers(0, 5))
def test_a_restored_table_goes_on_as_the_first_one_would(forgotten: int) -> None:
    first = filled(12, 10)
    first.categorise(3, "mugs")
    first.make_room(2 + forgotten)
    second = ItemTable(12)
    second.restore(first.state())
    for table in (first, second):
        table.make_room(2)
        table.intern("new", 50_000)
        table.intern("i9", 50_001)
        table.categorise(table.lookup("new"), "lamps")
    states = first.state(), second.state()
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        np.testing.assert_array_equal(states[0][name], states[1][name])
    assert first._index == second._index


def test_taking_the_state_hands_out_a_copy() -> None:
    table = filled(3, 2)
    table.state()["last_ts"][:] = 0
    assert table.last_ts[0] == 1_000


@given(strings=st.lists(st.text(st.characters(), max_size=5), max_size=20))
def test_strings_survive_packing(strings: list[str]) -> None:
    assert unpacked_strings("names", packed_strings("names", strings)) == strings


def test_an_index_beyond_the_capacity_is_an_error_and_not_a_silent_growth() -> None:
    with pytest.raises(IndexError):
        filled(3, 4)
