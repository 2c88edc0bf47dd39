"""The partitions of a topic that a command is about."""

from __future__ import annotations

from aiokafka import TopicPartition

from stream.commands import CommandError
from stream.commands.connections import count_partitions
from stream.settings import Settings


async def find_partitions(settings: Settings, topic: str) -> list[TopicPartition]:
    """Partitions of `topic`. Raises `CommandError` when the broker has no such topic."""
    count = (await count_partitions(settings)).get(topic, 0)
    if not count:
        raise CommandError(
            f"topic {topic}: not on the broker at {settings.kafka.bootstrap}; correct its name under `topics`, or "
            "start a worker, which creates it"
        )
    return [TopicPartition(topic, partition) for partition in range(count)]
