"""From one worker to four and back under load: nothing is lost or done twice, no partition stands still for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.delivery.source import divide_deadline
from stream.embedded import Servers
from tests.integration.pulse import Pulse, feel_pulse
from tests.integration.workers import PARTITIONS, PINNED, Job
from tests.unit.reference import Record, make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

RATE = 400
RECORDS = 80_000
"""At most: more than scaling takes on any machine."""
LINEUP = make_lineup("conversion", "click", version=PINNED)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def job(servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Job]:
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event"))
    await job.create_topics()
    await job.pin(LINEUP)
    yield job
    job.end()


async def send_until(job: Job, log: Sequence[Record], stop: asyncio.Event) -> int:
    """Second after second of the log, until told to stop; the number of records sent."""
    sent = 0
    for at in range(0, len(log), RATE):
        if stop.is_set():
            break
        sent += await job.send(log[at : at + RATE], rate=RATE)
    return sent


async def scale(job: Job, pulse: Pulse) -> None:
    """Three more workers, one after the other, and then away with all but the last."""
    for _ in range(3):
        await job.start_worker().wait_ready(90)
        await pulse.wait_moved(range(PARTITIONS), time.monotonic())
    for worker in job.workers[:-1]:
        assert await asyncio.to_thread(worker.stop) == 0
        await pulse.wait_moved(range(PARTITIONS), time.monotonic())


async def test_scaling_to_four_workers_and_back_loses_nothing_and_doubles_nothing(
    job: Job, redis: Redis, broker_kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await job.start_worker().wait_ready(90)
    log, stop = compose_log(RECORDS, people=20_000), asyncio.Event()
    sending = asyncio.create_task(send_until(job, log, stop))
    async with feel_pulse(redis, PARTITIONS) as pulse:
        await pulse.wait_moved(range(PARTITIONS), time.monotonic())
        began = time.monotonic()
        await scale(job, pulse)
        assert not sending.done(), "the load ended before the scaling: the pauses say nothing"
        stop.set()
        pauses = pulse.longest(range(PARTITIONS), began, time.monotonic())
    await job.wait_until(await sending)
    await job.wait_drained()
    await job.compare(await job.refer(LINEUP))
    assert job.workers[-1].stop() == 0
    with capsys.disabled():
        told = ", ".join(f"{number}: {seconds:.2f} s" for number, seconds in pauses.items())
        print(f"\nlongest pause of each partition, 1 to 4 workers and back, {broker_kind}: {told}")
    # Far above what it takes; what waited for a time-out of the rebalance would be above it.
    assert max(pauses.values()) < job.settings.kafka.rebalance_timeout / 1000


def test_all_of_a_revocation_stays_within_its_share_of_the_rebalance() -> None:
    for whole in (1.0, 5.0, 20.0, 300.0):
        work, kept = divide_deadline(whole)
        assert work + kept <= 0.4 * whole + 1e-9
        assert 0 < kept <= 1.0
        assert work > kept
