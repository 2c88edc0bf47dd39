"""What a group's leader answers that a client does not expect holds nobody out of the group."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.embedded import Servers
from stream.produce import Record, produce
from tests.integration.workers import Job
from tests.unit.test_batch_invariance import compose_log, eager

RECORDS = 500

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("wrong", ["loading", "replaced", "outrun"])
async def test_a_member_whose_part_is_refused_joins_again(
    wrong: str, servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    """Would have caught: a broker that was restarted, and was still loading the groups, and members that waited for
    somebody to hear of that, who was not there, for ever; and a process that another of its name had end."""
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event"))
    await job.create_topics()
    try:
        # given groups that answer a member's first request for its part with an error, or that after another came
        worker = job.start_worker(wrong)
        await worker.wait_ready()
        another = job.start_worker()
        await another.wait_ready()
        assert another.stop() == 0

        # then all is done, and the host reads the catalogue too
        await job.send(compose_log(RECORDS))
        await job.wait_until(RECORDS)
        item = Record(b"i1", b'{"item_id": "i1", "title": "one"}')
        await produce([item], servers.kafka_bootstrap, job.settings.topics.items)
        # What it was as a member before, and the other that left, may have to be waited out by the group.
        deadline = time.monotonic() + 90
        while not await redis.exists("item:i1"):
            assert time.monotonic() < deadline, worker.log.read_text()[-4_000:]
            await asyncio.sleep(0.1)
        await worker.wait_ready()
        assert worker.stop() == 0
    finally:
        job.end()
