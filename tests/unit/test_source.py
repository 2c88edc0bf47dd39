"""The end of a source: it comes whatever the source is about to do at that moment."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from stream.delivery import source as module
from stream.delivery.lineage import Lineage
from stream.delivery.source import BatchSource
from stream.metrics import Metrics
from stream.settings import Settings
from stream.vitals import Vitals

pytestmark = pytest.mark.timeout(30)


class Told:
    """A consumer that answers at once, and calls `then` just after its first answer, before anybody has heard it."""

    def __init__(self, then: Any) -> None:
        self.then = then
        self.offsets: list[dict[TopicPartition, tuple[int, str]]] = []

    async def commit(self, offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        self.offsets.append(offsets)
        if len(self.offsets) == 1:
            asyncio.get_running_loop().call_soon(self.then)


async def test_a_source_told_to_finish_as_the_group_answers_it_finishes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given: a source with one lane, that tells the group where it stands
    monkeypatch.setattr(module, "HINT_INTERVAL", 0.01)
    client: Any = None
    source = BatchSource("events", "events", Settings(), client, client, client, Metrics(), Vitals())
    done = asyncio.create_task(asyncio.sleep(0))
    lane: Any = SimpleNamespace(
        position=7, lineage=Lineage(1, 5), task=done, abandoned=False, stop=lambda *_: asyncio.sleep(0)
    )
    source.lanes[TopicPartition("events", 0)] = lane
    end: asyncio.Future[asyncio.Task[None]] = asyncio.get_running_loop().create_future()
    consumer: Any = Told(lambda: end.set_result(asyncio.create_task(source.finish())))
    source.consumer = consumer

    # When: it is told to finish between the answer and the moment in which it hears it
    source._hints = asyncio.create_task(source._hint())
    async with asyncio.timeout(5.0):
        finishing = await end

        # Then: it does
        assert await finishing is True
    assert source._hints.cancelled()
    assert consumer.offsets == [{TopicPartition("events", 0): (7, "1/5")}] * 2


async def test_a_source_says_so_when_a_batch_was_cut_off() -> None:
    client: Any = None
    source = BatchSource("events", "events", Settings(), client, client, client, Metrics(), Vitals())
    done = asyncio.create_task(asyncio.sleep(0))
    for partition, abandoned in ((0, False), (1, True)):
        lane: Any = SimpleNamespace(position=7, task=done, abandoned=abandoned, stop=lambda *_: asyncio.sleep(0))
        source.lanes[TopicPartition("events", partition)] = lane
    assert await source.finish() is False
    assert await source.finish() is True
