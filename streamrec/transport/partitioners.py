"""The partition that a producer puts a key on: a warm-up learns each user where the user's live events will come.

Knows nothing of brokers. Sources: librdkafka's `rd_kafka_msg_partitioner_consistent` (CRC32, its default) and Apache
Kafka's `Utils.murmur2` (the Java client's default).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

Partitioner = Callable[[bytes, int], int]
"""From a key and the number of partitions to the key's partition."""

_MASK = 0xFFFFFFFF
_SEED = 0x9747B28C
_FACTOR = 0x5BD1E995


def crc32(key: bytes, partitions: int) -> int:
    """The default of librdkafka, and so of most clients that are not Java."""
    return zlib.crc32(key) % partitions


def murmur2(key: bytes, partitions: int) -> int:
    """The default of the Java client, Kafka Connect and Kafka Streams."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


PARTITIONERS: Mapping[str, Partitioner] = {"crc32": crc32, "murmur2": murmur2}
LIBRDKAFKA: Mapping[str, str] = {
    "consistent": "crc32",
    "consistent_random": "crc32",
    "murmur2": "murmur2",
    "murmur2_random": "murmur2",
}
"""What librdkafka's `partitioner` setting calls them. Those named random differ for messages without a key alone."""


def _murmur2(key: bytes) -> int:
    """32 bits of MurmurHash2 (Austin Appleby, public domain), with Kafka's seed."""
    whole = len(key) & ~3
    h = _SEED ^ len(key)
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * _FACTOR & _MASK
        h = h * _FACTOR & _MASK ^ (k ^ k >> 24) * _FACTOR & _MASK
    if whole < len(key):
        h = (h ^ int.from_bytes(key[whole:], "little")) * _FACTOR & _MASK
    h = (h ^ h >> 13) * _FACTOR & _MASK
    return h ^ h >> 15
