"""Users are put where Kafka's clients put them."""

from __future__ import annotations

import pytest

from streamrec.testing import partition_of
from streamrec.transport.partitioners import LIBRDKAFKA, PARTITIONERS, crc32, murmur2


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


@pytest.mark.parametrize("key", ["u1", "käse", "x" * 300])
def test_crc32_is_what_the_rest_of_the_project_takes_for_the_default(key: str) -> None:
    assert crc32(key.encode(), 6) == partition_of(key, 6)


def test_every_name_of_librdkafka_leads_to_a_partitioner() -> None:
    assert set(LIBRDKAFKA.values()) == set(PARTITIONERS)
