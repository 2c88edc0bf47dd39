"""A worker that can't start says why in one line, with the setting to change, and leaves nothing open."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.embedded import Guard, Server, Servers, free_port, start_tansu
from stream.settings import Sentiment
from tests.integration.workers import KEY, PINNED, Job, Worker
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import eager

pytestmark = pytest.mark.timeout(120)

TITLE = "The settings can't be used:"


@pytest.fixture
async def job(servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path) -> Job:
    made = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event"))
    await made.create_topics()
    return made


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def start(job: Job, **variables: str) -> list[str]:
    """Lines that a worker leaves which must not start."""
    worker = Worker(job.settings, job.folder, "hopeless", variables={"NUDGE_LOG_LEVEL": "WARNING", **variables})
    try:
        assert worker.process.wait(60) == 2
    finally:
        worker.kill()
    return worker.log.read_text().splitlines()


async def test_a_taken_port_ends_the_start_with_its_setting_and_nothing_unclosed(job: Job, taken: int) -> None:
    assert start(job, NUDGE_HTTP_PORT=str(taken)) == [
        TITLE,
        f"  http.port: can't serve on 127.0.0.1:{taken} (Address already in use); set NUDGE_HTTP_PORT (0 takes any)",
    ]


async def test_a_sentiment_student_that_is_not_there_ends_the_start_with_its_setting(job: Job) -> None:
    job.settings = job.settings.model_copy(update={"sentiment": Sentiment(student=job.folder / "nothing")})
    title, line = start(job)
    assert title == TITLE
    assert line.startswith("  sentiment.student: ")
    assert "nothing" in line


async def test_a_session_timeout_that_the_broker_refuses_ends_the_start_with_its_setting(
    job: Job, broker_kind: str
) -> None:
    """Would have caught: a worker that can't join its groups, and neither works nor ends, whatever it is told."""
    if broker_kind == "embedded":
        pytest.skip("Tansu takes any")
    lines = start(job, NUDGE_KAFKA_SESSION_TIMEOUT="900ms", NUDGE_KAFKA_HEARTBEAT="250ms")
    assert lines[-2:] == [
        TITLE,
        "  kafka.session_timeout: the broker takes none of 900 ms; its group.min.session.timeout.ms and "
        "group.max.session.timeout.ms say which it takes",
    ]


async def test_another_snapshot_key_than_the_models_were_signed_with_stops_the_start(job: Job) -> None:
    await job.pin(make_lineup("conversion", "click", version=PINNED))
    lines = start(job, NUDGE_MODELS_SNAPSHOT_KEY=f"another-{KEY}")
    # The loader has told each of them before.
    assert lines[-2:] == [
        TITLE,
        "  models.snapshot_key: the snapshots of click, conversion, recommend in Redis are signed with another key; "
        "set that one, or delete the keys `snapshot*` to learn again",
    ]
    assert len(lines) == 5
    assert all(" ERROR stream.agents.models: snapshot " in line for line in lines[:3])
    assert KEY not in "\n".join(lines)


async def wait_said(worker: Worker, words: str) -> None:
    for _ in range(300):
        assert worker.process.poll() is None, worker.log.read_text()[-3_000:]
        if words in worker.log.read_text():
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{words!r} is not said\n" + worker.log.read_text()[-3_000:])


async def test_a_worker_started_before_its_servers_begins_when_they_are_there(
    own_redis: Server, redis: Redis, guard: Guard, tmp_path: Path
) -> None:
    """Would have caught: a worker that ends because it was started first."""
    # given neither Redis nor a broker
    port = free_port()
    servers = Servers(f"127.0.0.1:{port}", f"redis://127.0.0.1:{own_redis.port}/0", None)
    own_redis.kill()
    job = Job(servers, redis, "early.", tmp_path, eager(clock="event"))
    try:
        worker = job.start_worker()
        await wait_said(worker, "no Redis answers")
        await asyncio.sleep(3.0)

        # when one comes, and then the other
        await asyncio.to_thread(own_redis.restart)
        await wait_said(worker, "the Redis answers now")
        await wait_said(worker, "no broker answers")
        await asyncio.sleep(3.0)
        with await asyncio.to_thread(start_tansu, guard.make_folder(), port, guard=guard):
            # then it is at work, and has said of each only once that it waits
            await worker.wait_ready()
            assert worker.log.read_text().count("waiting for it") == 2
            assert worker.stop() == 0
    finally:
        job.end()


async def test_a_password_that_redis_refuses_is_not_waited_for(job: Job, own_redis: Server) -> None:
    async with Redis(port=own_redis.port) as client:
        await client.config_set("requirepass", "another")
        url = f"redis://:{KEY}@127.0.0.1:{own_redis.port}/0"
        worker = Worker(job.settings, job.folder, "refused", variables={"NUDGE_REDIS_URL": url})
        try:
            assert worker.process.wait(30) != 0
        finally:
            worker.kill()
    assert "waiting for it" not in worker.log.read_text()
    assert KEY not in worker.log.read_text()
