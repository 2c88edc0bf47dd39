"""The main job against a real broker and a real Redis: whatever happens on the way, the same is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.embedded import Servers
from tests.integration.workers import PINNED, Job
from tests.unit.reference import Record, make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

RECORDS = 20_000
PEOPLE = 20_000
LINEUP = make_lineup("conversion", "click", version=PINNED)

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def log() -> list[Record]:
    return compose_log(RECORDS, people=PEOPLE)


@pytest.fixture
async def job(servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Job]:
    """A job with pinned models on topics of its own. Many people: with few, a cache would hide lost writes."""
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event"))
    await job.create_topics()
    await job.pin(LINEUP)
    yield job
    job.end()


async def finish(job: Job) -> None:
    await job.wait_until(RECORDS)
    await job.wait_drained()
    await job.compare(await job.refer(LINEUP))


async def test_profiles_and_triggers_equal_those_of_the_reference(job: Job, log: list[Record]) -> None:
    worker = job.start_worker()
    await worker.wait_ready()
    assert await job.send(log) == RECORDS
    await finish(job)
    counts = await job.counts()
    assert counts["scored"] > RECORDS / 4
    assert len(await job.triggers()) == counts["triggers"] > 100
    assert worker.stop() == 0
    assert worker.errors() == []


async def test_a_killed_worker_leaves_no_trace_in_the_result(job: Job, log: list[Record]) -> None:
    worker = job.start_worker()
    await worker.wait_ready()
    sending = asyncio.create_task(job.send(log))
    for share in (0.2, 0.5):
        await job.wait_until(int(RECORDS * share))
        worker.kill()
        worker = job.start_worker()
    await sending
    await finish(job)


async def test_a_second_worker_joins_and_nothing_is_lost_or_done_twice(job: Job, log: list[Record]) -> None:
    first = job.start_worker()
    await first.wait_ready()
    sending = asyncio.create_task(job.send(log, rate=4_000))
    await job.wait_until(RECORDS // 10)
    second = job.start_worker()
    await second.wait_ready()
    await sending
    await job.wait_until(RECORDS * 3 // 4)
    assert first.stop() == 0
    await finish(job)
    assert second.stop() == 0


async def test_agents_that_raise_and_rebalances_of_the_host_lose_nothing(job: Job, log: list[Record]) -> None:
    """Would have caught: an event acknowledged although the agent raised (Faust #527)."""
    worker = job.start_worker("agents")
    await worker.wait_ready()
    other = job.start_worker("host")
    await job.send(log[: RECORDS // 2], rate=2_000)
    for _ in range(600):
        # How long a member takes to join depends on the broker.
        if worker.log.read_text().count("rebalance of the host") > 2:
            break
        await asyncio.sleep(0.1)
    await job.send(log[RECORDS // 2 :], rate=2_000)
    await finish(job)
    assert other.process.poll() is None
    said = worker.log.read_text()
    assert said.count("RuntimeError: raised on purpose") > 3
    assert said.count("rebalance of the host") > 1
