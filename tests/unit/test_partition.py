"""The partition formula agrees with the clients that producers use."""

import re
import zlib
from pathlib import Path

import pytest
from aiokafka.partitioner import DefaultPartitioner, murmur2
from hypothesis import example, given
from hypothesis import strategies as st

from stream.partition import Partitioner, find_partition, find_partitions, hash_key, hash_murmur2

# From librdkafka's rdmurmur2.c and Kafka's UtilsTest.java (there signed).
JAVA = {
    "kafka": 0xD067CF64,
    "giberish123456789": 0x8F552B0C,
    "1234": 0x9FC97B14,
    "234": 0xE7C009CA,
    "34": 0x873930DA,
    "4": 0x5A4B5CA1,
    "PreAmbleWillBeRemoved,ThePrePartThatIs": 0x78424F1C,
    "": 0x106E08D9,
    "21": -973932308 & 0xFFFFFFFF,
    "foobar": -790332482 & 0xFFFFFFFF,
    "a-little-bit-long-string": -985981536 & 0xFFFFFFFF,
    "a-little-bit-longer-string": -1486304829 & 0xFFFFFFFF,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971 & 0xFFFFFFFF,
    "abc": 479470107,
}

user_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
partitioners = st.sampled_from(["murmur2", "crc32"])


@pytest.mark.parametrize(("key", "expected"), JAVA.items())
def test_murmur2_agrees_with_the_java_client(key: str, expected: int) -> None:
    assert hash_murmur2(key.encode()) == expected


@given(st.binary(max_size=600))
@example(b"\xff" * 259)
@example(b"\xff" * 260)
def test_murmur2_agrees_with_aiokafka_for_any_bytes(key: bytes) -> None:
    assert hash_murmur2(key) == murmur2(key)


@given(user_ids, st.integers(1, 10_000))
def test_a_person_is_where_aiokafka_sends_the_record(user_id: str, partitions: int) -> None:
    everything = list(range(partitions))
    assert find_partition(user_id, partitions, "murmur2") == DefaultPartitioner()(
        user_id.encode(), everything, everything
    )


def test_the_readmes_test_vector_is_right() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    [(user, partitions, murmur2_, crc32)] = re.findall(
        r"Test vector: `(\w+)`, (\d+) partitions: (\d+) \(crc32: (\d+)\)", readme
    )
    assert find_partition(user, int(partitions), "murmur2") == int(murmur2_)
    assert find_partition(user, int(partitions), "crc32") == int(crc32)


def test_crc32_is_the_one_of_librdkafka() -> None:
    # The check value of CRC-32 as in zip and Ethernet, which librdkafka's rd_crc32 computes.
    assert hash_key(b"123456789", "crc32") == 0xCBF43926
    assert find_partition("123456789", 1_000, "crc32") == 0xCBF43926 % 1_000


@given(user_ids, st.integers(1, 10_000))
def test_a_person_is_where_librdkafka_sends_the_record(user_id: str, partitions: int) -> None:
    assert find_partition(user_id, partitions, "crc32") == zlib.crc32(user_id.encode()) % partitions


@given(user_ids, st.integers(1, 10_000), partitioners)
def test_a_key_and_its_user_id_share_a_partition(user_id: str, partitions: int, partitioner: Partitioner) -> None:
    found = find_partition(user_id, partitions, partitioner)
    assert 0 <= found < partitions
    assert found == hash_key(user_id.encode(), partitioner) % partitions


def test_people_spread_over_all_partitions() -> None:
    for partitioner in ("murmur2", "crc32"):
        places = [find_partition(f"user-{number}", 8, partitioner) for number in range(8_000)]
        assert all(800 < places.count(partition) < 1_200 for partition in range(8))


@given(st.lists(user_ids, max_size=40), st.integers(1, 10_000), partitioners)
@example(["", "a", "ab", "abc", "abcd", "abcde"], 7, "murmur2")
def test_many_are_found_where_each_is(users: list[str], partitions: int, partitioner: Partitioner) -> None:
    one_by_one = [find_partition(user, partitions, partitioner) for user in users]
    assert find_partitions(users, partitions, partitioner) == one_by_one
