"""The producer that everything nudge writes goes through: whole batches a partition, order kept, all acknowledged.

`send` per record costs more than deciding it; so records are packed into the client's batches here, one run of them a
partition. A record that the broker refuses for good is told from one that may be sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
)

from stream.delivery.connection import describe_connection
from stream.partition import Partitioner, hash_key
from stream.settings import Settings

log = logging.getLogger(__name__)

BATCH_BYTES: Final = 512 * 1024
FOR_GOOD: Final = (MessageSizeTooLargeError, InvalidTimestampError)


class Outgoing(NamedTuple):
    """One record to send; an empty key means none. `timestamp` is in epoch milliseconds."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: int


class Producer:
    """Sends records, in order per partition, acks=all; idempotent where the broker can do it."""

    def __init__(self, settings: Settings, *, idempotent: bool) -> None:
        self.settings = settings
        self.idempotent = idempotent
        self.partitioner: Partitioner = settings.partitioner
        self._client: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Connect, or connect anew: after a failed send an idempotent client has lost its sequence."""
        async with self._starting:
            if self._client is not None:
                return
            client = AIOKafkaProducer(
                **describe_connection(self.settings),
                acks="all",
                linger_ms=0,
                enable_idempotence=self.idempotent,
                max_batch_size=BATCH_BYTES,
                max_request_size=1024 * 1024,
                retry_backoff_ms=20,
            )
            try:
                await client.start()
            except BaseException:
                await client.stop()
                raise
            self._client = client

    async def stop(self) -> None:
        """Send what is under way and disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await client.stop()

    async def send(self, records: list[Outgoing]) -> list[int]:
        """Send all and wait for the acknowledgements; return the indexes of those refused for good.

        Raises `KafkaError` if some may not have arrived: all may then be sent again.
        """
        await self.start()
        client = self._client
        assert client is not None
        try:
            return await self._send(client, records)
        except KafkaError:
            # The sequence is broken: what comes next needs a client that knows nothing of it.
            if self._client is client:
                self._client = None
            asyncio.get_running_loop().create_task(_discard(client))
            raise

    async def _send(self, client: AIOKafkaProducer, records: list[Outgoing]) -> list[int]:
        lanes: dict[tuple[str, int], list[int]] = {}
        counts = {topic: len(await client.partitions_for(topic)) for topic in {record.topic for record in records}}
        for index, record in enumerate(records):
            partition = hash_key(record.key, self.partitioner) % counts[record.topic] if record.key else 0
            lanes.setdefault((record.topic, partition), []).append(index)
        refused: list[int] = []
        flights: list[tuple[asyncio.Future[object], list[int]]] = []
        for (topic, partition), indexes in lanes.items():
            await self._pack(client, topic, partition, records, indexes, flights, refused)
        outcomes = await asyncio.gather(*(future for future, _ in flights), return_exceptions=True)
        for outcome, (_, indexes) in zip(outcomes, flights, strict=True):
            if isinstance(outcome, FOR_GOOD) and len(indexes) == 1:
                refused += indexes
            elif isinstance(outcome, FOR_GOOD):
                # One of them is to blame: each goes again on its own, still in order.
                for index in indexes:
                    refused += [index for _ in await self.send([records[index]])]
            elif isinstance(outcome, BaseException):
                raise outcome
        return sorted(refused)

    async def _pack(
        self,
        client: AIOKafkaProducer,
        topic: str,
        partition: int,
        records: list[Outgoing],
        indexes: Iterable[int],
        flights: list[tuple[asyncio.Future[object], list[int]]],
        refused: list[int],
    ) -> None:
        batch, packed = client.create_batch(), list[int]()
        for index in indexes:
            record = records[index]
            row = {
                "key": record.key or None,
                "value": record.value,
                "timestamp": record.timestamp,
                "headers": list(record.headers),
            }
            if batch.append(**row) is None:
                if packed:
                    flights.append((await client.send_batch(batch, topic, partition=partition), packed))
                batch, packed = client.create_batch(), []
                if batch.append(**row) is None:
                    refused.append(index)
                    continue
            packed.append(index)
        if packed:
            flights.append((await client.send_batch(batch, topic, partition=partition), packed))


async def _discard(client: AIOKafkaProducer) -> None:
    try:
        await asyncio.wait_for(client.stop(), timeout=5.0)
    except (KafkaError, TimeoutError) as error:
        log.debug("old producer did not stop cleanly: %r", error)
