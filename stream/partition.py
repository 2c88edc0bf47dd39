"""Where a person lives: the partition that a producer's partitioner chooses for a user id.

A user id goes in, a partition number comes out, the same as the Java client, aiokafka (murmur2) or librdkafka
(crc32) would choose for a record with that key. State in Redis lies under this number, so it never changes for a
given partition count.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final, Literal, assert_never
from zlib import crc32

Partitioner = Literal["murmur2", "crc32"]

CACHED: Final = 1 << 17
"""Answers kept, about 20 MB when full, the ids aside: somewhat more people than the profile cache holds by default."""

SEED: Final = 0x9747B28C
MIX: Final = 0x5BD1E995
MASK: Final = 0xFFFFFFFF
POSITIVE: Final = 0x7FFFFFFF

_WORDS: Final = tuple(Struct(f"<{count}I") for count in range(65))


def hash_murmur2(key: bytes) -> int:
    """32-bit MurmurHash2 of `key` with Kafka's seed, unsigned (A. Appleby's algorithm, as Java's `Utils.murmur2`).

    >>> hex(hash_murmur2(b"kafka"))
    '0xd067cf64'
    """
    length = len(key)
    value = SEED ^ length
    count = length >> 2
    words = _WORDS[count] if count < len(_WORDS) else Struct(f"<{count}I")
    for word in words.unpack_from(key):
        word = word * MIX & MASK
        value = (value * MIX & MASK) ^ ((word ^ word >> 24) * MIX & MASK)
    if length & 3:
        value = (value ^ int.from_bytes(key[count << 2 :], "little")) * MIX & MASK
    value = (value ^ value >> 13) * MIX & MASK
    return value ^ value >> 15


def hash_key(key: bytes, partitioner: Partitioner) -> int:
    """Hash of a record's key whose remainder is the partition; not negative."""
    match partitioner:
        case "murmur2":
            return hash_murmur2(key) & POSITIVE
        case "crc32":
            return crc32(key)
        case _:
            assert_never(partitioner)


@lru_cache(CACHED)
def find_partition(user_id: str, partitions: int, partitioner: Partitioner) -> int:
    """Partition, from 0, of `user_id` in a topic of `partitions` partitions.

    Raises `ZeroDivisionError` for no partitions and `UnicodeEncodeError` for a lone surrogate, which no record's key
    can hold.

    >>> find_partition("ann", 8, "murmur2"), find_partition("ann", 8, "crc32")
    (2, 3)
    """
    return hash_key(user_id.encode(), partitioner) % partitions
