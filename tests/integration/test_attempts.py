"""Events that end their process are found on a real Redis, whoever tries next; what ends a process without them not.

A process that is gone is a session whose work was cut off by something that no code catches, and that is not closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Lost

from models.lifecycle.registry import Champions
from models.outcomes.features import SCHEMA
from stream.agents.score import ScoreSession, Scoring
from stream.delivery.errors import Refused
from stream.delivery.fence import acquire_fence
from stream.metrics import Metrics
from stream.settings import Settings
from stream.stages.batch import Batch
from stream.stages.pipeline import Stages
from stream.state.client import connect_redis
from stream.state.keys import name_key, tag_events
from stream.vitals import Vitals
from tests.integration.test_score_session import Refuser, counted, views
from tests.unit.reference import Inline, Record, open_to_all

TAG = tag_events(0)
ATTEMPTS = name_key("attempts", TAG)


class Ended(BaseException):
    """The process is gone: nothing catches this."""


@pytest.fixture
async def client(redis: Redis, redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(Settings(redis={"url": redis_url})) as client:
        yield client


def make_scoring(client: Redis, deadly: Collection[int], **overrides: Any) -> Scoring:
    """A process of its own: it ends at the records whose offsets are `deadly`."""
    settings = open_to_all(**{"clock": "event", "score_on": (), "outcomes": (), "rules": ()} | overrides)
    stages = Stages(settings, 1, None, Inline())
    features = stages.features

    def end(batch: Batch) -> None:
        if any(item.record.offset in deadly for item in batch.items):
            raise Ended
        features(batch)

    stages.features = end  # type: ignore[assignment]
    return Scoring(
        settings=settings,
        redis=client,
        producer=Refuser(settings),
        stages=stages,
        champions=Champions(SCHEMA),
        metrics=Metrics(),
        vitals=Vitals(),
        newest=deque(maxlen=12),
    )


async def take_over(scoring: Scoring) -> ScoreSession:
    session = scoring.open(0, await acquire_fence(scoring.redis, TAG, 0))
    await session.open()
    return session


async def work(client: Redis, records: list[Record], deadly: Collection[int], size: int = 64, **overrides: Any) -> int:
    """Have one process after the other work on the records, batch by batch; the number of those that ended."""
    ended = 0
    while True:
        session = await take_over(make_scoring(client, deadly, **overrides))
        try:
            while session.fence.next < len(records):
                await session.handle(records[session.fence.next : session.fence.next + size])
        except Ended:
            ended += 1
            session.drain.task.cancel()  # type: ignore[union-attr]
            continue
        await session.close()
        return ended


async def letters(client: Redis) -> list[int]:
    """Offsets of the dead letters for crashes, in the order in which they were written."""
    entries: Any = await client.xrange(name_key("outbox", TAG))
    sent = [fields for _, fields in entries if fields[b"target"] == b"dead_letters"]
    assert all(b"crash" in fields[b"headers"] for fields in sent)
    return [int(identity.split(b"-")[0]) for identity, _ in entries]


@pytest.mark.parametrize("place", [0, 1, 37, 63, 64, 199])
async def test_an_event_that_ends_every_process_is_found_and_the_others_count(client: Redis, place: int) -> None:
    ended = await work(client, views(200), {place})
    counts = await counted(client)
    assert (counts["scored"], counts["dead_letters:crash"]) == (199, 1)
    # Two make the batch suspect, each halving of 64 takes one at most, and two end with the event alone.
    assert 2 < ended <= 2 + 5 + 2
    assert await client.exists(ATTEMPTS) == 0


async def test_several_such_events_are_found_each(client: Redis) -> None:
    await work(client, views(100), {3, 4, 60})
    counts = await counted(client)
    assert (counts["scored"], counts["dead_letters:crash"]) == (97, 3)


async def test_an_event_is_to_blame_only_after_two_processes_ended_with_it_alone(client: Redis) -> None:
    for ended in range(2):
        session = await take_over(make_scoring(client, {0}))
        with pytest.raises(Ended):
            await session.handle(views(1))
        assert len(await client.hkeys(ATTEMPTS)) == ended + 1  # type: ignore[misc]
    session = await take_over(make_scoring(client, ()))
    await session.handle(views(1))
    assert await counted(client) == {"dead_letters": 1, "dead_letters:crash": 1}


async def test_a_process_that_ended_for_another_reason_condemns_nothing(client: Redis) -> None:
    # Given: one process after the other that is killed while it works, but gets a batch done before
    records = views(60)
    for start in range(0, 60, 6):
        first = await take_over(make_scoring(client, {start + 4}))
        await first.handle(records[start : start + 3])
        with pytest.raises(Ended):
            await first.handle(records[start + 3 : start + 6])
        last = await take_over(make_scoring(client, ()))
        await last.handle(records[start + 3 : start + 6])
    assert (await counted(client))["scored"] == 60
    assert "dead_letters" not in await counted(client)


@pytest.mark.parametrize("error", [Lost("Redis went away"), OSError("so did the network")])
async def test_an_attempt_that_failed_on_the_way_does_not_count(client: Redis, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    for _ in range(4):
        scoring = make_scoring(client, ())
        scoring.stages.gate = fail  # type: ignore[assignment]
        session = await take_over(scoring)
        with pytest.raises(type(error)):
            await session.handle(views(8))
        await session.close()
        assert await client.hlen(ATTEMPTS) == 0  # type: ignore[misc]


async def test_a_process_that_lives_on_does_not_count_against_itself(client: Redis) -> None:
    scoring = make_scoring(client, {0})
    for _ in range(4):
        session = await take_over(scoring)
        with pytest.raises(Ended):
            await session.handle(views(1))
    assert session.attempts.ends == []


async def test_a_refused_attempt_writes_nothing_down(client: Redis) -> None:
    asleep = await take_over(make_scoring(client, ()))
    await take_over(make_scoring(client, ()))
    with pytest.raises(Refused):
        await asleep.handle(views(8))
    assert await client.exists(ATTEMPTS) == 0


async def test_one_that_slept_and_says_that_it_lives_is_not_counted(client: Redis) -> None:
    # Given: an owner that was stopped in the midst of a batch, and a new one that took note of it
    asleep = await take_over(make_scoring(client, {0}))
    with pytest.raises(Ended):
        await asleep.handle(views(8))
    session = await take_over(make_scoring(client, ()))
    assert session.attempts.ends == [8]
    # When: the first wakes, is refused and gives up
    await asleep.close()
    # Then: the batch goes as if nothing had been
    assert (await session.attempts.plan(views(8))).alone is False


async def test_what_is_suspect_runs_alone_in_its_process(client: Redis) -> None:
    order = []
    isolation = make_scoring(client, ()).isolation
    async with isolation.hold(alone=False):

        async def run(name: str, alone: bool) -> None:
            async with isolation.hold(alone=alone):
                order.append(name)
                await asyncio.sleep(0.01)
                order.append(name)

        tasks = [asyncio.create_task(run(name, alone)) for name, alone in (("s", True), ("a", False), ("b", False))]
        await asyncio.sleep(0.01)
        assert order == []
    await asyncio.gather(*tasks)
    assert order == ["s", "s", "a", "b", "a", "b"]
