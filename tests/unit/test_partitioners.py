"""Users are put where Kafka's clients put them."""

from __future__ import annotations

import pytest

from streamrec.transport import Record
from streamrec.transport.partitioners import LIBRDKAFKA, PARTITIONERS, Partitioner, crc32, murmur2
from streamrec.worker.placement import Placement


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        # As Apache Kafka's own tests have it (clients, UtilsTest.testMurmur2).
        (b"21", -973_932_308),
        (b"foobar", -790_332_482),
        (b"a-little-bit-long-string", -985_981_536),
        (b"a-little-bit-longer-string", -1_486_304_829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        (b"abc", 479_470_107),
    ],
)
def test_murmur2_is_that_of_apache_kafka(key: bytes, signed: int) -> None:
    assert murmur2(key, 2**31) == signed & 0x7FFFFFFF
    assert murmur2(key, 7) == (signed & 0x7FFFFFFF) % 7


def spread(users: int, place: Partitioner, partitions: int = 6) -> list[Record]:
    keys = [b"user-%d" % number for number in range(users)]
    return [Record("user-events", place(key, partitions), 0, key, b"") for key in keys]


def test_every_partitioner_has_a_name_in_librdkafka() -> None:
    assert LIBRDKAFKA.keys() == PARTITIONERS.keys()


def test_keys_where_they_belong_are_nothing_to_speak_of() -> None:
    placement = Placement("murmur2")
    placement.check([*spread(50, murmur2), Record("user-events", 3, 0, None, b"")], 6)
    assert placement.misplaced == 0


def test_keys_that_all_lie_elsewhere_show_how_they_are_placed() -> None:
    placement = Placement("murmur2")
    placement.check(spread(60, crc32), 6)
    assert 30 < placement.misplaced < 60
    assert placement.told().startswith(
        f"keys are placed by crc32 here (crc32 60 of 60, murmur2 {60 - placement.misplaced}"
    )
    assert "set topics.partitioner = 'crc32'" in placement.told()


def test_history_by_one_way_and_live_events_by_another_are_told_with_their_numbers() -> None:
    placement = Placement("murmur2")
    placement.check(spread(50, murmur2), 6)
    placement.check(spread(50, crc32), 6)
    assert 30 < placement.misplaced < 50
    assert f"murmur2 {100 - placement.misplaced} of 100" in placement.told()
    assert "users have two halves" in placement.told()


def test_another_way_than_both_is_told_too_and_one_partition_or_an_unnamed_way_is_not_checked() -> None:
    odd = [Record("user-events", number % 6, 0, b"user", b"") for number in range(60)]
    placement, unnamed = Placement("murmur2"), Placement("other")
    placement.check(odd, 6)
    assert placement.misplaced == 50
    assert "not all placed by murmur2 here (crc32 10 of 60, murmur2 10 of 60)" in placement.told()
    placement.check(odd, 1)
    unnamed.check(odd, 6)
    assert (placement.misplaced, unnamed.misplaced) == (50, 0)
