"""The one way in which nudge connects to Redis: no hidden retries, short time-outs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import hiredis
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from stream.settings import Settings


class PackingConnection(Connection):
    """Packs commands in C, as the synchronous client does: the asynchronous one would build each in Python."""

    def pack_command(self, *arguments: Any) -> list[bytes]:
        """One command as it goes over the wire."""
        return [hiredis.pack_command(arguments)]


class PackingTLSConnection(PackingConnection, SSLConnection):
    """The same over TLS."""


async def call(redis: Redis, *command: bytes | str | int | float) -> Any:
    """Run one command; the reply is as Redis sends it, bytes and lists of bytes."""
    return await redis.execute_command(*command)  # type: ignore[no-untyped-call]


async def read_clock(redis: Redis) -> Callable[[], float]:
    """A wall clock (epoch seconds) that was set by Redis' and goes on by itself, so that all workers agree on one.

    That of a worker may be hours off, and would send nothing because all seems stale, or close what is not due yet.
    """
    seconds, micros = await call(redis, "TIME")
    ahead = int(seconds) + int(micros) / 1_000_000 - time.monotonic()
    return lambda: time.monotonic() + ahead


def connect_redis(settings: Settings) -> Redis:
    """Client of the configured Redis.

    A retry inside the client would hide a restart, and with it that state may have gone back: every failure must be
    seen, so that the partition is acquired again and the fence read.
    """
    seconds = settings.redis.timeout / 1000
    pool = ConnectionPool.from_url(
        settings.redis.url,
        # Scripts see numbers and lists alike under either; with 2 every server's replies have one shape.
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        max_connections=64,
    )
    secure = issubclass(pool.connection_class, SSLConnection)
    pool.connection_class = PackingTLSConnection if secure else PackingConnection
    return Redis.from_pool(pool)
