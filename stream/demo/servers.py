"""Are the demo's servers fit for it: nothing on them that would be counted along, and a broker that can lead groups."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from aiokafka.errors import GroupCoordinatorNotAvailableError

from stream.commands import CommandError
from stream.commands.connections import count_partitions, open_admin, open_consumer, open_redis
from stream.commands.topic import find_ends, find_partitions
from stream.settings import Settings
from stream.state.partition import read_partitions

COORDINATOR_SECONDS: Final = 20.0


async def prepare_servers(settings: Settings) -> None:
    """Return once the demo may begin. Raises `CommandError` when it may not, and what the clients' outages are."""
    await check_unused(settings)
    await await_coordinator(settings)


async def check_unused(settings: Settings) -> None:
    """Raise `CommandError` if servers that were given hold something that would be counted along."""
    topics = settings.topics
    async with open_redis(settings) as redis:
        if await read_partitions(redis) is not None:
            raise CommandError("redis.url: nudge's state is in that database already; the demo needs an empty one")
    there = await count_partitions(settings)
    ours = (topics.events, topics.privacy, topics.recommendations, topics.examples, topics.dead_letters)
    for name in [name for name in ours if name in there]:
        async with open_consumer(settings) as consumer:
            ends = await find_ends(consumer, await find_partitions(settings, name))
        if any(ends.values()):
            raise CommandError(
                f"topic {name}: holds records already; the demo counts from nothing. Name other topics "
                "(NUDGE_TOPICS_EVENTS=...), or unset NUDGE_KAFKA_BOOTSTRAP for a broker of its own"
            )


async def await_coordinator(settings: Settings) -> None:
    """Return once the broker can lead groups, or after a while all the same.

    A fresh broker makes the topic that this needs at the first question for it; clients that ask meanwhile log errors.
    """
    deadline = time.monotonic() + COORDINATOR_SECONDS
    async with open_admin(settings) as admin:
        while time.monotonic() < deadline:
            try:
                await admin.find_coordinator(f"{settings.app}-events")
            except GroupCoordinatorNotAvailableError:
                await asyncio.sleep(0.1)
            else:
                return
