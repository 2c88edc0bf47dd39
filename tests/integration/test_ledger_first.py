"""Redis lost, and a log that has lost its beginning: what people decided is read back before their events are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition
from redis.asyncio import Redis

from schemas.privacy import PURPOSES
from stream.embedded import Servers
from stream.produce import Record as Outgoing
from stream.produce import produce
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


async def ask(job: Job, people: list[str], allowed: bool) -> None:
    values = [
        {"request_id": user, "user_id": user, "ts": NOON, "consent": dict.fromkeys(PURPOSES, allowed)}
        for user in people
    ]
    records = [Outgoing(b"any", msgspec.json.encode(value), []) for value in values]
    await produce(records, job.settings.kafka.bootstrap, job.settings.topics.privacy)


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
