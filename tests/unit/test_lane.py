"""The end of a lane: whoever asks for it, and whoever stops waiting, it comes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from stream.delivery.errors import OutOfStep
from stream.delivery.lane import Lane
from stream.vitals import Vitals


def make_source(**parts: Any) -> Any:
    return SimpleNamespace(name="events", vitals=Vitals(), turns=defaultdict(asyncio.Lock), **parts)


class Idle(Lane):
    """A lane that is at work for ever."""

    async def _work(self) -> None:
        await asyncio.sleep(3_600)


async def test_a_stop_whose_caller_was_cancelled_still_ends_the_lane() -> None:
    # Given: a lane with a batch in flight, and a rebalance that waits for it
    source: Any = make_source()
    lane = Idle(source, TopicPartition("events", 0))
    await lane.busy.acquire()
    rebalance = asyncio.create_task(lane.stop(60.0, 1.0))
    await asyncio.sleep(0.01)

    # When: the client is closed, which cancels the rebalance, and the batch is done
    rebalance.cancel()
    await asyncio.wait([rebalance])
    assert not lane.task.done()
    lane.busy.release()

    # Then: whoever asks next need not wait for the deadline, and the lane is gone
    await asyncio.wait_for(lane.stop(60.0, 1.0), timeout=5.0)
    assert lane.task.done()


class Clinging(Lane):
    """A lane whose session does not close for long."""

    async def _work(self) -> None:
        try:
            await asyncio.sleep(3_600)
        finally:
            await asyncio.sleep(0.5)


async def test_a_lane_that_does_not_close_in_time_is_left_behind_and_ends_by_itself() -> None:
    source: Any = make_source()
    lane = Clinging(source, TopicPartition("events", 0))
    await asyncio.sleep(0.01)
    await asyncio.wait_for(lane.stop(0.1, 0.1), timeout=0.4)
    assert not lane.task.done()
    await asyncio.wait([lane.task], timeout=5.0)
    assert lane.task.done()


class Broken(Lane):
    """A lane with a bug in it."""

    async def _work(self) -> None:
        raise ArithmeticError("a bug")


async def test_a_bug_in_a_lane_is_not_called_a_breaker_that_events_opened() -> None:
    source: Any = make_source()
    lane = Broken(source, TopicPartition("events", 0))
    await asyncio.sleep(0.05)
    assert list(source.vitals.pauses()) == ["failure"]
    await lane.stop(1.0, 1.0)
    assert source.vitals.ready() == (True, [])


class Deaf(Lane):
    """A lane whose client loses the first cancellation."""

    async def _work(self) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)


async def test_a_lane_whose_cancellation_gets_lost_ends_all_the_same() -> None:
    source: Any = make_source()
    lane = Deaf(source, TopicPartition("events", 0))
    await asyncio.sleep(0.01)
    await lane.stop(1.0, 1.0)
    assert lane.task.done()


class Client:
    """A consumer of one partition whose records are their offsets."""

    def __init__(self) -> None:
        self.at = 0

    def seek(self, _: TopicPartition, offset: int) -> None:
        self.at = offset

    def resume(self, _: TopicPartition) -> None:
        pass

    async def position(self, _: TopicPartition) -> int:
        return self.at

    async def getmany(
        self, place: TopicPartition, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[int]]:
        await asyncio.sleep(0.01)
        found = list(range(self.at, self.at + max_records))
        # A mark of a transaction follows, which no reader gets.
        self.at += max_records + 1
        return {place: found}


async def test_a_lane_that_did_not_read_what_its_client_gave_away_commits_nothing_behind_it() -> None:
    """Would have caught: two lanes of one partition, of which the one that is to end takes a record from the other."""
    # Given: a lane at work, in a log with holes
    place, client = TopicPartition("events", 0), Client()
    source = make_source(consumer=client)
    lane = Idle(source, place)
    await lane._seek(5)
    assert await lane._read(3) == [5, 6, 7]
    assert await lane._read(3) == [9, 10, 11]

    # When: somebody else reads one record
    await client.getmany(place, 0, 1)

    # Then: the lane does not go on behind it, but where it seeks
    with pytest.raises(OutOfStep):
        await lane._read(3)
    await lane._seek(13)
    assert await lane._read(2) == [13, 14]

    # And: one that is over neither reads nor moves anything
    await lane.stop(1.0, 1.0)
    follower = Idle(source, place)
    await follower._seek(20)
    with pytest.raises(OutOfStep):
        await lane._read(1)
    with pytest.raises(OutOfStep):
        await lane._seek(0)
    assert await follower._read(1) == [20]
    await follower.stop(1.0, 1.0)


async def test_lanes_of_one_partition_read_one_after_the_other() -> None:
    place, client = TopicPartition("events", 0), Client()
    source = make_source(consumer=client)
    late, next_one = Idle(source, place), Idle(source, place)
    await late._seek(0)
    reading = asyncio.create_task(late._read(1))
    await asyncio.sleep(0)
    # The seek waits for the read under way, or it would be read over.
    await next_one._seek(7)
    assert await reading == [0]
    assert await next_one._read(1) == [7]
    for lane in (late, next_one):
        await lane.stop(1.0, 1.0)
