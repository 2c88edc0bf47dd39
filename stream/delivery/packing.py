"""Records packed into whole batches, one run a partition: order kept, all acknowledged.

`send` per record costs more than deciding it. Where the broker refuses a batch for good it names no record, so halves
are tried, in order, until the one to blame stands alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream.delivery.refusals import FOR_GOOD

BATCH_BYTES: Final = 512 * 1024
"""`max_batch_size` of a client that packs; a larger record gets a batch of its own."""

Parcel = tuple[int, bytes | None, bytes | None, Sequence[tuple[str, bytes | None]], int | None]
"""Number of a record among all that are sent, key, value, headers, time stamp (epoch ms; None for now)."""


Spare = Callable[[], Awaitable[AIOKafkaProducer]]


class Tally(Protocol):
    """Is told what became of the records."""

    def acknowledge(self, records: int) -> None:
        """So many more are with the broker."""

    def refuse(self, position: int, reason: str) -> None:
        """The record of this number was refused for good."""


class Packer:
    """One partition's way to the broker: a batch under way, and one being filled behind it.

    The next batch leaves when the one before is acknowledged, so order holds also where a batch is refused and sent
    again in parts.
    """

    def __init__(
        self,
        client: AIOKafkaProducer,
        topic: str,
        partition: int,
        tally: Tally,
        spare: Spare | None = None,
        for_good: tuple[type[KafkaError], ...] = FOR_GOOD,
    ) -> None:
        """`for_good`: the broker's answers that are a record's own fault."""
        self.client, self._topic, self._partition, self._tally = client, topic, partition, tally
        self._spare, self._for_good = spare, for_good
        self._builder = client.create_batch()
        self._held: list[Parcel] = []
        self._flight: asyncio.Task[None] | None = None

    def append(self, parcel: Parcel) -> bool:
        """Hold a record for the next batch. False when that is full: then `await room()` first."""
        if not _add(self._builder, parcel):
            return False
        self._held.append(parcel)
        return True

    def launch(self) -> None:
        """Send what is held, unless a batch is under way; its acknowledgement then launches again.

        Raises the `KafkaError` with which the batch before ended.
        """
        if self._flight is not None:
            if not self._flight.done():
                return
            self._flight.result()
        if self._held:
            builder, held = self._builder, self._held
            self._builder, self._held = self.client.create_batch(), []
            self._flight = asyncio.create_task(self._deliver(builder, held))
            self._flight.add_done_callback(self._go_on)

    def _go_on(self, flight: asyncio.Task[None]) -> None:
        if not flight.cancelled() and flight.exception() is None:
            self.launch()

    async def room(self) -> None:
        """Wait until what is held has left."""
        held = self._held
        self.launch()
        while held and self._held is held and self._flight is not None:
            await self._flight
            self.launch()

    async def settle(self) -> None:
        """Send what is held and wait until all of it is acknowledged or refused."""
        await self.room()
        if self._flight is not None:
            await self._flight

    async def close(self) -> None:
        """Stop waiting for a batch that is under way."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.gather(self._flight, return_exceptions=True)

    async def _deliver(self, builder: Any, held: Sequence[Parcel]) -> None:
        try:
            outcome = await self.client.send_batch(builder, self._topic, partition=self._partition)
            outcome.add_done_callback(_hear)
            # Not awaited itself: the client's shield, once it is cancelled, hears no failure.
            await asyncio.wait([outcome])
            outcome.result()
        except self._for_good as error:
            if self._spare is not None:
                self.client = await self._spare()
            await self._deliver_in_parts(held, error)
        else:
            self._tally.acknowledge(len(held))

    async def _deliver_in_parts(self, held: Sequence[Parcel], error: Exception) -> None:
        if len(held) == 1:
            self._tally.refuse(held[0][0], f"the broker refused it: {error}")
            return
        middle = len(held) // 2
        for part in (held[:middle], held[middle:]):
            builder = self.client.create_batch()
            for parcel in part:
                _add(builder, parcel)
            await self._deliver(builder, part)


def _hear(outcome: asyncio.Future[Any]) -> None:
    """Hear a failure that comes when the flight is given up: what nobody hears is logged."""
    if not outcome.cancelled():
        outcome.exception()


def _add(builder: Any, parcel: Parcel) -> bool:
    _, key, value, headers, timestamp = parcel
    return builder.append(timestamp=timestamp, key=key, value=value, headers=list(headers)) is not None
