"""What a worker's log says of its broker: nothing while all is well, enough and not too much when it is gone."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.embedded import Guard, Server, Servers, start_kafka, start_tansu
from tests.integration.workers import Job, Worker
from tests.unit.test_batch_invariance import compose_log, eager

pytestmark = pytest.mark.timeout(120)


def job_on(broker: Server, redis: Redis, redis_url: str, folder: Path) -> Job:
    return Job(Servers(f"127.0.0.1:{broker.port}", redis_url, None), redis, "quiet.", folder, eager(clock="event"))


@pytest.mark.skipif("KAFKA_HOME" not in os.environ, reason="KAFKA_HOME names no Apache Kafka; others can at once")
async def test_a_first_start_on_a_fresh_broker_logs_no_error(
    guard: Guard, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    with start_kafka(Path(os.environ["KAFKA_HOME"]), guard.make_folder(), guard=guard) as broker:
        job = job_on(broker, redis, redis_url, tmp_path)
        try:
            worker = job.start_worker()
            await worker.wait_ready()
            assert [line for line in worker.log.read_text().splitlines() if " INFO " not in line] == []
        finally:
            job.end()


def list_kinds(worker: Worker) -> Counter[str]:
    """Lines of the Kafka client by logger and their first words, which do not vary."""
    lines = [line.split(" ", 3)[3] for line in worker.log.read_text().splitlines() if " aiokafka" in line]
    return Counter(" ".join(line.split()[:5]) for line in lines)


async def test_a_broker_that_is_gone_does_not_flood_the_log(
    guard: Guard, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    with start_tansu(guard.make_folder(), guard=guard) as broker:
        job = job_on(broker, redis, redis_url, tmp_path)
        try:
            worker = job.start_worker()
            await worker.wait_ready()
            await job.send(compose_log(500))
            await job.wait_until(500)
            before = len(worker.log.read_text().splitlines())

            broker.kill()
            await asyncio.sleep(12)

            kinds = list_kinds(worker)
            assert any("Unable connect" in kind for kind in kinds)
            # Some say the same of each of two connections.
            assert max(kinds.values()) <= 4, kinds
            text = worker.log.read_text()
            assert len(text.splitlines()) - before < 60
            assert " like it in the last " in text
        finally:
            job.end()
