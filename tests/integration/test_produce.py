"""The producer against a real broker: what it counts, where records go, in which order, and what it refuses."""

import asyncio
import gzip
import json
import time
from collections import defaultdict
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import InvalidTimestampError, KafkaError

from stream.delivery.producer import Outgoing, Producer
from stream.embedded import Servers
from stream.partition import find_partition
from stream.produce import Record, Refused, paced, produce, produce_file
from stream.settings import Settings

PARTITIONS = 3


class Topic:
    """A topic of `PARTITIONS` partitions, made for one test and read back from its beginning."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self.bootstrap, self.name = bootstrap, name

    async def create(self, **configs: str) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(self.name, PARTITIONS, 1, topic_configs=configs or None)])
        finally:
            await admin.close()

    async def read(self, records: int) -> list[ConsumerRecord]:
        """`records` records and whatever lies behind them, each partition's in order; fewer after ten seconds."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            consumer.assign([TopicPartition(self.name, partition) for partition in range(PARTITIONS)])
            found: list[ConsumerRecord] = []
            deadline = time.monotonic() + 10
            while len(found) < records and time.monotonic() < deadline:
                for part in (await consumer.getmany(timeout_ms=200)).values():
                    found += part
            for part in (await consumer.getmany(timeout_ms=200)).values():
                found += part
            return found
        finally:
            await consumer.stop()


@pytest.fixture
async def topic(servers: Servers, topic_prefix: str) -> Topic:
    topic = Topic(servers.kafka_bootstrap, f"{topic_prefix}produced")
    await topic.create()
    return topic


def make_records(count: int, people: int = 50) -> list[Record]:
    return [Record(f"user-{n % people}".encode(), f'{{"n":{n}}}'.encode()) for n in range(count)]


async def test_each_record_is_acknowledged_once_and_lies_on_the_partition_of_its_key(topic: Topic) -> None:
    records = make_records(20_000)

    acknowledged = await produce(records, topic.bootstrap, topic.name)

    found = await topic.read(len(records))
    assert acknowledged == len(records) == len(found)
    assert sorted((each.key, each.value) for each in found) == sorted((key, value) for key, value, _ in records)
    for each in found:
        assert each.partition == find_partition(each.key.decode(), PARTITIONS, "murmur2")


async def test_records_of_one_key_keep_their_order(topic: Topic) -> None:
    padding = b" " * 300  # several batches a partition
    records = [record._replace(value=record.value + padding) for record in make_records(20_000, people=7)]

    await produce(records, topic.bootstrap, topic.name)

    orders: dict[bytes, list[int]] = defaultdict(list)
    for each in await topic.read(len(records)):
        orders[each.key].append(json.loads(each.value)["n"])
    assert len(orders) == 7
    assert all(numbers == sorted(numbers) for numbers in orders.values())


async def test_librdkafka_places_records_by_crc32(topic: Topic) -> None:
    await produce(make_records(200), topic.bootstrap, topic.name, partitioner="crc32")

    for each in await topic.read(200):
        assert each.partition == find_partition(each.key.decode(), PARTITIONS, "crc32")


async def test_headers_tombstones_and_records_without_a_key_arrive_as_given(topic: Topic) -> None:
    records = [Record(b"item", None), Record(b"k", b"{}", [("nudge-kind", b"privacy")])]
    records += [Record(None, b"loose")] * 6

    assert await produce(records, topic.bootstrap, topic.name) == 8

    found = await topic.read(8)
    assert [each.value for each in found if each.key == b"item"] == [None]
    assert [list(each.headers) for each in found if each.key == b"k"] == [[("nudge-kind", b"privacy")]]
    assert {each.partition for each in found if each.key is None} == set(range(PARTITIONS))


async def test_records_bear_the_wall_clock(topic: Topic) -> None:
    before = int(time.time() * 1000)

    await produce(make_records(10), topic.bootstrap, topic.name)

    after = int(time.time() * 1000)
    assert all(before <= each.timestamp <= after for each in await topic.read(10))


async def test_progress_counts_acknowledgements_up_to_the_result(topic: Topic) -> None:
    progress: list[int] = []

    acknowledged = await produce(make_records(10_000), topic.bootstrap, topic.name, on_progress=progress.append)

    assert progress == sorted(set(progress))
    assert progress[-1] == acknowledged == 10_000


async def test_a_record_too_large_is_named_by_its_position_and_the_rest_goes_on(topic: Topic) -> None:
    records = make_records(2_500)
    records[1_700] = Record(b"user-1", b"x" * 5_000)
    refused: list[Refused] = []

    acknowledged = await produce(
        records, topic.bootstrap, topic.name, max_record_bytes=4_000, on_refused=refused.append
    )

    assert [each.position for each in refused] == [1_700]
    assert acknowledged == 2_499 == len(await topic.read(2_499))


async def test_what_the_broker_refuses_for_its_size_is_found_within_its_batch(
    servers: Servers, broker_kind: str, topic_prefix: str
) -> None:
    if broker_kind == "embedded":
        pytest.skip("Tansu does not keep a topic's max.message.bytes")
    topic = Topic(servers.kafka_bootstrap, f"{topic_prefix}narrow")
    await topic.create(**{"max.message.bytes": "2000"})
    records = make_records(600, people=2)
    records[123] = Record(b"user-1", b"x" * 5_000)
    refused: list[Refused] = []

    acknowledged = await produce(records, topic.bootstrap, topic.name, on_refused=refused.append)

    found = await topic.read(599)
    orders: dict[bytes, list[int]] = defaultdict(list)
    for each in found:
        orders[each.key].append(json.loads(each.value)["n"])
    assert [each.position for each in refused] == [123]
    assert acknowledged == len(found) == 599
    assert all(numbers == sorted(numbers) for numbers in orders.values())


@pytest.mark.parametrize("idempotent", [True, False])
async def test_the_workers_producer_tells_what_is_refused_for_good_and_keeps_the_order_of_the_rest(
    servers: Servers, broker_kind: str, topic_prefix: str, idempotent: bool
) -> None:
    if broker_kind == "embedded":
        pytest.skip("Tansu does not keep a topic's max.message.bytes")
    topic = Topic(servers.kafka_bootstrap, f"{topic_prefix}narrow")
    # Smaller than the client's batches: each of them is refused, and several are needed for each partition.
    await topic.create(**{"max.message.bytes": "100000"})
    padding = b" " * 2_000
    records = [Outgoing(topic.name, f"user-{n % 2}".encode(), b"%d" % n + padding, (), 1) for n in range(1_200)]
    records[700] = records[700]._replace(value=b"x" * 200_000)
    producer = Producer(Settings(kafka={"bootstrap": topic.bootstrap}), idempotent=idempotent)

    refused = await producer.send(records)
    await producer.stop()

    assert refused == [700]
    found = await topic.read(1_199)
    assert len(found) == 1_199
    for user in (b"user-0", b"user-1"):
        numbers = [int(each.value) for each in found if each.key == user]
        assert numbers == sorted(numbers)


async def test_the_failure_of_one_who_sends_does_not_leave_another_waiting_for_ever(
    servers: Servers, broker_kind: str, topic: Topic, topic_prefix: str
) -> None:
    """Would have caught: an outbox that stands still for good once another's failure has closed the client it asks."""
    if broker_kind == "embedded":
        pytest.skip("Tansu takes records of any date")
    producer = Producer(Settings(kafka={"bootstrap": topic.bootstrap}), idempotent=True)
    late = Topic(servers.kafka_bootstrap, f"{topic_prefix}late")
    far = int(time.time() * 1000) + 24 * 3_600_000

    # given one who waits for a topic, when another's records are refused with the same client
    waiting = asyncio.create_task(producer.send([Outgoing(late.name, b"ann", b"1", (), 1)]))
    await asyncio.sleep(0.2)
    with pytest.raises(InvalidTimestampError):
        await producer.send([Outgoing(topic.name, b"bob", b"2", (), far)])
    await asyncio.sleep(0.2)

    # then the first sends as soon as the topic is there
    await late.create()
    assert await asyncio.wait_for(waiting, 8) == []
    assert len(await late.read(1)) == 1
    await producer.stop()


async def test_a_rate_is_kept_evenly(topic: Topic) -> None:
    progress: list[tuple[float, int]] = []
    began = time.monotonic()

    await produce(
        make_records(1_000),
        topic.bootstrap,
        topic.name,
        rate=500,
        on_progress=lambda count: progress.append((time.monotonic(), count)),
    )

    elapsed = progress[-1][0] - progress[0][0]
    assert 1.8 < elapsed < time.monotonic() - began + 0.1
    halfway = next(at for at, count in progress if count >= 500) - progress[0][0]
    assert 0.3 < halfway / elapsed < 0.7


async def test_after_a_stop_no_more_than_a_second_is_caught_up() -> None:
    parts = paced(range(100_000), rate=1_000)
    assert await anext(parts) == [0]

    time.sleep(1.6)  # noqa: ASYNC251 - the loop stands still, as it does in a stopped process
    await anext(parts)
    caught_up = len(await anext(parts))

    assert caught_up <= 1_050
    await parts.aclose()


async def test_a_rate_that_is_none_is_refused(topic: Topic) -> None:
    with pytest.raises(ValueError, match="rate must be above 0"):
        await produce(make_records(1), topic.bootstrap, topic.name, rate=0)


async def test_a_broker_that_is_away_is_an_error() -> None:
    with pytest.raises(KafkaError):
        await produce(make_records(1), "127.0.0.1:1", "nowhere")


async def test_a_cancelled_call_returns_at_once_and_leaves_no_task(topic: Topic) -> None:
    before = asyncio.all_tasks()
    call = asyncio.create_task(produce(make_records(100_000), topic.bootstrap, topic.name, rate=1_000))
    await asyncio.sleep(0.5)

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 5)

    assert asyncio.all_tasks() <= before


def native(number: int) -> bytes:
    event = {"event_id": f"e{number}", "user_id": f"user-{number % 9}", "type": "view", "ts": 1_300_000_000_000}
    return json.dumps(event).encode()


def segment(number: int) -> bytes:
    call = {
        "type": "track",
        "event": "Product Viewed",
        "messageId": f"m{number}",
        "anonymousId": f"a{number}",
        "timestamp": "2011-03-13T07:06:40Z",
        "context": {"consent": {"categoryPreferences": {"marketing": True}}},
    }
    return json.dumps(call).encode()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
async def test_lines_of_a_file_arrive_as_they_stand_under_their_user(
    topic: Topic, tmp_path: Path, packed: bool
) -> None:
    lines = [native(number) for number in range(50)] + [segment(number) for number in range(50)]
    # Some editors begin a file with a mark of the byte order.
    content = b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n\n"
    path = tmp_path / "events"
    path.write_bytes(gzip.compress(content) if packed else content)

    report = await produce_file(path, topic.bootstrap, topic.name)

    assert report == (100, 100, 0)
    found = {(each.key, each.value) for each in await topic.read(100)}
    assert found == {(f"user-{n % 9}".encode(), native(n)) for n in range(50)} | {
        (f"anon:a{n}".encode(), segment(n)) for n in range(50)
    }


async def test_a_line_that_does_not_decode_is_refused_by_its_number(topic: Topic, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join([native(1), b"", b"not json", native(2), b'{"user_id":"u"}']))
    refused: list[Refused] = []

    report = await produce_file(path, topic.bootstrap, topic.name, on_refused=refused.append)

    assert report == (4, 2, 2)
    assert [(each.position, each.reason.partition(":")[0]) for each in refused] == [
        (3, "not_json"),
        (5, "missing_field"),
    ]
    assert sorted(each.value for each in await topic.read(2)) == [native(1), native(2)]


async def test_raw_sends_such_a_line_without_a_key(topic: Topic, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join([native(1), b"not json"]))

    assert await produce_file(path, topic.bootstrap, topic.name, raw=True) == (2, 2, 0)

    assert {(each.key, each.value) for each in await topic.read(2)} == {(b"user-1", native(1)), (None, b"not json")}
