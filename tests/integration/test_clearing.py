"""What a lost fence left behind is deleted by the owner alone, however often owners stall or die over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from models.person import Person
from stream.delivery.commit import commit_batch
from stream.delivery.errors import Refused
from stream.delivery.fence import Fence, acquire_fence, open_fence, read_fence
from stream.settings import Settings
from stream.stages.batch import Batch, Clock, Dossier
from stream.state.client import connect_redis
from stream.state.keys import name_key, tag_events
from stream.state.partition import clear_partition

TAG, OTHER = tag_events(3), tag_events(30)
LEFT = [name_key(kind, TAG) for kind in ("outbox", "due", "counts")]
LEFT += [name_key(kind, TAG, f"u{number}") for kind in ("profile", "pending") for number in range(2_000)]


class Stalling(Redis):
    """A client that stands still before its scripts from the `nth` on, until it is told to `go`."""

    nth = 0

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] in ("EVALSHA", "EVAL"):
            self.nth -= 1
            if self.nth < 0:
                self.stalled.set()
                await self.go.wait()
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


@pytest.fixture
async def client(redis: Redis, redis_url: str) -> AsyncIterator[Redis]:
    """The product's own client, of a Redis that holds what a lost fence left behind."""
    await redis.mset(dict.fromkeys(LEFT, "left behind"))
    async with connect_redis(Settings(redis={"url": redis_url})) as client:
        yield client


@pytest.fixture
async def stalling(redis_url: str) -> AsyncIterator[Stalling]:
    async with Stalling.from_url(redis_url) as client:
        client.stalled, client.go = asyncio.Event(), asyncio.Event()
        yield client


async def count_left(client: Redis) -> int:
    return int(await client.exists(*LEFT))


async def commit_somebody(client: Redis, fence: Fence) -> None:
    batch = Batch(3, "events", [], Clock())
    batch.people["u7"] = Dossier(Person(version=1))
    batch.touched.add("u7")
    batch.counts["scored"] = 1
    await commit_batch(client, TAG, batch, fence, msgspec.structs.replace(fence, next=1), 86_400_000)


@pytest.mark.parametrize("nth", [0, 2])
async def test_an_owner_that_stalled_while_it_cleared_deletes_nothing_of_the_next(
    client: Redis, stalling: Stalling, nth: int
) -> None:
    # Given: an owner that stalls before its first deletion, or between two
    first = await acquire_fence(client, TAG, 0, clear=True)
    stalling.nth = nth
    slow = asyncio.create_task(clear_partition(stalling, TAG, first, most=300))
    await stalling.stalled.wait()
    assert 0 < await count_left(client) <= len(LEFT)

    # When: the next one clears, opens and commits, and the first wakes up
    second = await acquire_fence(client, TAG, 0, clear=True)
    assert second.clearing
    await clear_partition(client, TAG, second)
    await commit_somebody(client, await open_fence(client, TAG, second))
    stalling.go.set()

    # Then: it is refused, and what is new is there
    with pytest.raises(Refused):
        await slow
    with pytest.raises(Refused):
        await open_fence(client, TAG, first)
    assert await client.hget(name_key("counts", TAG), "scored") == b"1"  # type: ignore[misc]
    assert await client.exists(name_key("profile", TAG, "u7"))


async def test_the_same_owner_deletes_nothing_either_once_the_fence_is_open(client: Redis) -> None:
    fence = await acquire_fence(client, TAG, 0, clear=True)
    await open_fence(client, TAG, fence)
    with pytest.raises(Refused):
        await clear_partition(client, TAG, fence)
    assert await count_left(client) == len(LEFT)


async def test_a_clearing_that_was_cut_short_is_gone_on_with(client: Redis, stalling: Stalling) -> None:
    # Given: an owner that dies between two deletions
    stalling.nth = 3
    dying = asyncio.create_task(
        clear_partition(stalling, TAG, await acquire_fence(client, TAG, 0, clear=True), most=300)
    )
    await stalling.stalled.wait()
    dying.cancel()
    left = await count_left(client)
    assert 0 < left < len(LEFT)

    # Then: the mark passes on until somebody has done it all
    second = await acquire_fence(client, TAG, 0)
    third = await acquire_fence(client, TAG, 0, clear=True)
    assert second.clearing
    assert third.clearing
    assert await clear_partition(client, TAG, third) == left
    opened = await open_fence(client, TAG, third)
    assert opened == await read_fence(client, TAG)
    assert not (await acquire_fence(client, TAG, 0, clear=True)).clearing


async def test_a_fence_that_is_there_is_not_cleared_for(client: Redis) -> None:
    await acquire_fence(client, TAG, 0)
    assert not (await acquire_fence(client, TAG, 0, clear=True)).clearing


async def test_clearing_a_partition_touches_no_other(redis: Redis, client: Redis) -> None:
    stay = [name_key("consent", TAG, "u1"), name_key("tombstone", TAG, "u1"), name_key("fence", OTHER), "item:i1"]
    # A user id may be any text, another partition's tag among them, and need not be text at all.
    stay += [name_key("profile", OTHER, f"x:{TAG}"), name_key("profile", OTHER, f":{TAG}:"), f"item:{TAG}"]
    odd = name_key("profile", TAG, "a:b").encode() + b"\xff"
    await redis.mset(dict.fromkeys([*stay, odd], "x"))

    fence = await acquire_fence(client, TAG, 0, clear=True)
    assert await clear_partition(client, TAG, fence) == len(LEFT) + 1

    names: Any = await redis.keys("*")
    assert {name.decode() for name in names} == {*stay, name_key("fence", TAG)}
