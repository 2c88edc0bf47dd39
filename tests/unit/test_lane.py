"""The end of a lane: whoever asks for it, and whoever stops waiting, it comes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from aiokafka.structs import TopicPartition

from stream.delivery.lane import Lane
from stream.vitals import Vitals


class Idle(Lane):
    """A lane that is at work for ever."""

    async def _work(self) -> None:
        await asyncio.sleep(3_600)


async def test_a_stop_whose_caller_was_cancelled_still_ends_the_lane() -> None:
    # Given: a lane with a batch in flight, and a rebalance that waits for it
    source: Any = SimpleNamespace(name="events", vitals=Vitals())
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
    source: Any = SimpleNamespace(name="events", vitals=Vitals())
    lane = Clinging(source, TopicPartition("events", 0))
    await asyncio.sleep(0.01)
    await asyncio.wait_for(lane.stop(0.1, 0.1), timeout=0.4)
    assert not lane.task.done()
    await asyncio.wait([lane.task], timeout=5.0)
    assert lane.task.done()


class Deaf(Lane):
    """A lane whose client loses the first cancellation."""

    async def _work(self) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)


async def test_a_lane_whose_cancellation_gets_lost_ends_all_the_same() -> None:
    source: Any = SimpleNamespace(name="events", vitals=Vitals())
    lane = Deaf(source, TopicPartition("events", 0))
    await asyncio.sleep(0.01)
    await lane.stop(1.0, 1.0)
    assert lane.task.done()
