"""The servers that a worker needs, waited for: who is started before them begins when they are there.

What waiting does not mend, as a password that is refused, ends the wait with its error.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stream.broker.connection import BrokerError, Connection
from stream.broker.topics import open_admin

log = logging.getLogger(__name__)

AWAY = (RedisConnectionError, RedisTimeoutError, BrokerError, OSError)


async def await_servers(redis: Redis, bootstrap: str, connection: Connection) -> None:
    """Return once Redis and a broker at `bootstrap` answer. Raises what Redis refuses."""

    async def ask_redis() -> None:
        await redis.ping()

    async def ask_broker() -> None:
        async with open_admin(bootstrap, connection):
            pass

    await _await("Redis", "redis.url", ask_redis)
    await _await("broker", "kafka.bootstrap", ask_broker)


async def _await(server: str, setting: str, ask: Callable[[], Awaitable[None]]) -> None:
    waited = False
    while True:
        try:
            await ask()
            break
        except AuthenticationError:
            # To the client, a kind of lost connection.
            raise
        except AWAY as error:
            if not waited:
                # By its kind alone: the text may hold an address with a password.
                kind = type(error.__cause__ or error).__name__
                log.warning("no %s answers (%s); waiting for it, is %s right?", server, kind, setting)
            waited = True
        await asyncio.sleep(random.uniform(0.5, 1.5))
    if waited:
        log.warning("the %s answers now", server)
