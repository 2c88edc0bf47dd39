"""Are the demo's servers fit for it: nothing on them that would be counted along."""

from __future__ import annotations

from stream.broker import find_ends
from stream.commands import CommandError
from stream.commands.connections import count_partitions, open_consumer, open_redis
from stream.commands.topic import find_partitions
from stream.settings import Settings
from stream.state.partition import read_partitions


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
