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
from stream.delivery.errors import BreakerOpen, Refused
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


opened: list[ScoreSession] = []


@pytest.fixture
async def client(redis: Redis, redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(Settings(redis={"url": redis_url})) as client:
        yield client
        # A process that is gone has no drain any more, but here it would go on, and connect again.
        await asyncio.gather(*(session.drain.close() for session in opened))
        opened.clear()


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
    opened.append(session)
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


async def test_when_every_event_ends_its_process_the_breaker_keeps_all_but_a_few(client: Redis) -> None:
    # Given: a bug that ends the process at each event, and a breaker that allows for three
    options = {"in_a_row": 3, "retry_after": "1s", "retry_most": "5s"}
    waits: list[float] = []
    for _ in range(40):
        session = await take_over(make_scoring(client, range(100), breaker=options))
        try:
            await session.handle(views(100)[session.fence.next :])
        except Ended:
            continue
        except BreakerOpen as held:
            waits.append(held.wait)
            assert "breaker" in session.scoring.vitals.pauses()
            # When the wait is over, the process tries that one event.
            session = await take_over(session.scoring)
            with pytest.raises(Ended):
                await session.handle(views(100)[session.fence.next :])
    # Then: three are put aside, and the waits grow from one process to the next
    assert await counted(client) == {"dead_letters": 3, "dead_letters:crash": 3}
    assert session.fence.next == 3
    assert waits[:3] == [2.0, 4.0, 5.0]
    assert waits[3:] == [5.0] * len(waits[3:])

    # And: mended, it goes on by itself
    scoring = make_scoring(client, (), breaker=options)
    session = await take_over(scoring)
    with pytest.raises(BreakerOpen):
        await session.handle(views(100)[3:])
    session = await take_over(scoring)
    await session.handle(views(100)[3:])
    assert await counted(client) == {"dead_letters": 3, "dead_letters:crash": 3, "scored": 97, "scored:view": 97}
    assert "breaker" not in scoring.vitals.pauses()


def fail_at(scoring: Scoring, offsets: Collection[int]) -> list[int]:
    """Have a stage fail at these offsets; the sizes of the batches that it saw."""
    features, sizes = scoring.stages.features, list[int]()

    def fail(batch: Batch) -> None:
        sizes.append(len(batch.items))
        if any(item.record.offset in offsets for item in batch.items):
            raise ArithmeticError
        features(batch)

    scoring.stages.features = fail  # type: ignore[assignment]
    return sizes


async def test_no_more_than_a_share_of_the_last_events_is_put_aside(client: Redis) -> None:
    scoring = make_scoring(client, (), breaker={"in_a_row": 20, "window": 20, "share": 0.5})
    fail_at(scoring, range(10, 200, 3))
    session = await take_over(scoring)
    await session.handle(views(200))
    assert (await counted(client))["dead_letters:crash"] == len(range(10, 200, 3))

    fail_at(scoring, {number for number in range(200, 400) if number % 3})
    with pytest.raises(BreakerOpen):
        await session.handle(views(400)[200:])
    # A third of the last twenty was bad already; the tenth of twenty is the last that is let pass.
    session = await take_over(scoring)
    bad = [number for number in session.breaker.crashes if number >= session.breaker.done - 20]
    assert len(bad) == 10
    assert session.breaker.row < 3


async def test_an_open_breaker_tries_one_event_and_lets_all_pass_once_it_does(client: Redis) -> None:
    scoring = make_scoring(client, (), breaker={"in_a_row": 5})
    failing = set(range(1_000))
    sizes = fail_at(scoring, failing)
    session = await take_over(scoring)
    waits = []
    for _ in range(4):
        with pytest.raises(BreakerOpen) as held:
            await session.handle(views(64)[session.fence.next :])
        waits.append(held.value.wait)
        del sizes[:]
        session = await take_over(scoring)
    with pytest.raises(BreakerOpen):
        await session.handle(views(64)[session.fence.next :])
    assert sizes == [1]
    assert waits == [1.0, 2.0, 4.0, 8.0]
    assert await counted(client) == {"dead_letters": 5, "dead_letters:crash": 5}
    failing.clear()
    await session.handle(views(64)[session.fence.next :])
    assert (await counted(client))["scored"] == 59
    assert scoring.vitals.ready() == (True, [])
