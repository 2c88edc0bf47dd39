"""Where a partition without a fence begins: at its log's start, at its end, at a time, or where the group once was.

Not every broker finds offsets by time: what it says is taken as a place to look from, and the records themselves tell.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from schemas.timestamps import read_millis
from stream.delivery.lineage import Lineage, Told

EARLIEST, LATEST = "earliest", "latest"
OnStateLoss = Literal["replay", "resume"]


class Beginning(NamedTuple):
    """Where a partition without a fence begins, and the log's lineage from there on."""

    offset: int
    lineage: Lineage


async def choose_beginning(
    consumer: AIOKafkaConsumer,
    place: TopicPartition,
    start: int,
    start_from: str,
    on_state_loss: OnStateLoss,
    told: Told | None,
) -> Beginning:
    """Where to begin in a log whose first offset is `start`; the partition has no fence.

    A group that was `told` of offsets has been here before: then state was lost, and `on_state_loss` says what to do.
    What the first run passed over is not replayed either.
    """
    if told is None:
        at = await _choose_first(consumer, place, start, start_from)
        return Beginning(at, Lineage(began=at))
    at = max(told.lineage.began if on_state_loss == "replay" else told.offset, start)
    return Beginning(at, Lineage(told.lineage.generation, at))


async def _choose_first(consumer: AIOKafkaConsumer, place: TopicPartition, start: int, start_from: str) -> int:
    if start_from == EARLIEST:
        return start
    end = await _find_end(consumer, place, start)
    return end if start_from == LATEST else await find_time(consumer, place, read_millis(start_from, "start_from"), end)


async def _find_end(consumer: AIOKafkaConsumer, place: TopicPartition, start: int) -> int:
    """One past the last offset, as a fetch tells it: what brokers answer when asked for it is not always true."""
    consumer.seek(place, start)
    consumer.resume(place)
    while (end := consumer.highwater(place)) is None:
        await consumer.getmany(place, timeout_ms=200, max_records=1)
    return int(end)


async def find_time(consumer: AIOKafkaConsumer, place: TopicPartition, millis: int, end: int) -> int:
    """Offset of the first record at or after `millis` (its Kafka timestamp); `end`, one past the last, for none.

    Leaves the position of `place` anywhere.
    """
    found = (await consumer.offsets_for_times({place: millis}))[place]
    if found is None or found[0] >= end:
        return end
    consumer.seek(place, found[0])
    consumer.resume(place)
    # The last offsets may be of no record that can be read: transactions end with a mark, and some are aborted.
    while await consumer.position(place) < end:
        for record in (await consumer.getmany(place, timeout_ms=200)).get(place, ()):
            if record.offset >= end:
                return end
            if record.timestamp >= millis:
                return int(record.offset)
    return end
