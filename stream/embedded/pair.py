"""The broker and the Redis that a demo or a test runs on: those that are given, and for each that is not, one of ours.

What is started lies in one temporary folder, listens on loopback only, and is gone with its folder when the context
ends or this process does, even by SIGKILL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from stream.embedded.docker import kafka_container, redis_container
from stream.embedded.errors import ServerError
from stream.embedded.guard import Guard
from stream.embedded.kafka import start_kafka
from stream.embedded.redis import start_redis
from stream.embedded.server import HOST, Server
from stream.embedded.tansu import start_tansu

Broker = Literal["embedded", "kafka", "docker"]


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the broker (`host:port`) and the Redis (`redis://host:port/0`) are; `folder` holds those started here."""

    kafka_bootstrap: str
    redis_url: str
    folder: Path | None


@contextmanager
def start_servers(
    broker: Broker = "embedded",
    *,
    kafka_bootstrap: str | None = None,
    redis_url: str | None = None,
    kafka_home: Path | None = None,
) -> Iterator[Servers]:
    """Start what is not given; stop what was started when the context ends.

    `broker` says what to start: `embedded` (Tansu and Valkey, no more than the installed wheels), `kafka` (Apache
    Kafka from `kafka_home`, else from the environment's KAFKA_HOME, and Valkey) or `docker` (both in containers).
    Raises ServerError when that cannot be had.
    """
    with ExitStack() as stack:
        if kafka_bootstrap and redis_url:
            yield Servers(kafka_bootstrap, redis_url, None)
        elif broker == "docker":
            kafka_bootstrap = kafka_bootstrap or stack.enter_context(kafka_container())
            redis_url = redis_url or stack.enter_context(redis_container())
            yield Servers(kafka_bootstrap, redis_url, None)
        else:
            shelter = _Shelter(stack)
            kafka_bootstrap = kafka_bootstrap or f"{HOST}:{shelter.run(_broker_starter(broker, kafka_home)).port}"
            redis_url = redis_url or f"redis://{HOST}:{shelter.run(start_redis).port}/0"
            yield Servers(kafka_bootstrap, redis_url, shelter.folder)


class _Starter(Protocol):
    def __call__(self, folder: Path, *, guard: Guard) -> Server: ...


class _Shelter:
    """One guard and one temporary folder for all servers of a context."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._guard = stack.enter_context(Guard())
        self.folder = self._guard.make_folder()

    def run(self, start: _Starter) -> Server:
        server = start(self.folder, guard=self._guard)
        self._stack.callback(server.kill)  # what it would save on SIGTERM is about to be removed
        return server


def _broker_starter(broker: Literal["embedded", "kafka"], kafka_home: Path | None) -> _Starter:
    if broker == "embedded":
        return start_tansu
    home = kafka_home or os.environ.get("KAFKA_HOME")
    if not home:
        raise ServerError("which Apache Kafka? Set KAFKA_HOME to an unpacked distribution")
    return partial(start_kafka, Path(home))
