"""Exactly once: whatever happens to workers, a `read_committed` reader sees each entry of the outbox once."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.producer.transaction_manager import TransactionResult
from aiokafka.protocol.transaction import EndTxnRequest
from aiokafka.structs import TopicPartition
from redis.asyncio import Redis

from stream.app import Engine
from stream.broker import TopicSpec, await_coordinators, ensure_topics, probe
from stream.delivery.entries import name_topics
from stream.delivery.errors import Refused
from stream.delivery.fence import acquire_fence, read_fence
from stream.delivery.lane import Lane
from stream.delivery.outbox import Drain
from stream.delivery.producer import Producer
from stream.delivery.transactions import Transactions, name_group
from stream.embedded import Servers
from stream.metrics import Metrics
from stream.settings import BadSettings, Settings
from stream.stages.batch import Entry, Position
from stream.state.client import connect_redis
from stream.state.keys import name_key, tag_events
from stream.vitals import Vitals
from tests.integration.workers import KEY, PINNED, Job, find_copies
from tests.unit.reference import Record, make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

RECORDS = 12_000
LINEUP = make_lineup("conversion", "click", version=PINNED)
TAG = tag_events(0)

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def log() -> list[Record]:
    return compose_log(RECORDS, people=RECORDS)


@pytest.fixture
async def transactional(servers: Servers) -> Servers:
    """The servers, where the broker has transactions."""
    if not (await probe(servers.kafka_bootstrap)).transactions:
        pytest.skip("this broker has no transactions")
    return servers


@pytest.fixture
async def job(transactional: Servers, redis: Redis, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Job]:
    options = eager(clock="event", output_guarantee="exactly_once", send_scores=True)
    job = Job(transactional, redis, topic_prefix, tmp_path, options)
    await job.create_topics()
    await job.pin(LINEUP)
    yield job
    job.end()


async def finish(job: Job) -> None:
    """Wait for the end; the result is the reference's, and nothing is there twice."""
    await job.wait_until(RECORDS)
    await job.wait_drained()
    references = await job.refer(LINEUP)
    await job.compare(references)
    for target, topic in name_topics(job.settings).items():
        wanted = sum(entry.target == target for reference in references for entry in reference.entries)
        assert len(await job.read(topic)) == wanted, await find_copies(job, topic)
    assert len(await job.triggers()) > 100


@pytest.mark.parametrize("moment", ["dies before send", "dies before commit", "dies before trim"])
async def test_a_worker_killed_around_a_transaction_leaves_each_entry_once(
    job: Job, log: list[Record], moment: str
) -> None:
    # given two workers, one after the other, that are killed at their third transaction
    sending = asyncio.create_task(job.send(log, rate=2_000))
    for _ in range(2):
        doomed = job.start_worker(moment)
        assert await asyncio.to_thread(doomed.process.wait, 60) == -signal.SIGKILL

    # when another one takes over
    job.start_worker()
    await sending

    # then all is there once
    await finish(job)


async def test_workers_that_come_and_go_send_each_entry_once(job: Job, log: list[Record]) -> None:
    first = job.start_worker()
    await first.wait_ready()
    sending = asyncio.create_task(job.send(log, rate=2_000))
    await job.wait_until(RECORDS // 10)
    second = job.start_worker()
    await second.wait_ready()
    await job.wait_until(RECORDS // 2)
    first.kill()
    await sending
    await finish(job)
    assert second.stop() == 0


async def test_a_broker_without_transactions_stops_the_start(servers: Servers, redis: Redis, topic_prefix: str) -> None:
    if (await probe(servers.kafka_bootstrap)).transactions:
        pytest.skip("this broker has transactions")
    settings = Settings(
        app=topic_prefix.rstrip("."),
        output_guarantee="exactly_once",
        kafka={"bootstrap": servers.kafka_bootstrap},
        redis={"url": servers.redis_url},
        models={"snapshot_key": KEY},
    )
    with pytest.raises(BadSettings, match="output_guarantee: exactly_once needs a broker with transactions"):
        await Engine(settings).start()


class Outlet:
    """The outbox of one partition, without a worker: entries written to Redis, drains that send them."""

    def __init__(self, servers: Servers, client: Redis, prefix: str) -> None:
        topics = {name: f"{prefix}{name}" for name in ("events", "recommendations", "examples", "dead_letters")}
        self.settings = Settings(
            app=prefix.rstrip("."),
            output_guarantee="exactly_once",
            kafka={"bootstrap": servers.kafka_bootstrap},
            redis={"url": servers.redis_url},
            topics=topics,
            outbox={"max_trigger_age": 0, "max_entry_bytes": 5_000_000},
        )
        self.client = client
        self.metrics = Metrics()
        self.specs = [TopicSpec(name=name, partitions=1) for name in topics.values()]

    async def open(self, kind: type[Drain] = Drain) -> Drain:
        """A new owner's drain, open."""
        fence = await acquire_fence(self.client, TAG, 0)
        out = Transactions(self.settings, 0)
        producer = Producer(self.settings, idempotent=True)
        drain = kind(self.settings, self.client, producer, TAG, fence, self.metrics, Vitals(), out)
        await drain.open()
        return drain

    async def put(self, drain: Drain, *offsets: int, value: bytes = b"") -> None:
        """Entries as a commit would leave them."""
        entries = [Entry(Position(offset, 1), "examples", b"k", value or b"%d" % offset, (), 0) for offset in offsets]
        for entry in entries:
            fields = {"target": entry.target, "key": entry.key, "value": entry.value, "headers": b"", "at": 0}
            await self.client.xadd(name_key("outbox", TAG), fields, id=str(entry.position))  # type: ignore[arg-type]
        drain.add(entries)

    async def wait_empty(self, drain: Drain) -> None:
        for _ in range(1_500):
            if not await self.client.xlen(name_key("outbox", TAG)):
                return
            await drain.wait_for_room()
            await asyncio.sleep(0.01)
        raise AssertionError("the outbox is not drained")


class Doomed(Drain):
    """A drain whose process ends where it is to park an entry."""

    class Died(Exception):
        pass

    async def _park(self, entry: Entry, error: str) -> None:
        raise self.Died


@pytest.fixture
async def outlet(transactional: Servers, redis: Redis, topic_prefix: str) -> AsyncIterator[Outlet]:
    async with connect_redis(Settings(redis={"url": transactional.redis_url})) as client:
        outlet = Outlet(transactional, client, topic_prefix)
        await ensure_topics(transactional.kafka_bootstrap, outlet.specs)
        await await_coordinators(transactional.kafka_bootstrap, [name_group(outlet.settings)])
        yield outlet


async def read_values(outlet: Outlet, tmp_path: Path, prefix: str, servers: Servers) -> Counter[bytes]:
    job = Job(servers, outlet.client, prefix, tmp_path, outlet.settings)
    return Counter(record.value[:9] for record in await job.read(outlet.settings.topics.examples))


async def test_a_drain_whose_partition_moved_sends_nothing_and_says_so(
    outlet: Outlet, tmp_path: Path, topic_prefix: str, transactional: Servers
) -> None:
    old = await outlet.open()
    await outlet.put(old, 1, 2)
    await outlet.wait_empty(old)
    new = await outlet.open()
    await outlet.put(old, 3)
    for _ in range(500):
        try:
            await old.wait_for_room()
        except Refused:
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError("the old owner sends on")
    new.add([Entry(Position(3, 1), "examples", b"k", b"3", (), 0)])
    await outlet.wait_empty(new)
    await old.close()
    await new.close()
    assert await read_values(outlet, tmp_path, topic_prefix, transactional) == {b"1": 1, b"2": 1, b"3": 1}


async def end_again(client: AIOKafkaProducer) -> None:
    """What a request does that the client has given up, and sent again, if it is carried out after all."""
    manager = client._txn_manager
    request = EndTxnRequest(
        transactional_id=manager.transactional_id,
        producer_id=manager.producer_id,
        producer_epoch=manager.producer_epoch,
        transaction_result=TransactionResult.COMMIT,
    )
    node = await client.client.coordinator_lookup(CoordinationType.TRANSACTION, manager.transactional_id)
    await client.client.send(node, request, group=ConnectionGroup.COORDINATION)


async def test_a_request_to_end_a_transaction_that_comes_late_loses_nothing_of_the_next(
    outlet: Outlet, tmp_path: Path, topic_prefix: str, transactional: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would have caught: a place that counts before what it speaks for is with the broker."""
    # given one transaction that is through
    drain = await outlet.open()
    await outlet.put(drain, 1)
    await outlet.wait_empty(drain)
    assert drain.transactions is not None
    client = drain.transactions._client
    assert client is not None
    send = client._sender._send_produce_req

    async def send_late(node: int, batches: Any) -> None:
        monkeypatch.undo()
        await asyncio.sleep(1.0)
        await end_again(client)
        await send(node, batches)

    # when the request that ended it is carried out again, just before the records of the next one are written
    monkeypatch.setattr(client._sender, "_send_produce_req", send_late)
    await outlet.put(drain, 2)
    with suppress(KafkaError):
        await outlet.wait_empty(drain)
    await drain.close()

    # then whoever goes on sends what is missing
    drain = await outlet.open()
    await outlet.wait_empty(drain)
    await drain.close()
    assert await read_values(outlet, tmp_path, topic_prefix, transactional) == {b"1": 1, b"2": 1}


@pytest.mark.parametrize("lost", ["the outbox came back", "decided anew", "and Kafka's group expired"])
async def test_what_a_transaction_reached_is_not_sent_again(
    outlet: Outlet, tmp_path: Path, topic_prefix: str, transactional: Servers, lost: str
) -> None:
    # given entries that were sent, and a Redis that knows nothing of it, or a broker that forgot
    drain = await outlet.open()
    await outlet.put(drain, 1, 2, 3)
    await outlet.wait_empty(drain)
    await drain.close()
    fence, outbox = name_key("fence", TAG), name_key("outbox", TAG)
    if lost == "and Kafka's group expired":
        outlet.settings = outlet.settings.model_copy(update={"app": topic_prefix + "other"})
    else:
        await outlet.client.hdel(fence, "reached")  # type: ignore[misc]
    await outlet.client.delete(outbox)
    if lost == "the outbox came back":
        for offset in (2, 3):
            fields = {"target": "examples", "key": b"k", "value": b"%d" % offset, "headers": b"", "at": 0}
            await outlet.client.xadd(outbox, fields, id=f"{offset}-1")  # type: ignore[arg-type]

    # when the next owner goes on
    drain = await outlet.open()
    if lost != "the outbox came back":
        await outlet.put(drain, 2, 3)
    await outlet.wait_empty(drain)
    await outlet.put(drain, 4)
    await outlet.wait_empty(drain)
    await drain.close()

    # then only what is new was sent, and Redis knows it too
    assert await read_values(outlet, tmp_path, topic_prefix, transactional) == {b"1": 1, b"2": 1, b"3": 1, b"4": 1}
    found = await read_fence(outlet.client, TAG)
    assert found is not None
    assert str(found.reached) == "0/4-1"


async def test_entries_of_a_log_made_anew_are_sent_although_their_offsets_were_reached(
    outlet: Outlet, tmp_path: Path, topic_prefix: str, transactional: Servers
) -> None:
    drain = await outlet.open()
    await outlet.put(drain, 1, 2)
    await outlet.wait_empty(drain)
    await drain.close()
    await outlet.client.delete(name_key("outbox", TAG))
    await outlet.client.hset(name_key("fence", TAG), "generation", "1")  # type: ignore[misc]
    drain = await outlet.open()
    await outlet.put(drain, 1, 2)
    await outlet.wait_empty(drain)
    await drain.close()
    assert await read_values(outlet, tmp_path, topic_prefix, transactional) == {b"1": 2, b"2": 2}


async def test_an_entry_that_the_broker_refuses_is_parked_and_all_others_sent_once(
    outlet: Outlet, tmp_path: Path, topic_prefix: str, transactional: Servers
) -> None:
    drain = await outlet.open()
    await outlet.put(drain, 1, 2, 3)
    await outlet.put(drain, 4, value=b"too large" * 200_000)
    await outlet.put(drain, 5, 6)
    await outlet.wait_empty(drain)
    await drain.close()
    assert outlet.metrics.outbox_parked.total() == 1
    assert [place for place, _ in await outlet.client.xrange(name_key("parked", TAG))] == [b"4-1"]
    wanted = {b"%d" % offset: 1 for offset in (1, 2, 3, 5, 6)}
    assert await read_values(outlet, tmp_path, topic_prefix, transactional) == wanted


@pytest.mark.parametrize("why", ["larger than allowed", "refused by the broker"])
async def test_an_entry_that_was_to_be_parked_when_the_worker_died_is_parked_by_the_next(
    outlet: Outlet, tmp_path: Path, topic_prefix: str, transactional: Servers, why: str
) -> None:
    # given a worker that died when it was to park the entry in the middle
    if why == "larger than allowed":
        bounds = outlet.settings.outbox.model_copy(update={"max_entry_bytes": 100_000})
        outlet.settings = outlet.settings.model_copy(update={"outbox": bounds})
    writer = await outlet.open()
    await writer.close()
    for offset in (1, 2, 3, 4):
        await outlet.put(writer, offset, value=b"too large" * 200_000 if offset == 2 else b"")
    doomed = await outlet.open(Doomed)
    with pytest.raises(Doomed.Died):
        await outlet.wait_empty(doomed)
    await doomed.close()

    # when the next one goes on, then that entry is parked, and the others are there once
    drain = await outlet.open()
    await outlet.wait_empty(drain)
    await drain.close()
    assert [place for place, _ in await outlet.client.xrange(name_key("parked", TAG))] == [b"2-1"]
    wanted = {b"%d" % offset: 1 for offset in (1, 3, 4)}
    assert await read_values(outlet, tmp_path, topic_prefix, transactional) == wanted


async def test_a_log_made_anew_does_not_wait_for_an_outbox_that_nobody_sends(redis_url: str, redis: Redis) -> None:
    async with connect_redis(Settings(redis={"url": redis_url})) as client:
        fence = await acquire_fence(client, TAG, 0)
        await client.xadd(name_key("outbox", TAG), {"target": "examples"}, id="1-1")
        turns = defaultdict(asyncio.Lock)
        source: Any = SimpleNamespace(name="events", redis=client, vitals=Vitals(), turns=turns)
        lane = Lane(source, TopicPartition("events", 0))
        lane.task.cancel()
        session: Any = SimpleNamespace(wait_for_room=fail)
        async with asyncio.timeout(5):
            with pytest.raises(KafkaTimeoutError):
                await lane._begin_anew(session, fence, 0, another=True)


async def fail() -> None:
    raise KafkaTimeoutError("a transaction does not end")
