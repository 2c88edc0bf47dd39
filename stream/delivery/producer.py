"""The producer that everything nudge writes goes through: whole batches a partition, order kept, all acknowledged.

A record that the broker refuses for good is told from one that may be sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream.delivery.connection import describe_connection
from stream.delivery.packing import BATCH_BYTES, Packer, Spare
from stream.partition import Partitioner, hash_key
from stream.settings import Settings

log = logging.getLogger(__name__)


class Outgoing(NamedTuple):
    """One record to send; an empty key means none. `timestamp` is in epoch milliseconds."""

    topic: str
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp: int


class Producer:
    """Sends records, in order per partition, acks=all; idempotent where the broker can do it."""

    def __init__(self, settings: Settings, *, idempotent: bool, fixed: Mapping[str, int] | None = None) -> None:
        """`fixed` gives the number of partitions to choose among, for topics whose present one is not to be asked."""
        self.settings = settings
        self.fixed = fixed or {}
        self.idempotent = idempotent
        self.partitioner: Partitioner = settings.partitioner
        self._client: AIOKafkaProducer | None = None
        self._spare: AIOKafkaProducer | None = None
        self._users: Counter[AIOKafkaProducer] = Counter()
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Connect, or connect anew: after a failed send an idempotent client has lost its sequence."""
        async with self._starting:
            if self._client is None:
                self._client = await self._connect(self.idempotent)

    async def _connect(self, idempotent: bool) -> AIOKafkaProducer:
        client = AIOKafkaProducer(
            **describe_connection(self.settings),
            acks="all",
            linger_ms=0,
            enable_idempotence=idempotent,
            max_batch_size=BATCH_BYTES,
            max_request_size=1024 * 1024,
            retry_backoff_ms=20,
        )
        try:
            await client.start()
        except BaseException:
            await client.stop()
            raise
        return client

    async def _open_spare(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._spare is None:
                self._spare = await self._connect(idempotent=False)
            return self._spare

    async def stop(self) -> None:
        """Send what is under way and disconnect."""
        clients, self._client, self._spare = (self._client, self._spare), None, None
        for client in clients:
            if client is not None:
                await client.stop()

    async def send(self, records: list[Outgoing]) -> list[int]:
        """Send all and wait for the acknowledgements; return the indexes of those refused for good.

        Raises `KafkaError` if some may not have arrived: all may then be sent again.
        """
        await self.start()
        client = self._client
        assert client is not None
        self._users[client] += 1
        try:
            return await self._send(client, records)
        except KafkaError:
            self._retire(client)
            raise
        finally:
            self._users[client] -= 1
            # Not earlier: one who asks a client that is closed where a topic's partitions are is never answered.
            if not self._users[client]:
                del self._users[client]
                if self._client is not client:
                    asyncio.get_running_loop().create_task(_discard(client))

    def _retire(self, client: AIOKafkaProducer) -> None:
        # The sequence is broken: what comes next needs a client that knows nothing of it.
        if self._client is client:
            self._client = None

    async def _send(self, client: AIOKafkaProducer, records: list[Outgoing]) -> list[int]:
        spare = self._open_spare if self.idempotent else None
        refusals, spared = await write(client, records, self.partitioner, spare, self.fixed)
        if spared:
            self._retire(client)
        return refusals


async def write(
    client: AIOKafkaProducer,
    records: Sequence[Outgoing],
    partitioner: Partitioner,
    spare: Spare | None,
    fixed: Mapping[str, int],
) -> tuple[list[int], bool]:
    """Send all with `client` and wait for the acknowledgements; `fixed` as `Producer` has it.

    Returns the indexes of those refused for good, and whether the client that `spare` opens had to send in its place.
    """
    packers: dict[tuple[str, int], Packer] = {}
    # Most are examples, with a few keys: each is hashed once.
    known: dict[tuple[str, bytes], Packer] = {}
    refusals = Refusals()
    topics = {record.topic for record in records}
    counts = {topic: fixed.get(topic) or len(await client.partitions_for(topic)) for topic in topics}
    try:
        for number, (topic, key, value, headers, timestamp) in enumerate(records):
            packer = known.get((topic, key))
            if packer is None:
                lane = topic, hash_key(key, partitioner) % counts[topic] if key else 0
                packer = packers.get(lane) or packers.setdefault(lane, Packer(client, *lane, refusals, spare))
                known[topic, key] = packer
            while not packer.append((number, key or None, value, headers, timestamp)):
                await packer.room()
        await asyncio.gather(*(packer.settle() for packer in packers.values()))
    finally:
        for packer in packers.values():
            await packer.close()
    return sorted(refusals), any(packer.client is not client for packer in packers.values())


class Refusals(list[int]):
    """Numbers of the records that were refused for good."""

    def acknowledge(self, records: int) -> None:
        """Of no interest here: what was not refused was acknowledged when all is settled."""

    def refuse(self, position: int, reason: str) -> None:
        """Keep the number."""
        self.append(position)


async def _discard(client: AIOKafkaProducer) -> None:
    try:
        await asyncio.wait_for(client.stop(), timeout=5.0)
    except (KafkaError, TimeoutError) as error:
        log.debug("old producer did not stop cleanly: %r", error)
