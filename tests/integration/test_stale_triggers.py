"""Triggers that are too old when they could be sent are counted and not sent; all else stands as if they had been."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.embedded import Servers
from stream.produce import Record, produce
from tests.integration.workers import PINNED, Job, Worker
from tests.unit.factories import event
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import eager

pytestmark = pytest.mark.timeout(120)

MAX_AGE = 10_000
"""Milliseconds; what is sent at once takes far less, however busy the machine is."""
LINEUP = make_lineup("conversion", "click", version=PINNED)


async def act(job: Job, people: list[str]) -> None:
    now = int(time.time() * 1000)
    kinds = ("ad_impression", "page_view", "add_to_cart")
    drafts = [(user, event(user).of_type(kind).having(event_id=kind).at(now)) for kind in kinds for user in people]
    records = [Record(user.encode(), draft.as_json(), []) for user, draft in drafts]
    await produce(records, job.settings.kafka.bootstrap, job.settings.topics.events)


def count_stale(worker: Worker) -> int:
    found = re.search(r"^nudge_stale_triggers_total (\S+)$", worker.metrics(), re.M)
    assert found is not None
    return int(float(found[1]))


async def test_triggers_too_old_at_the_drain_are_counted_and_not_sent_and_state_stands(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    """Would have caught: a log that is read again, or an outage that ends, and people who are reminded of yesterday; a
    cooldown that begins only with what was sent, so that a replay decides otherwise."""
    options = eager(clock="log", consent={"mode": "optional"}, outbox={"max_trigger_age": MAX_AGE}, idle_after=600_000)
    job = Job(servers, redis, topic_prefix, tmp_path, options)
    old, fresh = [f"old-{n}" for n in range(100)], [f"fresh-{n}" for n in range(100)]
    try:
        # given events that lie in the log for longer than a trigger of theirs is good for
        await job.create_topics()
        await job.pin(LINEUP)
        await act(job, old)
        await asyncio.sleep(MAX_AGE / 1000 + 1)

        # when a worker comes, and then more events
        worker = job.start_worker()
        await job.wait_until(3 * len(old))
        await job.wait_drained()
        await act(job, fresh)
        await job.wait_until(3 * len(old + fresh))
        await job.wait_drained()

        # then the triggers of the first are counted and not sent, those of the others are sent
        references = await job.refer(LINEUP)
        keys = [e.key for r in references for e in r.entries if e.target == "recommendations"]
        stale = [key for key in keys if key.startswith(b"old-")]
        assert len(stale) >= len(old)
        assert await asyncio.to_thread(count_stale, worker) == len(stale)
        sent = sorted(trigger.user_id for trigger in await job.triggers())
        assert sent == sorted(key.decode() for key in keys if key.startswith(b"fresh-"))
        assert len(sent) >= len(fresh)

        # and people, windows and counts are the reference's, which sends all
        for reference in references:
            await job._compare_state(reference)
        assert worker.stop() == 0
    finally:
        job.end()
