"""The one way in which nudge connects to Redis: no hidden retries, short time-outs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import hiredis
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from stream.settings import BadSettings, Settings
from stream.state.cluster import Cluster


class PackingConnection(Connection):
    """Packs commands in C, as the synchronous client does: the asynchronous one would build each in Python."""

    def pack_command(self, *arguments: Any) -> list[bytes]:
        """One command as it goes over the wire; a name may be of two words."""
        if " " in arguments[0]:
            arguments = (*arguments[0].split(), *arguments[1:])
        return [hiredis.pack_command(arguments)]

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        # A cluster's client that learns the nodes anew closes connections that others are just opening.
        if self._writer is None:
            raise RedisConnectionError("closed before it was open")
        await super()._send_packed_command(command)


class PackingTLSConnection(PackingConnection, SSLConnection):
    """The same over TLS."""


async def call(redis: Redis, *command: bytes | str | int | float) -> Any:
    """Run one command; the reply is as Redis sends it, bytes and lists of bytes."""
    return await redis.execute_command(*command)  # type: ignore[no-untyped-call]


async def ask_servers(redis: Redis, *command: str) -> list[Any]:
    """Run one command on every server that holds state: on the one, or on each primary of a cluster."""
    if not isinstance(redis, Cluster):
        return [await call(redis, *command)]
    return [await redis.execute_command(*command, target_nodes=node) for node in await redis.find_primaries()]


async def check_cluster(redis: Redis, settings: Settings) -> None:
    """Raise `BadSettings` where a node of a cluster is taken for a server that holds everything."""
    try:
        found = {} if settings.redis.cluster else await redis.info("cluster")
    except ResponseError:
        # Not every server tells everybody.
        return
    if found.get("cluster_enabled"):
        raise BadSettings("redis.cluster: the server at redis.url is a node of a Redis Cluster; set it to true")


async def read_clock(redis: Redis) -> Callable[[], float]:
    """A wall clock (epoch seconds) that was set by Redis' and goes on by itself, so that all workers agree on one.

    That of a worker may be hours off, and would send nothing because all seems stale, or close what is not due yet.
    """
    seconds, micros = (await ask_servers(redis, "TIME"))[0]
    ahead = int(seconds) + int(micros) / 1_000_000 - time.monotonic()
    return lambda: time.monotonic() + ahead


def connect_redis(settings: Settings) -> Redis:
    """Client of the configured Redis, or Redis Cluster, which answers to the same calls.

    A retry inside the client would hide a restart, and with it that state may have gone back: every failure must be
    seen, so that the partition is acquired again and the fence read.
    """
    seconds = settings.redis.timeout / 1000
    if settings.redis.cluster:
        return _connect_cluster(settings.redis.url, seconds)
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


def _connect_cluster(url: str, seconds: float) -> Redis:
    cluster = Cluster.from_url(
        url,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        max_connections=64,
        # To learn the nodes anew, every so many moves, it would close the connections under all other commands.
        reinitialize_steps=0,
    )
    kind = PackingTLSConnection if url.startswith("rediss:") else PackingConnection
    # There is no argument for it: these are for the nodes that are found, and the one that they are found through.
    cluster.connection_kwargs["connection_class"] = kind
    for node in cluster.startup_nodes:
        node.connection_class = kind
    return cast(Redis, cluster)
