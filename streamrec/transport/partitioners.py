"""The partition that a producer puts a key on: a user's events come to one worker only if all producers agree.

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
    """The default of librdkafka."""
    return zlib.crc32(key) % partitions


def murmur2(key: bytes, partitions: int) -> int:
    """The default of the Java client, Kafka Connect, Kafka Streams, kafka-python, kafkajs and franz-go."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


PARTITIONERS: Mapping[str, Partitioner] = {"crc32": crc32, "murmur2": murmur2}
LIBRDKAFKA: Mapping[str, str] = {"crc32": "consistent_random", "murmur2": "murmur2_random"}
"""What librdkafka's `partitioner` setting calls them; messages without a key go anywhere."""


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
