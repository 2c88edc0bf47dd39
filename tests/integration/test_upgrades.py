"""Workers are replaced by newer ones and by older ones, under load: everything counts once, and nothing is reset."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from models import person as people
from models.person import Person
from schemas.profile import HALF_LIFE
from stream.embedded import Servers
from stream.state.forms import WRITTEN
from stream.state.keys import name_key, tag_events
from stream.state.profiles import decode_person
from tests.integration.conftest import broker_kinds
from tests.integration.workers import PARTITIONS, PINNED, Job, Worker, describe_state
from tests.unit.reference import Record, Reference, make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

LINEUP = make_lineup("conversion", "click", version=PINNED)
RECORDS = 20_000

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def job(
    brokers: Callable[[str], str],
    redis_url: str,
    redis: Redis,
    topic_prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """A job on the broker whose groups settle soonest, its models pinned, and a reference that counts like it."""
    for pace in ("BRIEF", "LASTING"):
        monkeypatch.setattr(people, pace, HALF_LIFE)
    servers = Servers(brokers(broker_kinds()[-1]), redis_url, None)
    # What lies in Redis is read again and again, in whatever form it is.
    options = eager(clock="event", batch={"cached_people": 200})
    job = Job(servers, redis, topic_prefix, tmp_path, options)
    await job.create_topics()
    await job.pin(LINEUP)
    yield job
    job.end()


def start(job: Job, age: str = "present") -> Worker:
    """A worker as it is now, or of before (`older`, `oldest`)."""
    name = f"{age}-{len(job.workers)}"
    worker = Worker(job.settings, job.folder, name, age, script="tests.integration.former_worker")
    job.workers.append(worker)
    return worker


async def replace(job: Job, worker: Worker, age: str = "present") -> Worker:
    """Stop a worker as an orchestrator does, and start another that is as old as said."""
    assert await asyncio.to_thread(worker.stop) == 0
    fresh = start(job, age)
    await fresh.wait_ready()
    return fresh


async def send_until(job: Job, over: asyncio.Event) -> int:
    """Send a log, part by part, until it is over; returns how many records that were."""
    log, sent = compose(RECORDS), 0
    while not over.is_set():
        sent += await job.send(log[sent : sent + 100], rate=120)
    assert sent < RECORDS
    return sent


def compose(number: int) -> list[Record]:
    """A log in which no session comes twice: how mixed sessions are counted is what the forms differ in."""
    log = compose_log(number, people=3_000)
    for record in log:
        try:
            told = msgspec.json.decode(record.value or b"")
        except msgspec.DecodeError:
            continue
        if isinstance(told, dict) and "session_id" in told:
            record.value = msgspec.json.encode(told | {"session_id": f"{told['session_id']}-{record.offset}"})
    return log


async def test_workers_replaced_by_newer_and_by_older_ones_under_load_end_as_undisturbed(job: Job) -> None:
    workers = [start(job, "older"), start(job, "older")]
    await asyncio.gather(*(worker.wait_ready() for worker in workers))
    over = asyncio.Event()
    sending = asyncio.create_task(send_until(job, over))

    # When: they are replaced one after the other, and one goes back
    workers = [await replace(job, worker) for worker in workers]
    await job.wait_until(await job.done() + 800)
    upgraded = await read_forms(job)
    await replace(job, workers[0], "older")
    await job.wait_until(await job.done() + 800)
    rolled_back = await read_forms(job)
    over.set()
    await job.wait_until(await sending)
    await job.wait_drained()

    # Then: each left people in its form, and all is as if one had done it
    assert sum(form == WRITTEN for form in upgraded.values()) > 100
    assert sum(form == WRITTEN - 1 and upgraded.get(key) == WRITTEN for key, form in rolled_back.items()) > 10
    assert await compare(job, await job.refer(LINEUP)) > 200
    assert [worker.errors() for worker in job.workers] == [[]] * len(job.workers)


async def test_a_version_that_does_not_know_the_form_stops_and_changes_nothing(job: Job) -> None:
    worker = start(job)
    await worker.wait_ready()
    log = compose(3_000)
    await job.send(log[:1_000])
    await job.wait_until(1_000)
    await job.wait_drained()
    assert worker.stop() == 0
    before = await read_fences(job)

    # When: a version comes back that was there before the form, and events go on coming
    older = start(job, "oldest")
    await job.send(log[1_000:2_000])
    for _ in range(300):
        if "state: " in await asyncio.to_thread(older.causes):
            break
        await asyncio.sleep(0.1)
    else:
        raise AssertionError("readiness does not tell of the state")
    await job.send(log[2_000:])
    await asyncio.sleep(2.0)

    # Then: it says so, is not to be restarted for it, and has written nothing, not even its name
    assert await asyncio.to_thread(older.is_live)
    assert "the state is of form 3, this nudge reads 1, 2." in older.log.read_text()
    assert await read_fences(job) == before
    assert await job.done() == 1_000
    assert older.stop() == 0

    # And: the newer one goes on where it stopped
    await start(job).wait_ready()
    await job.wait_until(len(log))
    await job.wait_drained()
    await job.compare(await job.refer(LINEUP))


async def read_fences(job: Job) -> list[dict[bytes, bytes]]:
    return [await job.redis.hgetall(name_key("fence", tag_events(partition))) for partition in range(PARTITIONS)]


async def read_forms(job: Job) -> dict[bytes, int]:
    """The form in which each person is kept."""
    keys = [key async for key in job.redis.scan_iter(match="profile:*", count=5_000)]
    states = [await job.redis.hget(key, "_0") for key in keys]
    return {key: state[0] for key, state in zip(keys, states, strict=True) if state is not None}


async def compare(job: Job, references: Sequence[Reference]) -> int:
    """All that is kept, byte for byte, and people as they are read; returns how many there are.

    Which sessions are remembered is left out: who passed through the older form has lost all but one.
    """
    people = 0
    for reference in references:
        wanted = describe_state(reference)
        found = await job._hashes(tag_events(reference.partition))
        assert found.keys() == wanted.keys()
        for key, fields in wanted.items():
            if key.startswith("profile:"):
                people += 1
                assert read(found[key]) == read(fields), key
            else:
                assert found[key] == fields, key
    await job._compare_output(references)
    return people


def read(fields: dict[bytes, bytes]) -> Person | None:
    person = decode_person([part for pair in fields.items() for part in pair])
    if person is not None:
        person.sessions = b""
    return person
