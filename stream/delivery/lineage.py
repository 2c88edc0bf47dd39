"""Lineage: what a fence that gets lost must not take with it.

Redis may lose a fence, and then the log is read again. Two things no log says of itself: how often it was made anew,
without which its low offsets are taken for copies of an older one's, and where in it the state once began. They travel
as metadata of the offsets that the group is told, and are read back where a partition has no fence.
"""

from __future__ import annotations

from typing import NamedTuple

from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from stream.broker.connection import BrokerError
from stream.broker.topics import open_admin
from stream.delivery.connection import describe_security
from stream.settings import Settings


class Lineage(NamedTuple):
    """How often the log was made anew, and the first offset of this one that state was made of."""

    generation: int = 0
    began: int = 0

    def __str__(self) -> str:
        return f"{self.generation}/{self.began}"


class Told(NamedTuple):
    """What a group was told last of a partition: the next offset, and the log's lineage."""

    offset: int
    lineage: Lineage


def parse_lineage(metadata: str) -> Lineage:
    """The lineage written as `metadata`; that of a log as it first was, read from its start, where it says none.

    >>> parse_lineage(str(Lineage(1, 41))), parse_lineage("")
    (Lineage(generation=1, began=41), Lineage(generation=0, began=0))
    """
    generation, _, began = metadata.partition("/")
    return Lineage(int(generation), int(began)) if generation.isdecimal() and began.isdecimal() else Lineage()


async def read_told(settings: Settings, group: str, place: TopicPartition) -> Told | None:
    """What `group` was told last of `place`, None for nothing. Raises `KafkaConnectionError` if no broker answers."""
    try:
        async with open_admin(settings.kafka.bootstrap, describe_security(settings)) as admin:
            found = await admin.list_consumer_group_offsets(group, partitions=[place])
    except BrokerError as error:
        raise KafkaConnectionError(str(error)) from error
    offset, metadata = found.get(place, OffsetAndMetadata(-1, ""))
    return None if offset < 0 else Told(int(offset), parse_lineage(metadata))
