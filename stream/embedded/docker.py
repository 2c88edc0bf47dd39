"""Apache Kafka and Redis in containers, through testcontainers, where there is a Docker engine.

testcontainers is a development dependency and imported only here. Its own reaper container removes what a killed
process leaves behind.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager

from stream.embedded.errors import ServerError

_KAFKA_IMAGE = "confluentinc/cp-kafka:7.9.0"
_REDIS_IMAGE = "redis:7.4-alpine"


def engine_answers() -> bool:
    """True when testcontainers is installed and a Docker engine answers."""
    return _engine_problem() is None


@contextmanager
def kafka_container() -> Iterator[str]:
    """A one-node Kafka in KRaft mode; yields `host:port`. Raises ServerError when there is no engine."""
    _require_engine()
    from testcontainers.community.kafka import KafkaContainer

    container = KafkaContainer(_KAFKA_IMAGE).with_kraft()
    container.with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
    with container.with_env("KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS", "1000"):
        yield container.get_bootstrap_server()


@contextmanager
def redis_container() -> Iterator[str]:
    """A Redis that evicts and keeps nothing; yields its URL. Raises ServerError when there is no engine."""
    _require_engine()
    from testcontainers.community.redis import RedisContainer

    container = RedisContainer(_REDIS_IMAGE)
    container.with_command(["redis-server", "--save", "", "--maxmemory-policy", "noeviction"])
    with container:
        yield f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(container.port)}/0"


def _require_engine() -> None:
    if problem := _engine_problem():
        raise ServerError(f"no Docker engine answers ({problem}): start one, or choose another broker")


def _engine_problem() -> str | None:
    try:
        import docker  # type: ignore[import-untyped]
    except ImportError:
        return "testcontainers is not installed, see the extra `dev`"
    problem: str | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with closing(docker.from_env(timeout=5)) as client:
                client.ping()
        except docker.errors.DockerException as error:
            problem = str(error)
        if problem:
            gc.collect()  # docker-py forgets the socket of a failed connection: let it be closed, unheard, here
    return problem
