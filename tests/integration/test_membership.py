"""A worker's stable name: who is killed and back stops nobody else, and who is told to stop keeps nobody waiting."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.broker import probe
from stream.delivery import seat
from stream.delivery.seat import take_seat
from stream.embedded import Servers
from stream.vitals import Vitals
from tests.integration.pulse import feel_pulse
from tests.integration.workers import PARTITIONS, PINNED, Job, Worker, end_task
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

LINEUP = make_lineup("conversion", "click", version=PINNED)
SESSION = 80_000
"""Milliseconds: whatever goes on before it is over was not waited for."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def job(servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Job]:
    if not (await probe(servers.kafka_bootstrap)).static_membership:
        pytest.skip("this broker does not honour names of members")
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event"))
    kafka = job.settings.kafka.model_copy(update={"session_timeout": SESSION})
    job.settings = job.settings.model_copy(update={"kafka": kafka})
    await job.create_topics()
    await job.pin(LINEUP)
    yield job
    job.end()


async def send_for_ever(job: Job) -> None:
    """The load; what comes again is a duplicate, and moves its partition all the same."""
    log = compose_log(4_000, people=2_000)
    while True:
        await job.send(log, rate=400)


async def test_a_killed_worker_gets_its_place_back_and_the_other_keeps_its_own(job: Job, redis: Redis) -> None:
    # given two workers that share the partitions, under load
    first, doomed = job.start_worker(), job.start_worker()
    await asyncio.gather(first.wait_ready(90), doomed.wait_ready(90))
    sending = asyncio.create_task(send_for_ever(job))
    async with feel_pulse(redis, PARTITIONS) as pulse:
        await pulse.wait_moved(range(PARTITIONS), time.monotonic())
        lost, kept = await doomed.partitions(), await first.partitions()
        assert lost | kept == set(range(PARTITIONS))
        owners = dict(pulse.owners)

        # when one is killed and started again
        doomed.kill()
        # What it wrote last may be seen a look later.
        await asyncio.sleep(0.1)
        killed = time.monotonic()
        job.start_worker()
        seconds = await pulse.wait_moved(lost, killed, seconds=SESSION / 1_000)

        # then its partitions are its own again, and the other's were never given out
        assert seconds < SESSION / 1_000
        assert {number: pulse.owners[number] for number in kept} == {number: owners[number] for number in kept}
        assert all(pulse.owners[number] != owners[number] for number in lost)
        await wait_shown(job.workers[-1], lost)
    await end_task(sending)


async def test_two_workers_of_one_name_say_so_until_one_ends(job: Job) -> None:
    kafka = job.settings.kafka.model_copy(update={"instance_id": "worker-7"})
    job.settings = job.settings.model_copy(update={"kafka": kafka})
    first, second = job.start_worker(), job.start_worker()
    for worker in (first, second):
        await wait_named(worker)
        assert worker.log.read_text().count("another process is worker-7 too") == 1
    first.kill()
    await second.wait_ready(60)


async def test_a_name_is_another_s_too_when_its_token_comes_again_and_not_when_it_came_once(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seat, "WATCH_SECONDS", 0.01)
    vitals = Vitals()
    vitals.resume("start")
    watching = asyncio.create_task(seat.watch_seat(redis, "box-0", vitals))
    key = "seat:box-0"
    await asyncio.sleep(0.2)
    assert await redis.get(key)

    # when Redis comes back with the token of a process that is gone, then nothing is said
    await redis.set(key, "of before")
    await asyncio.sleep(0.3)
    assert vitals.ready()[0]

    # when another writes again and again, then it is, until that one ends
    for _ in range(30):
        await redis.set(key, "another")
        await asyncio.sleep(0.02)
    assert [reason.split(":")[0] for reason in vitals.ready()[1]] == ["name"]
    await asyncio.sleep(0.5)
    assert vitals.ready()[0]
    watching.cancel()


async def wait_shown(worker: Worker, partitions: set[int], seconds: float = 10.0) -> None:
    """Wait until the worker's metrics, which are brought up to date twice a second, show these partitions."""
    deadline = time.monotonic() + seconds
    while (found := await worker.partitions()) != partitions:
        assert time.monotonic() < deadline, found


async def wait_named(worker: Worker, seconds: float = 60.0) -> None:
    """Wait until the worker says that another has its name."""
    deadline = time.monotonic() + seconds
    while "name: another" not in await asyncio.to_thread(worker.causes):
        assert time.monotonic() < deadline, worker.log.read_text()
        await asyncio.sleep(0.1)


async def test_a_worker_told_to_stop_leaves_its_place_to_the_others_at_once(job: Job, redis: Redis) -> None:
    first, leaving = job.start_worker(), job.start_worker()
    await asyncio.gather(first.wait_ready(90), leaving.wait_ready(90))
    sending = asyncio.create_task(send_for_ever(job))
    async with feel_pulse(redis, PARTITIONS) as pulse:
        await pulse.wait_moved(range(PARTITIONS), time.monotonic())
        leaving.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(leaving.process.wait, 30) == 0
        assert await pulse.wait_moved(range(PARTITIONS), time.monotonic()) < SESSION / 1_000 / 2
    await end_task(sending)


@pytest.mark.skipif(sys.platform != "linux", reason="seats are told by a mechanism of Linux")
def test_a_seat_is_free_again_as_soon_as_its_process_is_killed(topic_prefix: str) -> None:
    # given seats that two processes of this host have taken
    code = f"from stream.delivery.seat import take_seat; s = take_seat({topic_prefix!r}, 'auto', 'box'); "
    code += "print(s.name, flush=True); input()"
    command = [sys.executable, "-c", code]
    processes = []
    try:
        for number in range(2):
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            assert processes[-1].stdout.readline() == f"box-{number}\n"  # type: ignore[union-attr]

        # when the first is killed, then the next to ask sits there
        processes[0].kill()
        processes[0].wait()
        seat = take_seat(topic_prefix, "auto", "box")
        assert seat is not None
        assert seat.name == "box-0"
        seat.leave()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_names_that_are_asked_for_are_kept_and_hosts_are_spelt_as_kafka_allows() -> None:
    assert take_seat("nudge", "none") is None
    asked = take_seat("nudge", "worker-7")
    assert asked is not None
    assert asked.name == "worker-7"
    if sys.platform == "linux":
        seat = take_seat(f"nudge-{socket.gethostname()}-{time.monotonic_ns()}", "auto", "böx 1!")
        assert seat is not None
        assert seat.name == "b-x-1--0"
        seat.leave()
