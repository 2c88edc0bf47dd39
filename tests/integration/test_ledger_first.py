"""Redis lost, and a log that has lost its beginning: what people decided is read back before their events are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition
from redis.asyncio import Redis

from schemas.privacy import PURPOSES
from stream.commands.connections import open_producer
from stream.delivery.fence import acquire_fence
from stream.delivery.ledger import restore_consents
from stream.embedded import Servers
from stream.produce import Record as Outgoing
from stream.produce import produce
from stream.state.client import connect_redis
from stream.state.keys import name_key, tag_events
from tests.integration.workers import PARTITIONS, PINNED, Job
from tests.unit.factories import NOON, event
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import eager

PEOPLE = [f"person-{number}" for number in range(60)]
GRANTED, WITHDRAWN = PEOPLE[:40], PEOPLE[:10]
LINEUP = make_lineup("conversion", "click", version=PINNED)

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def job(servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Job]:
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="log"))
    await job.create_topics()
    await job.pin(LINEUP)
    yield job
    job.end()


async def ask(job: Job, people: list[str], allowed: bool, ahead: int = 0) -> None:
    """Send requests, dated by a clock that is `ahead` by so many milliseconds."""
    values = [
        {"request_id": user, "user_id": user, "ts": NOON, "consent": dict.fromkeys(PURPOSES, allowed)}
        for user in people
    ]
    async with open_producer(job.settings) as producer:
        for value in values:
            stamp = int(time.time() * 1000) + ahead
            await producer.send(job.settings.topics.privacy, msgspec.json.encode(value), timestamp_ms=stamp)


async def view(job: Job) -> None:
    """One event of everybody."""
    drafts = [(user, event(user).of_type("page_view").having(event_id="v1").as_json()) for user in PEOPLE]
    records = [Outgoing(user.encode(), value, []) for user, value in drafts]
    await produce(records, job.settings.kafka.bootstrap, job.settings.topics.events)


async def cut_off(job: Job) -> None:
    """Delete what the events topic holds now, as retention would."""
    admin = AIOKafkaAdminClient(bootstrap_servers=job.settings.kafka.bootstrap)
    await admin.start()
    places = [TopicPartition(job.settings.topics.events, number) for number in range(PARTITIONS)]
    try:
        await admin.delete_records({place: RecordsToDelete(-1) for place in places})
    finally:
        await admin.close()


async def test_consents_of_before_the_oldest_event_hold_for_it_after_redis_was_lost(job: Job, broker_kind: str) -> None:
    if broker_kind == "embedded":
        pytest.skip("Tansu deletes no records")
    # Given: some who granted, and some of them who withdrew, which only the ledger knows any more
    worker = job.start_worker()
    await ask(job, GRANTED, True)
    await ask(job, WITHDRAWN, False)
    await job.wait_until(len(GRANTED) + len(WITHDRAWN))
    assert worker.stop() == 0
    await cut_off(job)
    await view(job)

    # When: Redis is lost, and the log read again
    await job.redis.flushall()
    await job.pin(LINEUP)
    job.start_worker()
    await job.wait_until(len(PEOPLE))

    # Then: nobody who had granted was denied meanwhile, and nobody else was let in
    await job.wait_until(len(PEOPLE) + len(GRANTED) + len(WITHDRAWN))
    counts = await job.counts()
    assert (counts["scored"], counts["denied"]) == (30, 30)
    profiles = {
        key.decode().rpartition(":")[2]
        for partition in range(PARTITIONS)
        async for key in job.redis.scan_iter(match=name_key("profile", tag_events(partition)) + ":*", count=1_000)
    }
    assert profiles == set(GRANTED) - set(WITHDRAWN)


async def test_a_withdrawal_that_another_clock_dates_later_holds_for_what_is_read_again(
    job: Job, broker_kind: str
) -> None:
    """Would have caught: ledger and log compared as if one clock had dated both."""
    if broker_kind == "embedded":
        pytest.skip("Tansu deletes no records")
    worker = job.start_worker()
    await ask(job, PEOPLE, True)
    await ask(job, PEOPLE[:20], False, ahead=3_600_000)
    await job.wait_until(len(PEOPLE) + 20)
    assert worker.stop() == 0
    await cut_off(job)
    await view(job)
    await job.redis.flushall()
    await job.pin(LINEUP)
    job.start_worker()
    await job.wait_until(len(PEOPLE))
    await job.wait_until(2 * len(PEOPLE) + 20)
    counts = await job.counts()
    assert (counts["scored"], counts["denied"]) == (len(PEOPLE) - 20, 20)


class Slow:
    """A Redis whose every answer takes a while."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        await asyncio.sleep(0.001)
        return await self.redis.execute_command(*command, **options)


async def test_a_ledger_is_read_to_its_end_however_long_that_takes(job: Job) -> None:
    """Would have caught: a reader that takes its own slowness for the log's end, and lets the rest be unknown."""
    people = [f"person-{number}" for number in range(8_000)]
    await ask(job, people, False)
    async with connect_redis(job.settings) as redis:
        fence = await acquire_fence(redis, tag_events(0), 5, clear=True)
        slow: Any = Slow(redis)
        assert await restore_consents(job.settings, slow, 0, fence, of=1, ledger=1) == len(people)
