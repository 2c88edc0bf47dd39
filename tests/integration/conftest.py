"""The servers that integration tests run on: each started once a session, and only when a test first asks for it.

Brokers: NUDGE_KAFKA_BOOTSTRAP if set; else the embedded one, and beside it Apache Kafka where KAFKA_HOME names a
distribution, or else a container where there is a Docker engine. Redis: NUDGE_REDIS_URL if set, else the embedded one.
A test that takes `kafka_bootstrap` or `servers` runs once for each broker.
"""

import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from stream.embedded import Guard, Server, Servers, engine_answers, start_kafka, start_redis, start_tansu
from stream.embedded.docker import kafka_container


def broker_kinds() -> list[str]:
    if os.environ.get("NUDGE_KAFKA_BOOTSTRAP"):
        return ["given"]
    if os.environ.get("KAFKA_HOME"):
        return ["embedded", "kafka"]
    return ["embedded", "docker"] if engine_answers() else ["embedded"]


@pytest.fixture(scope="session")
def guard() -> Iterator[Guard]:
    """Ends the session's servers even if the test run is killed."""
    with Guard() as guard:
        yield guard


@pytest.fixture(scope="session")
def brokers(guard: Guard) -> Iterator[Callable[[str], str]]:
    """Kind of broker -> its address; started at the first call, kept for the session whatever order tests run in."""
    started: dict[str, str] = {}
    with ExitStack() as stack:

        def address(kind: str) -> str:
            if kind not in started:
                started[kind] = _start_broker(kind, stack, guard)
            return started[kind]

        yield address


def _start_broker(kind: str, stack: ExitStack, guard: Guard) -> str:
    if kind == "given":
        return os.environ["NUDGE_KAFKA_BOOTSTRAP"]
    if kind == "docker":
        return stack.enter_context(kafka_container())
    folder = guard.make_folder()
    server = (
        start_tansu(folder, guard=guard)
        if kind == "embedded"
        else start_kafka(Path(os.environ["KAFKA_HOME"]), folder, guard=guard)
    )
    stack.callback(server.kill)
    return f"127.0.0.1:{server.port}"


@pytest.fixture(scope="session", params=broker_kinds())
def broker_kind(request: pytest.FixtureRequest) -> str:
    """`given`, `embedded`, `kafka` or `docker`."""
    return str(request.param)


@pytest.fixture(scope="session")
def kafka_bootstrap(broker_kind: str, brokers: Callable[[str], str]) -> str:
    """`host:port` of the broker whose turn it is."""
    return brokers(broker_kind)


@pytest.fixture(scope="session")
def redis_url(guard: Guard) -> Iterator[str]:
    """The session's Redis. Tests empty it, so a given one must be empty to begin with."""
    given = os.environ.get("NUDGE_REDIS_URL")
    if given:
        with SyncRedis.from_url(given) as client:
            if client.dbsize():
                pytest.exit("NUDGE_REDIS_URL names a Redis that holds data, and tests empty it: give them another")
        yield given
        return
    with start_redis(guard.make_folder(), guard=guard) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture(scope="session")
def servers(kafka_bootstrap: str, redis_url: str) -> Servers:
    """A broker and a Redis; the test runs once for each broker."""
    return Servers(kafka_bootstrap, redis_url, None)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client, in the test's own event loop, of an empty Redis."""
    async with Redis.from_url(redis_url) as client:
        await client.flushall()
        yield client


@pytest.fixture
def own_redis(guard: Guard) -> Iterator[Server]:
    """A Redis for this test alone, to be killed and restarted; a restarted one is empty."""
    with start_redis(guard.make_folder(), guard=guard) as server:
        yield server


@pytest.fixture
def own_durable_redis(guard: Guard) -> Iterator[Server]:
    """Like `own_redis`, with the append-only file: a killed and restarted one holds all that it acknowledged."""
    with start_redis(guard.make_folder(), appendonly=True, guard=guard) as server:
        yield server


@pytest.fixture
def topic_prefix() -> str:
    """What this test's topics and groups begin with, so that no two tests share one."""
    return f"test-{uuid.uuid4().hex[:10]}."
