"""Where a person lives: the partition that a producer's partitioner chooses for a user id.

A user id goes in, a partition number comes out, the same as the Java client, aiokafka (murmur2) or librdkafka
(crc32) would choose for a record with that key. State in Redis lies under this number, so it never changes for a
given partition count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, Literal, assert_never
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Partitioner = Literal["murmur2", "crc32"]

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


def find_partition(user_id: str, partitions: int, partitioner: Partitioner) -> int:
    """Partition, from 0, of `user_id` in a topic of `partitions` partitions.

    Raises `ZeroDivisionError` for no partitions and `UnicodeEncodeError` for a lone surrogate, which no record's key
    can hold.

    >>> find_partition("ann", 8, "murmur2"), find_partition("ann", 8, "crc32")
    (2, 3)
    """
    return hash_key(user_id.encode(), partitioner) % partitions


def find_partitions(user_ids: Sequence[str], partitions: int, partitioner: Partitioner) -> list[int]:
    """Partitions of many user ids, each as `find_partition` gives it.

    One array operation serves all keys of a length, where a loop in Python would take microseconds a key.

    >>> find_partitions(["ann", "bob", "charles"], 8, "murmur2")
    [2, 6, 4]
    """
    keys = [user_id.encode() for user_id in user_ids]
    if partitioner != "murmur2":
        return [hash_key(key, partitioner) % partitions for key in keys]
    by_length: defaultdict[int, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        by_length[len(key)].append(place)
    found = np.empty(len(keys), np.int64)
    for length, places in by_length.items():
        hashes = _hash_rows(b"".join([keys[place] for place in places]), len(places), length)
        found[places] = (hashes & POSITIVE) % partitions
    return found.tolist()


def _hash_rows(joined: bytes, count: int, length: int) -> NDArray[Any]:
    """`hash_murmur2` of `count` keys of `length` bytes each, one after the other."""
    rows = np.frombuffer(joined, np.uint8).reshape(count, length)
    whole = length & ~3
    words = np.ascontiguousarray(rows[:, :whole]).view("<u4")
    value: NDArray[Any] = np.full(count, SEED ^ length, np.uint32)
    for column in range(words.shape[1]):
        word = words[:, column] * np.uint32(MIX)
        value = value * np.uint32(MIX) ^ (word ^ word >> 24) * np.uint32(MIX)
    if length > whole:
        for column in range(whole, length):
            value ^= rows[:, column].astype(np.uint32) << 8 * (column - whole)
        value *= np.uint32(MIX)
    value = (value ^ value >> 13) * np.uint32(MIX)
    value ^= value >> 15
    return value
