"""Reading a topic without a group: where each partition ends, and all that lies before that.

Ends are the high watermarks that fetches report (the last stable offset, where transactions may be open), because
end offsets asked for directly are wrong on some brokers. Reading all that is there ends by itself on every broker.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from stream.broker.connection import BrokerSilent

PATIENCE: Final = 5.0
"""Seconds without an answer to a fetch, or without a record before the end, after which waiting is over."""

Ends = Mapping[TopicPartition, int]
"""Offset after the last record, by partition."""


async def find_ends(consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
    """Assign `partitions` and tell where each ends now; positions are left anywhere.

    Raises `BrokerSilent` when a partition does not answer within `PATIENCE`.
    """
    if not partitions:
        return {}
    consumer.assign(partitions)
    await consumer.seek_to_beginning(*partitions)
    deadline = time.monotonic() + PATIENCE
    while any(consumer.highwater(each) is None for each in partitions):
        if time.monotonic() > deadline:
            missing = sum(consumer.highwater(each) is None for each in partitions)
            raise BrokerSilent(f"topic {partitions[0].topic}: {missing} partitions have no leader that answers")
        await consumer.getmany(timeout_ms=50)
    return {each: _find_end(consumer, each) for each in partitions}


def _find_end(consumer: AIOKafkaConsumer, partition: TopicPartition) -> int:
    stable, high = consumer.last_stable_offset(partition), consumer.highwater(partition)
    # Brokers without transactions may answer -1 for the last stable offset.
    return int(stable if stable is not None and 0 <= stable < high else high)


async def read_all(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], starts: Mapping[TopicPartition, int] | None = None
) -> AsyncGenerator[ConsumerRecord]:
    """Every record of `partitions` that is there now, each partition in order; ends by itself.

    It begins at the offsets in `starts`, which must lie in the log, and elsewhere at the first record.
    Raises `BrokerSilent` when nothing comes for `PATIENCE` although more lies there: what was read is not all.
    """
    ends = await find_ends(consumer, partitions)
    await consumer.seek_to_beginning(*partitions)
    for partition, start in (starts or {}).items():
        consumer.seek(partition, start)
    heard = time.monotonic()
    while await _lies_before(consumer, ends):
        for partition, records in (await consumer.getmany(timeout_ms=100)).items():
            for record in records:
                if record.offset < ends[partition]:
                    yield record
            # Only now: who reads may have taken their time.
            heard = time.monotonic()
        if time.monotonic() - heard > PATIENCE:
            raise BrokerSilent(f"topic {partitions[0].topic}: the broker stopped answering before its end")


async def _lies_before(consumer: AIOKafkaConsumer, ends: Ends) -> bool:
    for partition, end in ends.items():
        if await consumer.position(partition) < end:
            return True
    return False
