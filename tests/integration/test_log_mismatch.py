"""When the log is not the one that the fence knows, or the fence is not there: said, and never skipped in silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from redis.asyncio import Redis

from stream.delivery.fence import acquire_fence
from stream.embedded import Servers
from stream.state.keys import name_key, tag_events
from tests.integration.workers import PARTITIONS, PINNED, Job, Worker
from tests.unit.reference import Record, make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

RECORDS = 1_000
LINEUP = make_lineup("conversion", "click", version=PINNED)


def compose_events(seed: int) -> list[Record]:
    """Events alone: no privacy request, and no Segment call that could bring a consent along."""
    records = compose_log(3 * RECORDS, seed=seed, people=500)
    return [r for r in records if not r.headers and b"categoryPreferences" not in (r.value or b"")][:RECORDS]


LOG, OTHER_LOG = compose_events(1), compose_events(2)

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def job(servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Job]:
    """A job of which a worker has done `LOG` and then left. Nobody need consent: a rebuild keeps what was granted."""
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event", consent={"mode": "optional"}))
    await job.create_topics()
    await job.pin(LINEUP)
    await job.send(LOG)
    worker = job.start_worker()
    await job.wait_until(RECORDS)
    await job.wait_drained()
    assert worker.stop() == 0
    yield job
    job.end()


async def make_topic_anew(job: Job, topic: str = "") -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=job.settings.kafka.bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([topic or job.settings.topics.events])
    finally:
        await admin.close()
    await asyncio.sleep(1.0)
    await job.create_topics()


async def wait_for_cause(worker: Worker, cause: str) -> None:
    for _ in range(300):
        if cause in await asyncio.to_thread(worker.causes):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(worker.log.read_text()[-3_000:])


async def test_a_topic_made_anew_pauses_and_says_so(job: Job) -> None:
    await make_topic_anew(job)
    await job.send(OTHER_LOG)
    worker = job.start_worker()
    await wait_for_cause(worker, "log_mismatch")
    assert await job.done() == RECORDS
    assert "was the topic made anew?" in worker.log.read_text()


async def test_a_topic_made_anew_is_read_from_its_start_where_that_is_set(job: Job) -> None:
    await make_topic_anew(job)
    await job.send(OTHER_LOG)
    job.settings = job.settings.model_copy(update={"on_log_mismatch": "earliest"})
    worker = job.start_worker()
    await job.wait_until(2 * RECORDS)
    assert "beginning anew" in worker.log.read_text()


async def test_what_was_decided_of_the_old_log_is_sent_before_the_new_one_is_begun(job: Job) -> None:
    left = {"target": "recommendations", "key": b"ann", "value": b"{}", "headers": b"", "at": int(time.time() * 1000)}
    await job.redis.xadd(name_key("outbox", tag_events(0)), left, id=f"{10**9}-1")
    await make_topic_anew(job)
    await job.send(OTHER_LOG)
    job.settings = job.settings.model_copy(update={"on_log_mismatch": "earliest"})
    job.start_worker()
    await job.wait_until(2 * RECORDS)
    assert b"{}" in [record.value for record in await job.read(job.settings.topics.recommendations)]


async def test_a_lost_fence_means_that_the_log_is_read_again_and_nothing_counts_twice(job: Job) -> None:
    for partition in range(PARTITIONS):
        await job.redis.delete(name_key("fence", tag_events(partition)))
        # Redis loses what it likes: of two of the partitions the counters too.
        if partition % 2:
            await job.redis.delete(name_key("counts", tag_events(partition)))
    worker = job.start_worker()
    await worker.wait_ready()
    await job.wait_until(RECORDS)
    await job.wait_drained()
    await job.compare(await job.refer(LINEUP))


async def test_a_worker_that_died_while_it_cleared_is_followed_by_one_that_goes_on(job: Job) -> None:
    for partition in range(PARTITIONS):
        tag = tag_events(partition)
        await job.redis.delete(name_key("fence", tag))
        await acquire_fence(job.redis, tag, 0, clear=True)
        profiles = [key async for key in job.redis.scan_iter(match=name_key("profile", tag) + ":*", count=1_000)]
        await job.redis.delete(name_key("counts", tag), *profiles[::2])
    job.start_worker()
    await job.wait_until(RECORDS)
    await job.wait_drained()
    await job.compare(await job.refer(LINEUP))


async def test_a_redis_emptied_under_a_quiet_worker_is_noticed_and_the_log_read_again(job: Job) -> None:
    worker = job.start_worker()
    await worker.wait_ready()
    await job.redis.flushall()
    await job.wait_until(RECORDS)
    await job.wait_drained()
    await job.compare(await job.refer(LINEUP))
    assert await job.redis.hget("nudge", "partitions") == b"%d" % PARTITIONS


async def test_a_topic_made_anew_and_still_shorter_is_read_from_its_start_too(job: Job) -> None:
    await make_topic_anew(job)
    await job.send(OTHER_LOG[:200])
    job.settings = job.settings.model_copy(update={"on_log_mismatch": "earliest"})
    job.start_worker()
    await job.wait_until(RECORDS + 200)
