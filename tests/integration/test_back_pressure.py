"""What waits for an output topic that can't be written is bounded, and goes through in order once it can be again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.broker.topics import open_admin
from stream.embedded import Servers
from stream.state.keys import name_key, tag_events
from tests.integration.workers import PARTITIONS, PINNED, Job, Worker
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

pytestmark = pytest.mark.timeout(180)

RECORDS = 9_000
BOUND, BATCH = 100, 50
PER_RECORD = 12
"""More entries than one record of this log brings about."""
LINEUP = make_lineup("conversion", "click", version=PINNED)


async def delete_outlets(job: Job) -> None:
    """Take away what triggers and dead letters go to."""
    async with open_admin(job.settings.kafka.bootstrap, None) as admin:
        await admin.delete_topics([job.settings.topics.recommendations, job.settings.topics.dead_letters])


async def measure_outbox(job: Job) -> list[int]:
    return [await job.redis.xlen(name_key("outbox", tag_events(partition))) for partition in range(PARTITIONS)]


async def wait_paused(worker: Worker, cause: str) -> None:
    deadline = time.monotonic() + 30
    while cause not in await asyncio.to_thread(worker.causes):
        assert time.monotonic() < deadline, worker.log.read_text()[-3_000:]
        await asyncio.sleep(0.05)


async def test_while_the_output_topics_cannot_be_written_the_outbox_is_bounded_and_all_goes_through_in_order_after(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path, broker_kind: str
) -> None:
    """Would have caught: a Redis that fills up with what nobody takes, a worker that is ended for waiting, and entries
    that overtake others when they may go."""
    if broker_kind == "embedded":
        pytest.skip("the embedded broker makes a topic that is gone by itself")
    options = eager(clock="event", outbox={"max_entries": BOUND, "max_trigger_age": 0}, batch={"max_records": BATCH})
    job = Job(servers, redis, topic_prefix, tmp_path, options)
    try:
        # given output topics that are gone, and more than enough to do
        await job.create_topics()
        await job.pin(LINEUP)
        worker = job.start_worker()
        await worker.wait_ready()
        await delete_outlets(job)
        await job.send(compose_log(RECORDS, people=RECORDS))
        await wait_paused(worker, "outbox")

        # then each partition stops at its bound, give or take a batch, and stays there
        deadline = time.monotonic() + 30
        while min(await measure_outbox(job)) < BOUND:
            assert time.monotonic() < deadline, await measure_outbox(job)
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)
        waiting, done = await measure_outbox(job), await job.done()
        assert max(waiting) < BOUND + BATCH * PER_RECORD
        assert done < RECORDS / 2
        for _ in range(20):
            assert "outbox" in await asyncio.to_thread(worker.causes)
            assert await asyncio.to_thread(worker.is_live)
            await asyncio.sleep(0.1)
        assert (await measure_outbox(job), await job.done()) == (waiting, done)

        # when they are there again, then all goes through, in order
        await job.create_topics()
        await job.wait_until(RECORDS)
        await job.wait_drained()
        await worker.wait_ready()
        await job.compare(await job.refer(LINEUP))
        assert worker.stop() == 0
    finally:
        job.end()
