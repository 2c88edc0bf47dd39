"""An event that makes a stage fail is found, put aside with its bytes, and holds nobody up."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.embedded import Servers
from tests.integration.workers import PINNED, Job
from tests.unit.factories import NOON, event
from tests.unit.reference import Record, make_lineup
from tests.unit.test_batch_invariance import eager

pytestmark = pytest.mark.timeout(120)


async def test_one_bad_event_is_dead_lettered_as_a_crash_and_the_others_count(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event", consent={"mode": "optional"}))
    await job.create_topics()
    await job.pin(make_lineup("conversion", "click", version=PINNED))
    poison = event("ann").of_type("poison").at(NOON + 500).as_json()
    values = [event("ann").of_type("page_view").at(NOON + number).as_json() for number in range(1_000)]
    values.insert(500, poison)
    try:
        await job.send([Record(number, NOON, value, b"ann") for number, value in enumerate(values)])
        worker = job.start_worker("poison")
        await job.wait_until(1_001)
        await job.wait_drained()
        counts = await job.counts()
        assert (counts["scored"], counts["dead_letters:crash"]) == (1_000, 1)
        [letter] = await job.read(job.settings.topics.dead_letters)
        assert letter.value == poison
        headers = dict(letter.headers)
        assert headers["nudge-reason"] == b"crash"
        assert b"ZeroDivisionError at rough_worker.py" in headers["nudge-error"]
        assert b"secret" not in headers["nudge-error"]
        assert worker.stop() == 0
    finally:
        job.end()
