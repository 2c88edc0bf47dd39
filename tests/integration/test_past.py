"""What a past version is learned again from, and when that can't be done: bases, promotions, and how far logs reach."""

from __future__ import annotations

from typing import Any, cast

import pytest
from aiokafka.structs import TopicPartition
from redis.asyncio import Redis

from stream.commands import CommandError
from stream.commands.kept import Kept, list_models
from stream.commands.past import Past, find_base
from stream.delivery.fence import GENERATION, acquire_fence
from stream.settings import Settings
from stream.state.choices import describe_promotions, find_promoted
from stream.state.client import call, connect_redis
from stream.state.keys import name_key, tag_source

TAG = tag_source("examples", 0)


class Log:
    """A consumer of which only the log's first offset is asked."""

    def __init__(self, start: int) -> None:
        self.start = start

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.start)


def kept(imported: tuple[int, ...] = (), **versions: int) -> Kept:
    published = {int(name[1:]): at for name, at in versions.items()}
    return Kept("conversion", 0, 50, published, set(imported), None, None)


@pytest.mark.parametrize(
    ("model", "version", "first", "base"),
    [
        (kept(v10=1, v20=2, v30=3), 25, 0, 20),
        (kept(v10=1, v20=2, v30=3), 30, 0, 30),
        (kept(v10=1, v20=2, v30=3), 9, 0, None),
        # What was learned before the place where learning began is of another log, or of one that was cut off.
        (kept(v10=1, v20=2), 15, 11, None),
        # 20 was published before 10 was: by a learner that 10's knows nothing of.
        (kept(v10=5, v20=2, v30=7), 25, 0, 10),
        (kept(v10=5, v20=2, v30=7), 35, 0, 30),
        (kept(imported=(20,), v10=1, v20=2), 25, 0, 10),
    ],
)
def test_learning_goes_on_from_the_newest_version_of_the_same_learning(
    model: Kept, version: int, first: int, base: int | None
) -> None:
    assert find_base(model, version, first) == base


async def fail(redis_url: str, version: int, log_start: int) -> str:
    """What is said when `version` can't be learned from a log that begins at `log_start`."""
    async with connect_redis(Settings(redis={"url": redis_url})) as client:
        past = Past("examples", client, cast(Any, Log(log_start)), version, b"k" * 32)
        with pytest.raises(CommandError) as told:
            await past.learn([*(await list_models(client)).values()])
    return str(told.value)


async def test_a_version_that_nothing_is_left_of_is_named_with_what_is(redis: Redis, redis_url: str) -> None:
    await redis.hset(name_key("snapshots", TAG), "conversion", "50")
    assert "nothing has been learned" in await fail(redis_url, 40, 0)
    async with connect_redis(Settings(redis={"url": redis_url})) as client:
        await acquire_fence(client, TAG, 7)
    await redis.hset(name_key("fence", TAG), "next", "51")
    assert "has not been learned yet: the newest is 50" in await fail(redis_url, 51, 7)
    assert "learning began at offset 7" in await fail(redis_url, 6, 0)
    assert "generation 1 of the examples log" in await fail(redis_url, GENERATION + 3, 0)
    said = await fail(redis_url, 40, 8)
    assert "conversion: version 40 can't be learned again: no snapshot at or below it is kept" in said
    assert "the log of examples begins at offset 8, after 7" in said
    await redis.zadd(name_key("snapshots", TAG, "conversion"), {"20": 1})
    assert "the newest kept below it is 20, and the log of examples begins at offset 30" in await fail(
        redis_url, 40, 30
    )


async def publish(redis: Redis, version: int, promoted: dict[str, str]) -> None:
    for command in await describe_promotions(redis, TAG, version, ["click", "conversion"], promoted):
        await call(redis, *command)


async def test_who_was_promoted_is_known_of_every_version(redis: Redis, redis_url: str) -> None:
    """Also of those that were published anew, when all was learned again with somebody else promoted."""
    async with connect_redis(Settings(redis={"url": redis_url})) as client:
        for version, contestant in ((10, ""), (20, "a"), (30, "a"), (40, "b"), (50, "")):
            await publish(client, version, {"conversion": contestant} if contestant else {})
        found = [await find_promoted(client, TAG, "conversion", version) for version in (9, 10, 25, 30, 40, 49, 50, 60)]
        assert found == ["", "", "a", "a", "b", "b", "", ""]
        assert await redis.zcard(name_key("promotions", TAG, "conversion")) == 3
        assert not await redis.exists(name_key("promotions", TAG, "click"))
        for version in (20, 32, 45, 55):
            await publish(client, version, {"conversion": "c"})
        found = [await find_promoted(client, TAG, "conversion", version) for version in (20, 32, 45, 55)]
        assert found == ["c"] * 4
