"""Texts that take longer than the group waits for a member hold up their own partition, and nothing else."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.embedded import Servers
from stream.partition import find_partition
from stream.produce import Record, produce
from stream.settings import Sentiment
from stream.state.keys import name_key, tag_events
from tests.integration.workers import PARTITIONS, Job, Worker
from tests.unit.factories import event
from tests.unit.test_batch_invariance import eager

pytestmark = pytest.mark.timeout(180)

TEXTS = 200
OTHERS = 3_000
SLOW = "person-0"
"""Whoever writes all the texts."""
TEXT = 9 * "the parcel came late and the box was torn, but what was inside of it works well enough so far; "


def count_rebalances(worker: Worker) -> float:
    found = re.search(r"^nudge_rebalances_total (\S+)", worker.metrics(), re.M)
    assert found is not None
    return float(found[1])


def count_long_lags(worker: Worker, bound: str) -> float:
    """How often the event loop came more than `bound` seconds late."""
    counts = dict(re.findall(r'^nudge_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', worker.metrics(), re.M))
    return float(counts["+Inf"]) - float(counts[bound])


async def read_next(redis: Redis, partition: int) -> int:
    return int(await redis.hget(name_key("fence", tag_events(partition)), "next") or 0)


async def test_a_batch_of_texts_that_outlasts_the_session_costs_no_membership_and_holds_nobody_else_up(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    """Would have caught: a transformer on the event loop, behind which heartbeats, polls and commits wait."""
    options = eager(consent={"mode": "optional"}, clock="event")
    job = Job(servers, redis, topic_prefix, tmp_path, options)
    job.settings = job.settings.model_copy(update={"sentiment": Sentiment()})
    slow = find_partition(SLOW, PARTITIONS, "murmur2")
    await job.create_topics()
    try:
        worker = job.start_worker()
        await worker.wait_ready()
        before = count_rebalances(worker)

        # When one batch has texts for longer than the session of 3 s, and the other partitions have plenty to do
        reviews = [event(SLOW).of_type("review").having(event_id=f"t{n}", content=f"{n}: {TEXT}") for n in range(TEXTS)]
        people = [f"person-{n}" for n in range(1, OTHERS)]
        drafts = [
            (user, event(user).having(event_id="v"))
            for user in people
            if find_partition(user, PARTITIONS, "murmur2") != slow
        ]
        topic, bootstrap = job.settings.topics.events, job.settings.kafka.bootstrap
        await produce([Record(SLOW.encode(), draft.as_json()) for draft in reviews], bootstrap, topic)
        began = time.monotonic()
        await produce([Record(user.encode(), draft.as_json()) for user, draft in drafts], bootstrap, topic)

        # Then the others are done while the texts are not
        await job.wait_until(len(drafts), 30.0)
        assert await read_next(redis, slow) < TEXTS

        # and the worker is still the same member when the texts are done, which was longer than its session
        await job.wait_until(len(drafts) + TEXTS)
        assert time.monotonic() - began > job.settings.kafka.session_timeout / 1000
        assert count_rebalances(worker) == before
        assert worker.partitions() == set(range(PARTITIONS))
        assert count_long_lags(worker, "2.5") == 0
        assert worker.stop() == 0
        assert worker.errors() == []
    finally:
        job.end()
