"""The end of a lane: whoever asks for it, and whoever stops waiting, it comes."""

from __future__ import annotations

import asyncio
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
    rebalance = asyncio.create_task(lane.stop(60.0))
    await asyncio.sleep(0.01)

    # When: the client is closed, which cancels the rebalance, and the batch is done
    rebalance.cancel()
    await asyncio.wait([rebalance])
    assert not lane.task.done()
    lane.busy.release()

    # Then: whoever asks next need not wait for the deadline, and the lane is gone
    await asyncio.wait_for(lane.stop(60.0), timeout=5.0)
    assert lane.task.done()
