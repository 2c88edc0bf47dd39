"""Ways in which stream processors of the field have lost events or done them twice, each tried on this one.

The numbers are those of Faust's issues. Three more are tried elsewhere: an agent that raises (#527) in
`test_main_job.py`, a broker's connection that is reset (robinhood/faust #736) in `tests/faults/test_faults.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from redis.asyncio import Redis

from stream.broker.topics import open_admin
from stream.embedded import Servers
from stream.state.keys import name_key, tag_events
from tests.integration.conftest import broker_kinds
from tests.integration.pulse import feel_pulse
from tests.integration.workers import PARTITIONS, PINNED, Job
from tests.unit.reference import Record, make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

LINEUP = make_lineup("conversion", "click", version=PINNED)
BACKLOG = 2_000
"""Records that wait, at least, where a test is about what was fetched and not done."""

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def job(
    brokers: Callable[[str], str], redis_url: str, redis: Redis, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[Job]:
    """A job on the broker whose groups settle soonest, its models pinned, in small batches."""
    servers = Servers(brokers(broker_kinds()[-1]), redis_url, None)
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event", batch={"max_records": 40}))
    await job.create_topics()
    await job.pin(LINEUP)
    yield job
    job.end()


@asynccontextmanager
async def take_partitions(job: Job) -> AsyncIterator[set[TopicPartition]]:
    """A further member of the group, that takes partitions from the workers and does nothing with them."""
    settings = job.settings
    member = AIOKafkaConsumer(
        settings.topics.events,
        bootstrap_servers=settings.kafka.bootstrap,
        group_id=f"{settings.app}-events",
        enable_auto_commit=False,
        session_timeout_ms=settings.kafka.session_timeout,
        rebalance_timeout_ms=settings.kafka.rebalance_timeout,
        heartbeat_interval_ms=500,
    )
    await member.start()
    try:
        deadline = time.monotonic() + 30
        while not member.assignment():
            assert time.monotonic() < deadline, "the further member got nothing"
            await asyncio.sleep(0.05)
        yield set(member.assignment())
    finally:
        await member.stop()


async def keep_behind(job: Job, log: Sequence[Record], enough: asyncio.Event) -> int:
    """Send `log` a piece at a time, so that a backlog is always there, until it is `enough`; how many were sent."""
    sent = 0
    for start in range(0, len(log), BACKLOG):
        if enough.is_set():
            break
        sent += await job.send(log[start : start + BACKLOG])
        await job.wait_until(sent - BACKLOG)
    return sent


async def read_committed(job: Job) -> dict[int, int]:
    """The group's committed offset of each partition, 0 where there is none."""
    partitions = [TopicPartition(job.settings.topics.events, number) for number in range(PARTITIONS)]
    async with open_admin(job.settings.kafka.bootstrap, None) as admin:
        found = await admin.list_consumer_group_offsets(f"{job.settings.app}-events", partitions=partitions)
    return {partition.partition: max(place.offset, 0) for partition, place in found.items()}


async def read_fences(job: Job) -> dict[int, int]:
    """`next` of each partition."""
    keys = [name_key("fence", tag_events(number)) for number in range(PARTITIONS)]
    return {number: int(await job.redis.hget(key, "next") or 0) for number, key in enumerate(keys)}


async def test_no_offset_is_skipped_after_a_rebalance(job: Job) -> None:
    """#216: a partition comes back, and goes on behind what was fetched and not done."""
    await job.start_worker().wait_ready()
    sending = asyncio.create_task(job.send(compose_log(9_000, people=9_000)))
    await job.wait_until(500)
    # when a backlog is being worked off, and partitions go away and come back
    async with take_partitions(job) as taken:
        assert 0 < len(taken) < PARTITIONS
    sent = await sending
    await job.wait_until(sent)
    # then all of it counts, in the places where the log has it
    assert await job.done() == sent
    assert sum((await read_fences(job)).values()) == sent
    await job.wait_drained()
    await job.compare(await job.refer(LINEUP))


async def test_what_was_fetched_before_a_rebalance_does_not_come_after_what_was_fetched_behind_it(
    job: Job, redis: Redis
) -> None:
    """#221: the old buffer is worked on when another has gone further; a person's events are done out of order."""
    first = job.start_worker()
    await first.wait_ready()
    async with feel_pulse(redis, PARTITIONS) as pulse:
        enough = asyncio.Event()
        sending = asyncio.create_task(keep_behind(job, compose_log(60_000, people=60), enough))
        await job.wait_until(500)
        owners = dict(pulse.owners)
        # when another worker takes partitions over in the middle of a backlog, goes on, and gives them back
        second = job.start_worker()
        taken = await pulse.wait_taken(owners)
        await pulse.wait_moved(taken, time.monotonic())
        assert await asyncio.to_thread(second.stop) == 0
        assert not sending.done(), "all was done before the other came and went"
        enough.set()
    sent = await sending
    await job.wait_until(sent)
    await job.wait_drained()
    # then each person's profile and triggers are what they are in the log's own order
    await job.compare(await job.refer(LINEUP))


async def test_offsets_are_committed_for_a_partition_that_left_and_came_back(job: Job) -> None:
    """#318: nothing is committed any more once a partition returns to its worker, and the lag grows for ever."""
    worker = job.start_worker()
    await worker.wait_ready()
    log = compose_log(3_000, people=3_000)
    sent = await job.send(log[:1_000])
    await job.wait_until(sent)
    async with take_partitions(job):
        pass
    await worker.wait_ready()
    sent += await job.send(log[1_000:])
    await job.wait_until(sent)
    ends = await read_fences(job)
    assert sum(ends.values()) == sent
    deadline = time.monotonic() + 15
    while (found := await read_committed(job)) != ends:
        assert time.monotonic() < deadline, f"committed {found} of {ends}"
        await asyncio.sleep(0.1)


async def test_a_worker_more_does_nothing_twice(job: Job) -> None:
    """#502: on scale-out, what the first has under way is done by the second as well."""
    await job.start_worker().wait_ready()
    log = compose_log(12_000, people=12_000)
    sending = asyncio.create_task(job.send(log, rate=2_000))
    await job.wait_until(500)
    for _ in range(2):
        await job.start_worker().wait_ready()
    sent = await sending
    await job.wait_until(sent)
    await job.wait_drained()
    # what counts twice would make more than was sent
    assert await job.done() == sent
    await job.compare(await job.refer(LINEUP))


async def test_an_offset_is_committed_only_when_all_before_it_is_done(job: Job) -> None:
    """#606: an offset past unfinished work is committed, and a crash then loses that work."""
    worker = job.start_worker()
    await worker.wait_ready()
    sending = asyncio.create_task(job.send(compose_log(6_000, people=6_000), rate=1_000))
    told, killed = {0}, 0
    while not sending.done() or max(told) < sending.result():
        committed = await read_committed(job)
        fences = await read_fences(job)
        assert all(committed[number] <= fences[number] for number in fences), (committed, fences)
        told.add(sum(committed.values()))
        if len(told) == 3 and not killed:
            worker.kill()
            killed = worker.process.pid
            job.start_worker()
    assert killed
    assert await job.done() == sending.result()
