"""Redis or the broker slow, hanging, refusing, full or gone, under a worker at work: it waits, says why, and goes on.

One worker lives through several disturbances in a row, each with events under way, and at the end everything is
compared byte for byte with the single-threaded reference. It is never started again, so that its process must live
through all of them. What befalls Redis is tried on the embedded broker alone: the broker plays no part in it.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaTimeoutError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from stream.delivery.lane import MEMBERSHIP_SECONDS, Lane
from stream.embedded import Guard, Server, Servers, free_port, start_kafka, start_redis, start_tansu
from stream.vitals import Vitals
from tests.integration.workers import PINNED, Job, Worker
from tests.unit.reference import Record, make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

LINEUP = make_lineup("conversion", "click", version=PINNED)
SECTION = 600
RATE = 600
"""Records a second."""
TIMEOUT = 400
MEMBERSHIP = 2_000
"""Milliseconds that the worker waits for Redis here, and the group for the worker."""
# A file that may not grow ends its writer by a signal, unless that is ignored; then it is told, as of a full disk.
TOLD_WHEN_FULL = ("/bin/sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh")

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def full_redis(guard: Guard) -> Iterator[Server]:
    """A Redis with an append-only file that may meet a full disk."""
    with start_redis(guard.make_folder(), appendonly=True, guard=guard) as server:
        server._recipe = replace(server._recipe, command=[*TOLD_WHEN_FULL, *server._recipe.command])
        yield server.restart()


def read_state(thread: Path) -> str:
    """State of a thread as the kernel names it; `X` of one that has ended."""
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    os.killpg(server.pid, signal.SIGSTOP)
    try:
        # A thread that has a processor runs on until the machine gets to it, and may answer one request more.
        while {read_state(thread) for thread in Path(f"/proc/{server.pid}/task").iterdir()} - {"T", "Z", "X"}:
            time.sleep(0.001)
        yield
    finally:
        os.killpg(server.pid, signal.SIGCONT)


@contextmanager
def full_disk(server: Server, most: int) -> Iterator[None]:
    """No file of the server grows beyond `most` bytes."""
    pid = server.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        # Who ends of it is started again without the limit.
        with suppress(ProcessLookupError, PermissionError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def size_largest(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@asynccontextmanager
async def full_memory(redis: Redis) -> AsyncIterator[None]:
    await redis.config_set("maxmemory", "1mb")
    yield
    await redis.config_set("maxmemory", "0")


@asynccontextmanager
async def read_only(redis: Redis) -> AsyncIterator[None]:
    """Redis as the replica of a master that nobody reaches, as a fail-over that goes wrong leaves it."""
    await redis.replicaof("127.0.0.1", free_port())
    yield
    await redis.replicaof("NO", "ONE")


class Trial:
    """A worker and the log it works on, sent in sections so that there is work under way in each disturbance."""

    def __init__(self, job: Job, log: list[Record]) -> None:
        self.job = job
        self.log = log
        self.wanted = 0
        self.sending: asyncio.Task[int] | None = None
        self.worker: Worker = job.start_worker()

    async def begin_section(self, *, whole: bool = False) -> None:
        """Begin to send a section, and return when a part of it counts; or, for `whole`, when all of it is sent."""
        section = self.log[self.wanted : self.wanted + SECTION]
        assert len(section) == SECTION, "the log is too short"
        part = self.wanted + SECTION // 4
        self.wanted += SECTION
        self.sending = asyncio.create_task(self.job.send(section, rate=RATE))
        if whole:
            await self.sending
        await self.job.wait_until(part, 30)

    async def holds(self, cause: str, seconds: float = 1.0) -> None:
        """Readiness comes to name `cause`, and names it all the while; liveness sees no reason to end the process."""
        deadline = time.monotonic() + 20
        while cause not in (said := await self.said()):
            assert time.monotonic() < deadline, f"readiness names {said or 'nothing'} and not {cause}"
            await asyncio.sleep(0.02)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert cause in (said := await self.said()), f"readiness names {said or 'nothing'} and not {cause}"
            await asyncio.sleep(0.02)

    async def said(self) -> str:
        assert self.worker.process.poll() is None, self.worker.log.read_text()[-4_000:]
        assert await asyncio.to_thread(self.worker.is_live)
        return await asyncio.to_thread(self.worker.causes)

    async def goes_on(self) -> None:
        """All that was sent comes to count, and the worker is ready again, by itself."""
        if self.sending is not None:
            assert await self.sending == SECTION
        await self.job.wait_until(self.wanted, 30)
        await self.worker.wait_ready(10)


@asynccontextmanager
async def begin(servers: Servers, redis: Redis, prefix: str, folder: Path, log: list[Record]) -> AsyncIterator[Trial]:
    job = Job(servers, redis, prefix, folder, eager(clock="event"))
    given = job.settings
    job.settings = given.model_copy(
        update={
            "redis": given.redis.model_copy(update={"timeout": TIMEOUT}),
            "kafka": given.kafka.model_copy(update={"session_timeout": MEMBERSHIP, "heartbeat": 500}),
        }
    )
    try:
        await job.create_topics()
        await job.pin(LINEUP)
        trial = Trial(job, log)
        await trial.worker.wait_ready()
        yield trial
        await job.wait_drained()
        await job.compare(await job.refer(LINEUP))
    finally:
        job.end()


async def test_a_worker_outlives_whatever_befalls_redis_and_loses_nothing(
    brokers: Callable[[str], str], full_redis: Server, topic_prefix: str, tmp_path: Path
) -> None:
    """What it would have caught: a fail-over to a replica, a full memory or a full disk under which each batch is
    bisected and dead-lettered, because a refusal by Redis was taken for a crash of a stage."""
    servers = Servers(brokers("embedded"), f"redis://127.0.0.1:{full_redis.port}/0", None)
    disturbances = hang, answer_late, refuse_writes, fill_memory, fill_disk, fill_disk_and_die, die, hang_at_the_end
    size = len(disturbances) * SECTION
    lasting = Retry(ConstantBackoff(0.1), 50)
    async with (
        Redis.from_url(servers.redis_url, retry=lasting) as redis,
        begin(servers, redis, topic_prefix, tmp_path, compose_log(size, people=size)) as trial,
    ):
        for disturb in disturbances:
            await trial.begin_section()
            await disturb(trial, full_redis, redis)
            await trial.goes_on()
        told = trial.job.workers[0].log.read_text().count(" Redis: ")
        assert told < 70, "an outage is told once a partition, not at each try"


async def hang(trial: Trial, server: Server, _: Redis) -> None:
    """What it would have caught: a client that waits for ever; readiness that tells of partitions being taken over, and
    not of what prevents that."""
    with stopped(server):
        await trial.holds("redis")


async def answer_late(trial: Trial, _: Server, redis: Redis) -> None:
    """Late, but within the time-out. What it would have caught: one call after the other for each event of a batch."""

    async def pause() -> None:
        while True:
            await redis.execute_command("CLIENT", "PAUSE", TIMEOUT // 4, "ALL")
            await asyncio.sleep(0.02)

    slow = asyncio.create_task(pause())
    await trial.goes_on()
    slow.cancel()


async def refuse_writes(trial: Trial, _: Server, redis: Redis) -> None:
    """What it would have caught: readiness that asks Redis with a PING, and so calls a replica well."""
    async with read_only(redis):
        await trial.holds("redis")


async def fill_memory(trial: Trial, _: Server, redis: Redis) -> None:
    """What it would have caught: a refusal that is taken for the fault of an event."""
    async with full_memory(redis):
        await trial.holds("redis")


async def fill_disk(trial: Trial, server: Server, redis: Redis) -> None:
    """What it would have caught: a worker that ends, or stays paused, when Redis refuses writes for its disk."""
    with full_disk(server, size_largest(server.folder)):
        await trial.holds("redis")
        assert (await redis.info("persistence"))["aof_last_write_status"] == "err"


async def fill_disk_and_die(trial: Trial, server: Server, redis: Redis) -> None:
    """What did not fit into the file was acknowledged all the same, and goes with the process.

    What it would have caught: a worker that goes on where it was, and skips what Redis does not hold any more.
    """
    with full_disk(server, size_largest(server.folder)):
        await trial.holds("redis")
        assert (await redis.info("persistence"))["aof_last_write_status"] == "err"
        server.kill()
    server.restart()


async def die(trial: Trial, server: Server, _: Redis) -> None:
    """What it would have caught: a worker that ends because nobody listens where Redis was."""
    server.kill()
    await trial.holds("redis")
    server.restart()


async def hang_at_the_end(trial: Trial, server: Server, _: Redis) -> None:
    """A worker that is told to stop meanwhile does so, and another goes on. What it would have caught: a stop that
    waits for a Redis which does not answer, until the process is killed."""
    with stopped(server):
        await trial.holds("redis")
        assert await asyncio.to_thread(trial.worker.stop) == 0
    trial.worker = trial.job.start_worker()


@pytest.mark.parametrize("disturbance", [full_memory, read_only])
async def test_a_worker_without_events_is_not_ready_on_a_redis_that_takes_no_writes(
    brokers: Callable[[str], str],
    own_redis: Server,
    topic_prefix: str,
    tmp_path: Path,
    disturbance: Callable[[Redis], AbstractAsyncContextManager[None]],
) -> None:
    """What it would have caught: a quiet worker that asks Redis and is answered, but could commit nothing."""
    servers = Servers(brokers("embedded"), f"redis://127.0.0.1:{own_redis.port}/0", None)
    async with (
        Redis.from_url(servers.redis_url) as redis,
        begin(servers, redis, topic_prefix, tmp_path, compose_log(SECTION)) as trial,
    ):
        async with disturbance(redis):
            await trial.holds("redis")
        await trial.worker.wait_ready(20)
        await trial.begin_section()
        await trial.goes_on()


@pytest.fixture
def own_broker(broker_kind: str, guard: Guard) -> Iterator[Server]:
    """A broker for this test alone, of each kind that can be started here."""
    folder = guard.make_folder()
    if broker_kind == "kafka":
        server = start_kafka(Path(os.environ["KAFKA_HOME"]), folder, guard=guard)
    elif broker_kind == "embedded":
        server = start_tansu(folder, guard=guard)
    else:
        pytest.skip("the broker is not ours to stop")
    with server:
        yield server


async def test_a_worker_outlives_a_broker_that_hangs_and_one_whose_disk_is_full(
    broker_kind: str, own_broker: Server, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    """Apache Kafka ends itself when it can't write a log; the embedded broker writes none, so there it only hangs.

    What it would have caught: a worker that calls itself ready while nothing can come; that calls itself dead, and is
    ended for what a restart does not mend; that forgets what it could not send.
    """
    servers = Servers(f"127.0.0.1:{own_broker.port}", redis_url, None)
    log = compose_log(3 * SECTION, people=3 * SECTION)
    async with begin(servers, redis, "dependencies.", tmp_path, log) as trial:
        await trial.begin_section(whole=True)
        with stopped(own_broker):
            # Longer than the group waits for its members.
            await trial.holds("broker", MEMBERSHIP / 1000 + 0.5)
        await trial.goes_on()
        if broker_kind == "kafka":
            await trial.begin_section(whole=True)
            with full_disk(own_broker, 4_096):
                assert own_broker._process is not None
                await asyncio.to_thread(own_broker._process.wait, 30)
            await trial.holds("broker")
            await asyncio.to_thread(own_broker.restart)
            await trial.goes_on()
        await trial.begin_section()
        await trial.goes_on()


async def test_whether_a_worker_is_a_member_is_not_asked_for_ever_of_a_broker_that_hangs(
    broker_kind: str, own_broker: Server, redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    """What it would have caught: a partition that is said to be taken over, for as long as the broker is away."""
    if broker_kind == "embedded":
        pytest.skip("a group of the embedded broker may take a minute to answer after it hung")
    servers = Servers(f"127.0.0.1:{own_broker.port}", redis_url, None)
    job = Job(servers, redis, "membership.", tmp_path, eager())
    await job.create_topics()
    async with AIOKafkaConsumer(
        job.settings.topics.events,
        bootstrap_servers=servers.kafka_bootstrap,
        group_id="membership",
        enable_auto_commit=False,
        request_timeout_ms=2_000,
    ) as consumer:
        await consumer.seek_to_beginning()
        [partition, *_] = consumer.assignment()
        turns = defaultdict(asyncio.Lock)
        source: Any = SimpleNamespace(name="events", consumer=consumer, redis=redis, vitals=Vitals(), turns=turns)
        lane = Lane(source, partition)
        lane.task.cancel()
        await lane._check_membership(0)
        with stopped(own_broker):
            async with asyncio.timeout(2 * MEMBERSHIP_SECONDS):
                with pytest.raises(KafkaTimeoutError):
                    await lane._check_membership(0)
        await lane._check_membership(0)
