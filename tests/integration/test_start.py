"""A worker that can't start says why in one line, with the setting to change, and leaves nothing open."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from stream.embedded import Servers
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
