"""A worker that is told to stop stops, also when the servers that it talks to are gone."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.embedded import Guard, Servers, start_tansu
from tests.integration.workers import PINNED, Job
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

pytestmark = pytest.mark.timeout(120)


async def test_a_worker_told_to_stop_while_it_starts_finishes_in_order(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event"))
    try:
        await job.create_topics()
        await job.pin(make_lineup("conversion", "click", version=PINNED))
        # when nothing has begun
        worker = job.start_worker()
        await worker.wait_up()
        worker.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.process.wait, 25) == 0, worker.log.read_text()
        # when the first batches are done: the host's own group may take seconds longer to meet
        await job.send(compose_log(500))
        worker = job.start_worker()
        await job.wait_until(1)
        worker.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.process.wait, 25) == 0, worker.log.read_text()
    finally:
        job.end()


async def test_a_worker_whose_broker_is_gone_says_so_and_ends_within_its_grace(
    guard: Guard, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    with start_tansu(guard.make_folder(), guard=guard) as broker:
        servers = Servers(f"127.0.0.1:{broker.port}", redis_url, None)
        job = Job(servers, redis, "shutdown.", tmp_path, eager(clock="event"))
        try:
            await job.create_topics()
            await job.pin(make_lineup("conversion", "click", version=PINNED))
            worker = job.start_worker()
            await worker.wait_ready()
            await job.send(compose_log(500))
            await job.wait_until(500)
            broker.kill()
            for _ in range(150):
                if "broker" in await asyncio.to_thread(worker.causes):
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError("readiness does not tell that the broker is away")
            worker.process.send_signal(signal.SIGTERM)
            # Then: all was committed, and a broker that is away can't keep it
            assert await asyncio.to_thread(worker.process.wait, 25) == 0
            assert "all is committed, but the groups were not left" in worker.log.read_text()
        finally:
            job.end()
