"""More partitions under a running worker: said, nothing more decided, and no withdrawal lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from redis.asyncio import Redis

from schemas.privacy import PURPOSES
from stream.embedded import Servers
from stream.partition import find_partition
from stream.produce import Record as Outgoing
from stream.produce import produce
from stream.state.keys import name_key, tag_events
from tests.integration.test_log_mismatch import wait_for_cause
from tests.integration.workers import PARTITIONS, PINNED, Job
from tests.unit.factories import NOON, event
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import eager

GROWN = 3 * PARTITIONS

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def job(servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Job]:
    job = Job(servers, redis, topic_prefix, tmp_path, eager())
    kafka = job.settings.kafka.model_copy(update={"metadata_age": 500})
    job.settings = job.settings.model_copy(update={"kafka": kafka})
    await job.create_topics()
    await job.pin(make_lineup("conversion", "click", version=PINNED))
    yield job
    job.end()


async def test_a_topic_that_grows_under_a_worker_stops_it_and_loses_no_withdrawal(job: Job, broker_kind: str) -> None:
    if broker_kind == "embedded":
        pytest.skip("Tansu adds no partitions")
    # Given: a person with a profile, whose partition would be another one of the grown topic
    user = next(
        name
        for name in map("user-{}".format, range(100))
        if find_partition(name, PARTITIONS, "murmur2") != find_partition(name, GROWN, "murmur2")
    )
    consent = name_key("consent", tag_events(find_partition(user, PARTITIONS, "murmur2")), user)
    worker = job.start_worker()
    await ask(job, user, True)
    await job.wait_until(1)
    value = event(user).of_type("page_view").at(NOON).as_json()
    await produce([Outgoing(user.encode(), value, [])], job.settings.kafka.bootstrap, job.settings.topics.events)
    await job.wait_until(2)

    # When: the topic grows
    admin = AIOKafkaAdminClient(bootstrap_servers=job.settings.kafka.bootstrap)
    await admin.start()
    try:
        await admin.create_partitions({job.settings.topics.events: NewPartitions(GROWN)})
    finally:
        await admin.close()

    # Then: the worker says so and waits
    await wait_for_cause(worker, "partitions")
    assert f"{GROWN} partitions now" in worker.log.read_text()

    # And: a withdrawal meanwhile lies where its person is, for when the topic has been put right
    await ask(job, user, False)
    for _ in range(300):
        requests = [r for r in await job.read(job.settings.topics.events) if r.headers]
        if len(requests) == 2:
            break
    assert [record.partition for record in requests] == [find_partition(user, PARTITIONS, "murmur2")] * 2
    assert await job.read(job.settings.topics.dead_letters) == []
    assert await job.redis.hget(consent, "personalisation") == b"1"


async def ask(job: Job, user: str, allowed: bool) -> None:
    request = {"request_id": "r", "user_id": user, "ts": NOON, "consent": dict.fromkeys(PURPOSES, allowed)}
    record = Outgoing(b"any", msgspec.json.encode(request), [])
    await produce([record], job.settings.kafka.bootstrap, job.settings.topics.privacy)
