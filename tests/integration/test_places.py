"""Where partitions begin and go on when somebody says so: the first start, a loss of Redis, `nudge fence reset`."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from stream.delivery.fence import acquire_fence, advance_fence, place_fence, read_fence
from stream.embedded import Servers
from stream.stages.batch import Position
from stream.state.keys import name_key, tag_events
from tests.integration.workers import KEY, PARTITIONS, PINNED, ROOT, Job
from tests.unit.reference import Record, make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

LINEUP = make_lineup("conversion", "click", version=PINNED)

pytestmark = pytest.mark.timeout(180)


def compose_events(seed: int, count: int) -> list[Record]:
    """Events alone, of people who need no consent."""
    records = compose_log(3 * count, seed=seed, people=200)
    return [r for r in records if not r.headers and b"categoryPreferences" not in (r.value or b"")][:count]


OLD, NEW = compose_events(3, 400), compose_events(4, 150)


@pytest.fixture
async def job(servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Job]:
    """A job whose topic holds `OLD`, and of which no worker has seen anything."""
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event", consent={"mode": "optional"}))
    await job.create_topics()
    await job.pin(LINEUP)
    await job.send(OLD)
    yield job
    job.end()


def configure(job: Job, **options: str) -> None:
    job.settings = job.settings.model_copy(update=options)


async def reset(job: Job, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`nudge fence reset`, with the configuration of the job's last worker."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("NUDGE_")}
    env |= {"NUDGE_CONFIG": str(job.folder / "nudge.yaml"), "NUDGE_MODELS_SNAPSHOT_KEY": KEY, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stream.cli", "fence", "reset", *arguments]
    return await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True, timeout=60)


async def test_a_first_start_at_the_end_reads_nothing_that_is_older(job: Job) -> None:
    configure(job, start_from="latest")
    await job.start_worker().wait_ready()
    await job.send(NEW)
    await job.wait_until(len(NEW))
    await asyncio.sleep(0.5)
    assert await job.done() == len(NEW)


async def test_a_first_start_at_the_end_stays_one_when_redis_refuses_it_at_first(job: Job) -> None:
    """Would have caught: an offset told to the group before there is a fence, taken for a loss of state later."""
    configure(job, start_from="latest")
    worker = job.start_worker()
    for _ in range(300):
        if await asyncio.to_thread(worker.causes):
            break
        await asyncio.sleep(0.05)
    # When: Redis takes nothing just when partitions are taken first
    await job.redis.config_set("maxmemory", "1")
    try:
        await asyncio.sleep(4.0)
    finally:
        await job.redis.config_set("maxmemory", "0")
    await worker.wait_ready()
    await job.send(NEW)
    await job.wait_until(len(NEW))
    await asyncio.sleep(0.5)
    assert await job.done() == len(NEW)


async def test_a_first_start_at_a_time_reads_what_came_from_then_on(job: Job) -> None:
    await asyncio.sleep(0.2)
    since = datetime.now(UTC)
    await job.send(NEW)
    configure(job, start_from=since.isoformat())
    job.start_worker()
    await job.wait_until(len(NEW))
    await asyncio.sleep(0.5)
    assert await job.done() == len(NEW)


async def test_a_loss_of_redis_may_be_answered_by_going_on(job: Job) -> None:
    worker = job.start_worker()
    await job.wait_until(len(OLD))
    await job.wait_drained()
    assert worker.stop() == 0
    await job.redis.flushall()
    await job.pin(LINEUP)
    configure(job, on_state_loss="resume")
    worker = job.start_worker()
    await worker.wait_ready()
    await job.send(NEW)
    await job.wait_until(len(NEW))
    await asyncio.sleep(0.5)
    assert await job.done() == len(NEW)
    # It is told, or nobody would know why counts and profiles began anew.
    told = re.findall(
        r"events (\d): Redis has lost its state, which reached offset (\d+); on_state_loss: resume",
        worker.log.read_text(),
    )
    assert sum(int(offset) for _, offset in told) == len(OLD)
    losses = re.search(r"^nudge_state_losses_total (\S+)$", worker.metrics(), re.M)
    assert losses is not None
    assert float(losses[1]) >= len(told) > 0


@pytest.mark.parametrize("way", ["start_from", "reset"])
async def test_a_loss_of_redis_does_not_bring_back_what_was_passed_over_at_the_beginning(
    job: Job, way: str, broker_kind: str
) -> None:
    """Would have caught: a beginning that stands in Redis alone, and is lost with what it was the beginning of."""
    if broker_kind == "embedded":
        pytest.skip("Tansu keeps no metadata of offsets")
    if way == "start_from":
        configure(job, start_from="latest")
    worker = job.start_worker()
    await worker.wait_ready()
    if way == "reset":
        await job.wait_until(len(OLD))
        await job.wait_drained()
        assert (await reset(job, "--to-latest", "--clear", "--yes")).returncode == 0
        await job.wait_until_cleared(len(OLD))
        await worker.wait_ready()
    await job.send(NEW)
    await job.wait_until(len(NEW))
    await job.wait_drained()
    assert worker.stop() == 0

    await job.redis.flushall()
    await job.pin(LINEUP)
    await job.start_worker().wait_ready()
    await job.wait_until(len(NEW))
    await asyncio.sleep(0.5)
    assert await job.done() == len(NEW)


async def test_a_reset_that_clears_has_a_running_worker_make_everything_again(job: Job) -> None:
    # Given: a worker that has done all, and keeps running
    job.start_worker()
    await job.wait_until(len(OLD))
    await job.wait_drained()

    # When: an operator sends it back to the start, and sets the state aside
    clearing = asyncio.create_task(job.wait_until_cleared(len(OLD)))
    run = await reset(job, "--to-earliest", "--clear", "--yes")
    assert run.returncode == 0, run.stderr
    assert "read again" in run.stdout

    # Then: everything is made again, once
    await clearing
    await job.wait_until(len(OLD))
    await job.wait_drained()
    await job.compare(await job.refer(LINEUP))


async def test_a_reset_to_an_offset_goes_on_there_and_passes_the_rest_over(job: Job) -> None:
    worker = job.start_worker()
    await job.wait_until(len(OLD))
    await job.wait_drained()
    assert worker.stop() == 0
    await job.send(NEW)
    assert (await reset(job, "--to-latest", "--yes")).returncode == 0
    await job.start_worker().wait_ready()
    await job.send(NEW[:50])
    await job.wait_until(len(OLD) + 50)
    await asyncio.sleep(0.5)
    assert await job.done() == len(OLD) + 50


async def test_a_reset_says_what_it_can_not_do_and_changes_nothing(job: Job) -> None:
    worker = job.start_worker()
    await job.wait_until(len(OLD))
    await job.wait_drained()
    assert worker.stop() == 0
    before = [await job.redis.hget(name_key("fence", tag_events(number)), "next") for number in range(PARTITIONS)]
    await job.redis.xadd(name_key("outbox", tag_events(PARTITIONS - 1)), {"target": "examples"}, id="999999-1")
    for arguments, words in (
        (("--to-offset", "1000000"), "has no offset 1000000"),
        (("--to-earliest", "--partition", "9"), "has no partition 9"),
        # of the last partition, when all the others could be moved
        (("--to-earliest",), "entries wait in the outbox of partition"),
        (("--to-time", "yesterday"), "ISO 8601"),
        (("--to-earliest", "--to-latest"), "give one of"),
    ):
        run = await reset(job, *arguments, "--yes")
        assert run.returncode != 0
        assert words in " ".join(run.stderr.replace("│", " ").split())
        assert "Traceback" not in run.stderr
    after = [await job.redis.hget(name_key("fence", tag_events(number)), "next") for number in range(PARTITIONS)]
    assert after == before


async def test_a_fence_moved_on_keeps_the_last_place_and_one_moved_back_gives_it_up(redis: Redis) -> None:
    tag = tag_events(0)
    for at, wanted in ((5, Position(4, 2)), (9, Position(4, 2)), (4, Position(-1, 0))):
        await redis.flushall()
        held = await acquire_fence(redis, tag, 0)
        to = msgspec.structs.replace(held, next=5, emitted=Position(4, 2))
        await advance_fence(redis, tag, held, to, [])
        await place_fence(redis, tag, to, at, clear=False)
        found = await read_fence(redis, tag)
        assert found is not None
        assert (found.next, found.emitted) == (at, wanted)
