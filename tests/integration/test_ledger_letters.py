"""What can not be read in the ledger, and is too large for the dead letters, holds up no request; requests hold it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis.asyncio import Redis

from schemas.privacy import LEDGER_HEADER, PURPOSES
from stream.agents.privacy import PrivacySession
from stream.delivery.entries import read_entry
from stream.delivery.errors import DeliveryError
from stream.delivery.fence import acquire_fence, read_fence
from stream.delivery.producer import Producer
from stream.embedded import Servers
from stream.metrics import Metrics
from stream.produce import Record as Outgoing
from stream.produce import produce
from stream.settings import Settings
from stream.stages.batch import Position
from stream.state.client import connect_redis
from stream.state.keys import name_key, tag_source
from tests.integration.workers import PINNED, Job
from tests.unit.factories import NOON
from tests.unit.reference import Record, make_lineup
from tests.unit.test_batch_invariance import eager

TAG = tag_source("privacy", 0)
GARBAGE = b"x" * 1_048_450
"""Fits into a record of the ledger, and not into one that says in headers why it lies with the dead letters."""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def need_limits(broker_kind: str) -> None:
    if broker_kind == "embedded":
        pytest.skip("the embedded broker takes records of any size")


@pytest.fixture
async def job(servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Job]:
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="log"))
    await job.create_topics()
    await job.pin(make_lineup("conversion", "click", version=PINNED))
    yield job
    job.end()


def ask(user: str) -> bytes:
    request = {"request_id": user, "user_id": user, "ts": NOON, "consent": dict.fromkeys(PURPOSES, False)}
    return msgspec.json.encode(request)


async def test_a_letter_that_the_broker_refuses_is_parked_and_requests_are_passed_on_once(job: Job) -> None:
    # Given: a worker, and a record between two requests that fits nowhere else
    worker = job.start_worker()
    await worker.wait_ready()
    values = [ask("ann"), GARBAGE, ask("bob")]

    # When: they come
    records = [Outgoing(b"any", value, []) for value in values]
    await produce(records, job.settings.kafka.bootstrap, job.settings.topics.privacy)
    await job.wait_until(2)

    # Then: both requests count, and were passed on once
    assert worker.stop() == 0
    places = [dict(each.headers)[LEDGER_HEADER] for each in await job.read(job.settings.topics.events)]
    assert sorted(places) == [b"0/0", b"0/2"]
    fence = await read_fence(job.redis, TAG)
    assert fence is not None
    assert fence.next == 3

    # And: the record lies with the parked, and that was said
    [(identity, fields)] = await job.redis.xrange(name_key("parked", TAG))  # type: ignore[misc]
    entry = read_entry(identity, fields)  # type: ignore[arg-type]
    assert (entry.position, entry.target, entry.key, entry.value) == (Position(1, 1), "dead_letters", b"any", GARBAGE)
    [said] = worker.errors()
    assert "entry 1-1 parked" in said


async def test_a_request_that_the_broker_refuses_holds_the_ledger(
    servers: Servers, redis: Redis, topic_prefix: str
) -> None:
    # Given: an events topic that takes next to nothing
    topics = {name: f"{topic_prefix}{name}" for name in ("events", "privacy", "dead_letters")}
    admin = AIOKafkaAdminClient(bootstrap_servers=servers.kafka_bootstrap)
    await admin.start()
    limits = {"events": "100", "dead_letters": "1000000"}
    await admin.create_topics(
        [NewTopic(topics[name], 1, 1, topic_configs={"max.message.bytes": most}) for name, most in limits.items()]
    )
    await admin.close()
    settings = Settings(kafka={"bootstrap": servers.kafka_bootstrap}, redis={"url": servers.redis_url}, topics=topics)
    producer, metrics = Producer(settings, idempotent=True), Metrics()
    async with connect_redis(settings) as client:
        fence = await acquire_fence(client, TAG, 0)
        session = PrivacySession(settings, client, producer, 0, fence, metrics)

        # When: a record is to be parked that stands alone
        await session.handle([Record(0, NOON, GARBAGE)])

        # Then: it was counted, and is passed
        passed = await read_fence(client, TAG)
        assert passed == session.fence
        assert passed.next == 1
        assert metrics.outbox_parked.total() == 1

        # When: a request comes behind such a record
        with pytest.raises(DeliveryError, match="offset 2"):
            await session.handle([Record(1, NOON, GARBAGE), Record(2, NOON, ask("ann"))])
        await producer.stop()

        # Then: nothing of them is done with
        assert await read_fence(client, TAG) == passed
        assert metrics.outbox_parked.total() == 1
