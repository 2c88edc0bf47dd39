"""Clients of the broker and of Redis for commands: opened from the settings, closed on every way out.

Between opening and closing, an outage becomes one `Unreachable` with the address and what to do; the clients' own
log lines about it are held back. Nothing here joins a consumer group or commits an offset.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
)
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stream.broker import BrokerError, BrokerSilent
from stream.commands import CommandError, Unreachable
from stream.delivery.connection import describe_connection
from stream.settings import BadSettings, Settings
from stream.state.client import check_cluster, connect_redis

OUTAGES: Final = (
    KafkaConnectionError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
    AuthenticationFailedError,
    asyncio.TimeoutError,
)


def name_redis(url: str) -> str:
    """Address in a Redis URL, without user, password or options.

    >>> name_redis("redis://ann:secret@cache.example:6380/2?password=other")
    'cache.example:6380'
    """
    parts = urlsplit(url)
    if parts.hostname is None:
        return parts.path or "no address"
    try:
        port = parts.port or 6379
    except ValueError:
        return parts.hostname
    return f"{parts.hostname}:{port}"


def list_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of every Kafka client: address, security, time-out.

    Raises `BadSettings` when no broker is named or a certificate is of no use.
    """
    if not settings.kafka.bootstrap:
        raise BadSettings("kafka.bootstrap: missing; set NUDGE_KAFKA_BOOTSTRAP=host:port")
    return describe_connection(settings)


@contextmanager
def name_outages(settings: Settings, heard: Heard | None = None) -> Iterator[None]:
    """Turn an outage of either server inside the block into `Unreachable`, a refusal into `CommandError`.

    What was `heard` of the Kafka client meanwhile is named as the reason.
    """
    advice = "is it running, and are address and credentials right? `nudge doctor` checks both servers"
    redis, broker = f"Redis at {name_redis(settings.redis.url)}", f"broker at {settings.kafka.bootstrap}"
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise Unreachable(f"{redis}: {_name(error)}; {advice} (redis.url, NUDGE_REDIS_URL)") from error
    except OUTAGES as error:
        reason = _name(error, heard.last if heard else None)
        raise Unreachable(f"{broker}: {reason}; {advice} (kafka.bootstrap, NUDGE_KAFKA_BOOTSTRAP)") from error
    except BrokerSilent as error:
        raise Unreachable(f"{broker}: {error}; {advice} (kafka.bootstrap, NUDGE_KAFKA_BOOTSTRAP)") from error
    except BrokerError as error:
        if not isinstance(error.__cause__, OUTAGES):
            raise CommandError(f"{broker}: {error}") from error
        reason = _name(error.__cause__, heard.last if heard else None)
        raise Unreachable(f"{broker}: {reason}; {advice} (kafka.bootstrap, NUDGE_KAFKA_BOOTSTRAP)") from error
    except RedisError as error:
        raise CommandError(f"{redis} refused: {error}") from error
    except KafkaError as error:
        raise CommandError(f"{broker} refused: {error}") from error


def _name(error: Exception, reason: Exception | None = None) -> str:
    """Kind of an error and of its reason: their text may hold an address with credentials, or nothing."""
    kinds = dict.fromkeys(type(one).__name__ for one in (error, reason) if one is not None)
    return ", ".join(kinds)


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[Redis]:
    """A client that answers bytes; the server was reached once when the block begins."""
    if not settings.redis.url:
        raise BadSettings("redis.url: missing; set NUDGE_REDIS_URL=redis://host:port")
    try:
        client = connect_redis(settings)
    except ValueError as error:
        # The error may repeat the URL, and so the password.
        raise BadSettings("redis.url: not a Redis address; write redis://host:port/db") from error
    with name_outages(settings):
        try:
            await client.ping()
            await check_cluster(client, settings)
            yield client
        finally:
            await client.aclose()


@asynccontextmanager
async def open_consumer(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without group or assignment; committed records only, where there are transactions."""
    consumer = AIOKafkaConsumer(
        **list_options(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=100,
    )
    async with _started(settings, consumer) as started:
        yield started


@asynccontextmanager
async def open_producer(settings: Settings, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """A producer that waits for every replica; `options` are more of `AIOKafkaProducer`."""
    producer = AIOKafkaProducer(**list_options(settings), **options, acks="all")
    async with _started(settings, producer) as started:
        yield started


@asynccontextmanager
async def open_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client for questions about topics."""
    async with _started(settings, AIOKafkaAdminClient(**list_options(settings))) as started:
        yield started


async def count_partitions(settings: Settings) -> dict[str, int]:
    """Partitions of every topic on the broker, by name.

    All topics are asked for at once: a question about one that is not there would create it on some brokers.
    """
    async with open_admin(settings) as admin:
        return {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}


@asynccontextmanager
async def _started(settings: Settings, client: Any) -> AsyncIterator[Any]:
    stop = client.close if isinstance(client, AIOKafkaAdminClient) else client.stop
    heard = Heard()
    with name_outages(settings, heard), quiet_kafka(heard):
        try:
            await client.start()
            yield client
        finally:
            await stop()


class Heard(logging.Handler):
    """Listens to the Kafka client's log lines: why it could not connect is told nowhere else."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: Exception | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the error that a line is about."""
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, Exception):
                self.last = argument


@contextmanager
def quiet_kafka(heard: Heard | None = None) -> Iterator[None]:
    """Hold back the Kafka client's own log lines inside the block; `heard` gets them."""
    logger, handler = logging.getLogger("aiokafka"), heard or Heard()
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = before
        logger.removeHandler(handler)
