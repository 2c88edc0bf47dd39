"""An event that kills or hangs its process is found and put aside, and all others count as if it had not been there.

Workers are real processes, and are started again as often as they end; in between another may take the partition over.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.agents.score import ENDED
from stream.embedded import Servers
from stream.stages.batch import Batch
from stream.stages.decode import Decoder
from tests.integration.conftest import broker_kinds
from tests.integration.workers import PARTITIONS, PINNED, Job, Worker
from tests.unit.factories import NOON, event
from tests.unit.reference import Record, Reference, WordScorer, make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

LINEUP = make_lineup("conversion", "click", version=PINNED)
RECORDS = 6_000

pytestmark = pytest.mark.timeout(300)


class Doomed:
    """Decodes as the product does, and refuses what processes would end at, as they would find in the end."""

    def __init__(self, decode: Decoder) -> None:
        self.decode = decode

    def __call__(self, batch: Batch) -> None:
        everything = batch.records
        batch.records = [record for record in everything if not is_poison(record)]
        self.decode(batch)
        batch.records = everything
        batch.rejected += [(record, ENDED) for record in everything if is_poison(record)]
        batch.rejected.sort(key=lambda each: each[0].offset)


def is_poison(record: object) -> bool:
    return b"poison" in (getattr(record, "value", None) or b"")


async def refer(job: Job) -> list[Reference]:
    records = await job.read(job.settings.topics.events)
    scorer = WordScorer() if job.settings.sentiment.enabled else None
    references = []
    for partition in range(PARTITIONS):
        mine = sorted((r for r in records if r.partition == partition), key=lambda r: r.offset)
        reference = Reference(job.settings, partition=partition, partitions=PARTITIONS, models=LINEUP, scorer=scorer)
        reference.stages.decode = Doomed(reference.stages.decode)  # type: ignore[assignment]
        await reference.feed(mine)
        references.append(reference)
    return references


def poison(log: Sequence[Record], *places: int) -> list[Record]:
    """The log with a deadly event before each of `places`, from somebody who is nowhere else."""
    found = list(log)
    for place in sorted(places, reverse=True):
        at = log[place]
        deadly = event("victim", content="poison").known_as(f"deadly-{place}").of_type("poison").at(at.timestamp)
        found.insert(place, Record(0, at.timestamp, deadly.as_json(), b"victim"))
    return found


@asynccontextmanager
async def kept_alive(job: Job, wrong: str, number: int) -> AsyncIterator[None]:
    """As many workers, each started again whenever it ends."""

    async def keep() -> None:
        running: list[Worker] = []
        while True:
            running = [worker for worker in running if worker.process.poll() is None]
            while len(running) < number:
                running.append(job.start_worker(wrong))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def set_up(servers: Servers, redis: Redis, prefix: str, folder: Path, size: int) -> Job:
    options = eager(
        clock="event",
        consent={"mode": "optional"},
        batch={"max_records": size, "hang_after": "2s"},
        # Small batches teach the learner few examples at once, and what it publishes could take the pinned version.
        models={"snapshot_interval": "1h"},
    )
    job = Job(servers, redis, prefix, folder, options)
    await job.create_topics()
    await job.pin(LINEUP)
    return job


async def test_an_event_that_kills_every_process_is_put_aside_and_the_others_count(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    job = await set_up(servers, redis, topic_prefix, tmp_path, 32)
    log = poison(compose_log(RECORDS, people=2_000), RECORDS // 3)
    try:
        async with kept_alive(job, "deadly", 2):
            await job.send(log, rate=1_000)
            await job.wait_until(len(log), 200)
            await job.wait_drained()
        ended = sum(worker.process.poll() is not None for worker in job.workers)
        assert 2 < ended <= 2 + 5 + 2
        assert (await job.counts())["dead_letters:crash"] == 1
        await job.compare(await refer(job))
    finally:
        job.end()


@pytest.mark.parametrize(
    ("wrong", "stuck"),
    [("endless", "event loop"), ("texts", "sentiment thread"), ("asleep", None)],
)
async def test_an_event_that_hangs_ends_its_process_and_is_put_aside(
    brokers: Callable[[str], str],
    redis_url: str,
    redis: Redis,
    topic_prefix: str,
    tmp_path: Path,
    wrong: str,
    stuck: str | None,
) -> None:
    servers = Servers(brokers(broker_kinds()[-1]), redis_url, None)
    job = await set_up(servers, redis, topic_prefix, tmp_path, 8)
    if wrong == "texts":
        enabled = job.settings.sentiment.model_copy(update={"enabled": True})
        job.settings = job.settings.model_copy(update={"sentiment": enabled})
    log = poison(compose_log(500, people=200), 200)
    try:
        async with kept_alive(job, wrong, 1):
            await job.send(log)
            await job.wait_until(len(log), 200)
            await job.wait_drained()
        assert (await job.counts())["dead_letters:crash"] == 1
        await job.compare(await refer(job))
        first = job.workers[0].log.read_text()
        if stuck:
            assert f"the {stuck} has not moved for 2 s" in first
        # The dump names the line that hangs.
        assert re.search(r"rough_worker\.py\", line \d+ in (loop|score_many|sleep)", first)
    finally:
        job.end()


async def test_a_worker_that_was_stopped_for_longer_than_a_hang_takes_has_not_hung(
    brokers: Callable[[str], str], redis_url: str, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    servers = Servers(brokers(broker_kinds()[-1]), redis_url, None)
    job = await set_up(servers, redis, topic_prefix, tmp_path, 500)
    log = compose_log(2_000, people=200)
    try:
        worker = job.start_worker()
        await worker.wait_ready()
        await job.send(log[:1_000])
        await job.wait_until(1_000)
        worker.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(3.0)
        worker.process.send_signal(signal.SIGCONT)
        await job.send(log[1_000:])
        await job.wait_until(2_000)
        assert worker.stop() == 0
        await job.wait_drained()
    finally:
        job.end()


async def test_a_bug_that_crashes_every_event_pauses_the_worker_which_goes_on_once_it_is_mended(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    # Given: a version in which a stage fails at every event
    job = await set_up(servers, redis, topic_prefix, tmp_path, 500)
    allowed = job.settings.breaker.in_a_row * PARTITIONS
    # Nothing but events that are scored, or what is denied and refused between them would break the row.
    people = [f"p{number}" for number in range(2_000)]
    log = [Record(0, NOON, event(person).as_json(), person.encode()) for person in people]
    try:
        worker = job.start_worker("broken")
        await worker.wait_ready()
        await job.send(log)
        for _ in range(300):
            if "breaker" in await asyncio.to_thread(worker.causes):
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("readiness does not tell of the breaker")

        # Then: it says so, is not to be restarted for it, and puts aside no more than it may
        await job.wait_until(allowed)
        await asyncio.sleep(3.0)
        causes = await asyncio.to_thread(worker.causes)
        assert "a bug or a setting is to blame" in causes
        assert worker.process.poll() is None
        assert await asyncio.to_thread(worker.is_live)
        assert 'nudge_paused{cause="breaker"} 1.0' in await asyncio.to_thread(worker.metrics)
        assert "raise breaker.in_a_row" in worker.log.read_text()
        counts = await job.counts()
        crashed = counts["dead_letters:crash"]
        assert (crashed, counts["dead_letters"]) == (allowed, allowed)
        assert worker.stop() == 0

        # When: the mended version is started
        job.start_worker()
        # Then: it goes on by itself, and every event counts or is among the few
        await job.wait_until(len(log))
        await job.wait_drained()
        assert (await job.counts())["dead_letters:crash"] == crashed
        letters = [dict(letter.headers) for letter in await job.read(job.settings.topics.dead_letters)]
        assert sum(headers["nudge-reason"] == b"crash" for headers in letters) == crashed
        await job.workers[-1].wait_ready()
    finally:
        job.end()
