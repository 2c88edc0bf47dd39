"""The privacy ledger, read back for a partition whose log has lost its beginning.

Requests reach the score agent through the events topic, which is not kept for ever. When the state of a partition is
made again and its log does not begin where it once did, what people decided before the oldest event that is still there
stands in the ledger alone. It is applied before that event is read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import TopicPartition
from redis.asyncio import Redis

from schemas.privacy import Place, PrivacyRequest
from schemas.reasons import Rejected
from schemas.wire import decode_request
from stream.broker import BrokerSilent, read_all
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
    and was decided later, stays. Ledger and log may be dated by different clocks, so what withdraws is applied whatever
    its date: a later grant comes with the log. Raises `Refused`, with some people restored, and `KafkaError` where the
    ledger can't be read to its end.
    """
    tag = tag_events(partition)
    people: dict[str, Dossier] = {}
    # What a producer aborted was never said.
    options = {"enable_auto_commit": False, "isolation_level": "read_committed"}
    async with AIOKafkaConsumer(**describe_connection(settings), **options) as consumer:
        oldest = await _find_time(consumer, TopicPartition(settings.topics.events, partition), held.next)
        requests = [
            (request, place)
            async for request, place in _read_requests(settings, redis, consumer, ledger, oldest)
            if find_partition(request.user_id, of, settings.partitioner) == partition
        ]
    for user in dict.fromkeys(request.user_id for request, _ in requests):
        people[user] = Dossier()
        flat = await call(redis, "HGETALL", name_key("consent", tag, user))
        decode_consent([part for pair in flat.items() for part in pair], people[user])
    for request, place in requests:
        apply_request(people[request.user_id], request, place)
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
) -> AsyncIterator[tuple[PrivacyRequest, tuple[int, Place] | None]]:
    """Requests dated before `until` (Kafka timestamp, ms; None for all) with their places, each partition in order.

    Of later ones comes what they withdraw, without a place: in its turn each is applied again, whole.
    """
    topic = settings.topics.privacy
    generations = [
        int(await call(redis, "GET", name_key("generation", tag_source("privacy", number))) or 0)
        for number in range(partitions)
    ]
    try:
        async for record in read_all(consumer, [TopicPartition(topic, number) for number in range(partitions)]):
            request = _decode(record)
            if request is None:
                continue
            if until is None or record.timestamp < until:
                yield request, (record.partition, Place(generations[record.partition], record.offset))
            elif withdrawal := _choose_withdrawal(request):
                yield withdrawal, None
    except BrokerSilent as error:
        raise KafkaConnectionError(str(error)) from error


def _choose_withdrawal(request: PrivacyRequest) -> PrivacyRequest | None:
    """The part of a request that withdraws, None if none does."""
    if request.action == "erase":
        return request
    withdrawn = {purpose: allowed for purpose, allowed in request.consent.items() if not allowed}
    return msgspec.structs.replace(request, consent=withdrawn) if withdrawn else None


def _decode(record: ConsumerRecord) -> PrivacyRequest | None:
    try:
        return decode_request(record.value)
    except Rejected:
        # The privacy agent sends it to the dead letters.
        return None
