"""Redis keys: one slot per partition, one key per value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from streamrec.errors import ConfigError
from streamrec.state import Key, Kind
from streamrec.state.keys import KeySpace

keys = st.builds(Key, st.integers(0, 999), st.sampled_from(Kind), st.text(st.characters(codec=None), min_size=1))
SPACE = KeySpace("streamrec", "user-events")


def test_keys_look_as_documented() -> None:
    assert SPACE.registry == b"streamrec:user-events:partitions"
    assert SPACE.rollout == b"streamrec:user-events:rollout"
    assert SPACE.mark(3) == b"streamrec:{user-events:3}:mark"
    assert SPACE.value(Key(3, Kind.USER, "ann")) == b"streamrec:{user-events:3}:user:ann"


@given(keys)
def test_a_value_lies_in_its_partitions_slot_whatever_its_name(key: Key) -> None:
    assert (
        key_slot(SPACE.value(key)) == key_slot(SPACE.mark(key.partition)) == key_slot(b"user-events:%d" % key.partition)
    )


@given(keys, keys)
def test_two_values_share_a_key_only_if_they_are_the_same(one: Key, other: Key) -> None:
    assert (SPACE.value(one) == SPACE.value(other)) == (one == other)


@given(keys)
def test_no_value_can_take_the_place_of_a_mark_or_the_registry(key: Key) -> None:
    assert SPACE.value(key) not in {SPACE.mark(key.partition), SPACE.registry, SPACE.rollout}


def test_partitions_and_topics_and_prefixes_do_not_share_keys() -> None:
    spaces = [KeySpace(prefix, topic) for prefix in ("a", "b") for topic in ("t", "u")]
    places = [space.value(Key(partition, Kind.ITEM, "x")) for space in spaces for partition in (1, 11)]
    assert len(set(places)) == 8
    assert len({space.registry for space in spaces}) == 4


@pytest.mark.parametrize(
    ("prefix", "topic"), [("", "t"), ("a{b}", "t"), ("a", "t{1}"), ("a", ""), ("a b", "t"), ("a", "t\n")]
)
def test_names_that_would_break_the_layout_are_refused(prefix: str, topic: str) -> None:
    with pytest.raises(ConfigError, match="expected 1 to"):
        KeySpace(prefix, topic)
