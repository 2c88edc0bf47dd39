"""A worker that still believes in partitions which the group has given to another takes nothing back from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.protocol.group import LeaveGroupRequest
from redis.asyncio import Redis

from stream.broker.topics import TopicSpec, ensure_topics
from stream.delivery.errors import NotMember
from stream.delivery.fence import Fence, acquire_fence, check_fence, read_fence
from stream.delivery.source import BatchSource
from stream.metrics import Metrics
from stream.settings import Settings
from stream.stages.batch import Record
from stream.state.keys import tag_events
from stream.vitals import Vitals

HEARTBEAT = 3.0
TAG = tag_events(0)

pytestmark = pytest.mark.timeout(120)


class Quiet:
    """A session that has nothing to do, and sees after each read whether its fence still stands."""

    def __init__(self, redis: Redis, fence: Fence) -> None:
        self.redis, self.fence = redis, fence

    async def open(self) -> int:
        return self.fence.next

    async def handle(self, records: Sequence[Record]) -> None: ...

    async def idle(self) -> None: ...

    async def wait_for_room(self) -> None:
        await check_fence(self.redis, TAG, self.fence)

    async def close(self) -> None: ...


@pytest.fixture
async def source(brokers: Any, broker_kind: str, redis: Redis, topic_prefix: str) -> AsyncIterator[BatchSource]:
    """A member of the group, with the one partition there is."""
    bootstrap = brokers(broker_kind)
    kafka = {"session_timeout": round(HEARTBEAT * 3_500), "heartbeat": round(HEARTBEAT * 1_000)}
    settings = Settings(app=topic_prefix.rstrip("."), kafka=kafka | {"bootstrap": bootstrap})
    topic = topic_prefix + "events"
    await ensure_topics(bootstrap, [TopicSpec(name=topic, partitions=1)])

    async def put(_: object) -> None: ...

    source = BatchSource(
        "events", topic, settings, redis, put, lambda _, fence: Quiet(redis, fence), Metrics(), Vitals()
    )

    await source.start()
    deadline = time.monotonic() + 60
    while not source.positions():
        assert time.monotonic() < deadline, "no partition was given"
        await asyncio.sleep(0.05)
    yield source
    await source.finish()
    await source.leave()


async def test_who_was_put_out_of_the_group_takes_no_fence(source: BatchSource, redis: Redis) -> None:
    # given a member that the group has lost, which has not heard of it yet, and the new owner's fence
    coordinator = source.consumer._coordinator
    await coordinator._send_req(LeaveGroupRequest(source.consumer_group, coordinator.member_id))
    owner = await acquire_fence(redis, TAG, 0)
    # when it would go on, then it is told, and has touched nothing
    with pytest.raises(NotMember):
        await source.lanes[TopicPartition(source.topic, 0)]._acquire()
    assert await read_fence(redis, TAG) == owner


async def test_after_a_refusal_the_fence_is_left_to_the_other_for_more_than_a_heartbeat(
    source: BatchSource, redis: Redis
) -> None:
    """In that time the client hears from the group whether the partition is still its own."""
    owner = await acquire_fence(redis, TAG, 0)
    taken = time.monotonic()
    while (now := await read_fence(redis, TAG)) is not None and now.owner == owner.owner:
        assert time.monotonic() - taken < 60, "a member did not take its partition back"
        await asyncio.sleep(0.02)
    assert time.monotonic() - taken >= 1.4 * HEARTBEAT
