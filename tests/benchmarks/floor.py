"""The floor: the cheapest loop over the same records that still decodes, commits under the fence and produces.

One task a partition reads a micro-batch, decodes each record into an `Event`, counts it for its person, commits the
batch with nudge's own script (a profile hash a person, one field and the state's header) and sends one record in ten.
No group, no consent, no windows, no features, no model, no recommendation. Runs as a process of its own until SIGTERM,
with the same `NUDGE_*` settings as the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any, Final

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from redis.asyncio import Redis

from models.person import Person
from schemas.event import Event
from schemas.wire import decode_record
from stream.delivery.commit import commit_batch
from stream.delivery.connection import describe_connection
from stream.delivery.fence import Fence, acquire_fence, hash_record
from stream.delivery.producer import Outgoing, Producer
from stream.settings import Settings, load_settings
from stream.stages.batch import Batch, Dossier
from stream.state.client import connect_redis
from stream.state.keys import tag_events

SHARE: Final = 10
"""One record in so many is sent on."""


class Partition:
    """One partition's loop, its people and its place."""

    def __init__(self, settings: Settings, consumer: AIOKafkaConsumer, redis: Redis, producer: Producer, number: int):
        self.settings, self.consumer, self.redis, self.producer = settings, consumer, redis, producer
        self.place = TopicPartition(settings.topics.events, number)
        self.tag = tag_events(number)
        self.people: dict[str, Dossier] = {}

    async def run(self) -> None:
        """Work batch after batch, for ever."""
        fence = await acquire_fence(self.redis, self.tag, 0)
        most = self.settings.batch.max_records
        while True:
            found = await self.consumer.getmany(self.place, timeout_ms=200, max_records=most)
            if records := found.get(self.place):
                fence = await self._apply(fence, records)

    async def _apply(self, fence: Fence, records: list[Any]) -> Fence:
        batch = Batch(self.place.partition, self.place.topic, records, fence.clocks())
        outgoing = []
        for record in records:
            event = decode_record(record.value, record.headers)
            assert isinstance(event, Event)
            self._count(batch, event.user_id)
            if record.offset % SHARE == 0:
                topic = self.settings.topics.recommendations
                outgoing.append(Outgoing(topic, record.key, event.event_id.encode(), (), record.timestamp))
        batch.counts["scored"] = len(records)
        to = msgspec.structs.replace(fence, next=records[-1].offset + 1, last_hash=hash_record(records[-1]))
        await commit_batch(self.redis, self.tag, batch, fence, to, self.settings.profile_ttl)
        await self.producer.send(outgoing)
        return to

    def _count(self, batch: Batch, user: str) -> None:
        dossier = self.people.get(user)
        if dossier is None:
            dossier = self.people[user] = Dossier(Person())
        assert dossier.person is not None
        dossier.person.version += 1
        batch.people[user] = dossier
        batch.touched.add(user)


async def serve(settings: Settings) -> None:
    """Run every partition of the events topic until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        consumer = AIOKafkaConsumer(
            **describe_connection(settings), enable_auto_commit=False, max_partition_fetch_bytes=2 * 1024 * 1024
        )
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        numbers = range(settings.topics.partitions)
        places = [TopicPartition(settings.topics.events, number) for number in numbers]
        consumer.assign(places)
        for place in places:
            consumer.seek(place, 0)
        redis = await stack.enter_async_context(connect_redis(settings))
        producer = Producer(settings, idempotent=False)
        await producer.start()
        stack.push_async_callback(producer.stop)
        loops = [
            asyncio.create_task(Partition(settings, consumer, redis, producer, number).run()) for number in numbers
        ]
        stopped = asyncio.create_task(stop.wait())
        done, rest = await asyncio.wait([*loops, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        for task in done - {stopped}:
            task.result()


if __name__ == "__main__":
    uvloop.run(serve(load_settings()))
