"""Several processes of one worker: they divide the work, one that dies is replaced, and all end with their parent."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.embedded import Servers
from tests.integration.workers import PARTITIONS, PINNED, Job, Worker
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

LINEUP = make_lineup("conversion", "click", version=PINNED)
RECORDS = 3_000
PROCESSES = 2

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]


def list_members(parent: int) -> list[int]:
    """Process ids of the crew under `parent`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(status[1]) == parent and status[0] != "Z" and b"spawn_main" in command:
            found.append(int(folder.name))
    return sorted(found)


async def wait_members(parent: int, unlike: set[int], seconds: float = 30.0) -> list[int]:
    """Wait until as many as there are to be run under `parent`, none of them one of `unlike`."""
    deadline = time.monotonic() + seconds
    while len(found := list_members(parent)) < PROCESSES or unlike & set(found):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)
    return found


def prepare(servers: Servers, redis: Redis, prefix: str, folder: Path) -> Job:
    job = Job(servers, redis, prefix, folder, eager(clock="event"))
    job.settings = job.settings.model_copy(update={"processes": PROCESSES})
    return job


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def read_partitions(port: int) -> set[int]:
    """The partitions at work in the process that serves its page there; none while it serves none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            return {int(number) for number in re.findall(r'^nudge_lag\{partition="(\d+)"', page.read().decode(), re.M)}
    except OSError:
        return set()


async def wait_divided(worker: Worker, seconds: float = 90.0) -> None:
    """Wait until each process has some of the partitions, and together they have all."""
    deadline = time.monotonic() + seconds
    while True:
        parts = [await asyncio.to_thread(read_partitions, worker.port + place) for place in range(PROCESSES)]
        if all(parts) and sorted(number for part in parts for number in part) == list(range(PARTITIONS)):
            return
        assert time.monotonic() < deadline, parts
        await asyncio.sleep(0.1)


async def test_processes_divide_the_partitions_and_one_that_is_killed_is_replaced(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    job = prepare(servers, redis, topic_prefix, tmp_path)
    await job.create_topics()
    await job.pin(LINEUP)
    try:
        worker = job.start_worker()
        members = await wait_members(worker.process.pid, set())
        await worker.wait_ready(90)
        log = compose_log(RECORDS, people=1_000)
        sent = await job.send(log[: RECORDS // 2])
        await wait_divided(worker)

        # when one is killed, then another takes its place, and nothing is lost or done twice
        os.kill(members[-1], signal.SIGKILL)
        sent += await job.send(log[RECORDS // 2 :])
        await wait_members(worker.process.pid, {members[-1]})
        await job.wait_until(sent)
        await wait_divided(worker)
        await job.wait_drained()
        await job.compare(await job.refer(LINEUP))

        # and when the worker is told to stop, all have ended in order
        members = list_members(worker.process.pid)
        assert await asyncio.to_thread(worker.stop) == 0
        assert not any(is_alive(pid) for pid in members)
    finally:
        job.end()


async def test_processes_end_when_their_parent_is_killed(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    job = prepare(servers, redis, topic_prefix, tmp_path)
    await job.create_topics()
    worker = job.start_worker()
    try:
        members = await wait_members(worker.process.pid, set())
        await worker.wait_ready(90)
        worker.kill()
        deadline = time.monotonic() + 30
        while any(is_alive(pid) for pid in members):
            assert time.monotonic() < deadline, "they outlive their parent"
            await asyncio.sleep(0.05)
    finally:
        job.end()


async def test_what_stops_a_start_stops_all_and_is_told(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    job = prepare(servers, redis, topic_prefix, tmp_path)
    await job.create_topics()
    models = job.settings.models.model_copy(update={"pinned": 7})
    worker = Worker(job.settings.model_copy(update={"models": models}), tmp_path)
    assert await asyncio.to_thread(worker.process.wait, 90) == 2
    assert "can't begin its work" in worker.log.read_text()
    assert "no snapshot of version 7" in worker.log.read_text()
