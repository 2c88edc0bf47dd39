"""The privacy ledger, read back for a partition whose log has lost its beginning.

Requests reach the score agent through the events topic, which is not kept for ever. When the state of a partition is
made again and its log does not begin where it once did, what people decided before the oldest event that is still there
stands in the ledger alone. It is applied before that event is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.structs import TopicPartition
from redis.asyncio import Redis

from schemas.privacy import Place, PrivacyRequest
from schemas.reasons import Rejected
from schemas.wire import decode_request
from stream.commands.topic import read_all
from stream.delivery.connection import describe_connection
from stream.delivery.fence import Fence, advance_fence
from stream.partition import find_partition
from stream.settings import Settings
from stream.stages.batch import Dossier
from stream.stages.gate import apply_request
from stream.state.client import call
from stream.state.consents import decode_consent, encode_consent
from stream.state.keys import name_key, tag_events, tag_source

MOST = 500
"""People whose decisions are written in one call."""


async def restore_consents(
    settings: Settings, redis: Redis, partition: int, held: Fence, *, of: int, ledger: int
) -> int:
    """Apply the requests of before the record at `held.next`, under that fence; return how many people they are of.

    The partition is one `of` so many, `ledger` the number of the privacy topic's. What is known of a person already,
    and was decided later, stays. Raises `Refused`, with some people restored.
    """
    tag = tag_events(partition)
    people: dict[str, Dossier] = {}
    # What a producer aborted was never said.
    options = {"enable_auto_commit": False, "isolation_level": "read_committed"}
    async with AIOKafkaConsumer(**describe_connection(settings), **options) as consumer:
        oldest = await _find_time(consumer, TopicPartition(settings.topics.events, partition), held.next)
        async for place, request in _read_requests(settings, redis, consumer, ledger, oldest):
            user = request.user_id
            if find_partition(user, of, settings.partitioner) == partition:
                if user not in people:
                    people[user] = Dossier()
                    flat = await call(redis, "HGETALL", name_key("consent", tag, user))
                    decode_consent([part for pair in flat.items() for part in pair], people[user])
                apply_request(people[user], request, place)
    commands = [("HSET", name_key("consent", tag, user), *encode_consent(known)) for user, known in people.items()]
    for at in range(0, len(commands), MOST):
        await advance_fence(redis, tag, held, held, commands[at : at + MOST])
    return len(people)


async def _find_time(consumer: AIOKafkaConsumer, place: TopicPartition, offset: int) -> int | None:
    """Kafka timestamp of the first record at or after `offset`; None where there is none."""
    consumer.assign([place])
    consumer.seek(place, offset)
    while True:
        found = (await consumer.getmany(place, timeout_ms=200, max_records=1)).get(place)
        if found:
            return int(found[0].timestamp)
        end = consumer.highwater(place)
        if end is not None and await consumer.position(place) >= end:
            return None


async def _read_requests(
    settings: Settings, redis: Redis, consumer: AIOKafkaConsumer, partitions: int, until: int | None
) -> AsyncIterator[tuple[tuple[int, Place], PrivacyRequest]]:
    """Requests dated before `until` (Kafka timestamp, ms; None for all) with their places, each partition in order."""
    topic = settings.topics.privacy
    generations = [
        int(await call(redis, "GET", name_key("generation", tag_source("privacy", number))) or 0)
        for number in range(partitions)
    ]
    async for record in read_all(consumer, [TopicPartition(topic, number) for number in range(partitions)]):
        if until is None or record.timestamp < until:
            request = _decode(record)
            if request is not None:
                yield (record.partition, Place(generations[record.partition], record.offset)), request


def _decode(record: ConsumerRecord) -> PrivacyRequest | None:
    try:
        return decode_request(record.value)
    except Rejected:
        # The privacy agent sends it to the dead letters.
        return None
