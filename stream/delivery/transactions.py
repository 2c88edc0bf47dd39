"""Exactly once for `read_committed` readers: a partition's entries go out in transactions that say how far they reach.

Each partition has a transactional id of its own. Who takes the partition over opens it anew, which cuts the owner
before off and settles what that one left open, and reads back how far the last committed transaction reached. That is
kept as an offset of the group `<app>-outbox`, which the transaction carries: entries and place count together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, NoReturn

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    IllegalOperation,
    IllegalStateError,
    InvalidTxnState,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
)
from aiokafka.producer import sender
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from stream.broker.connection import BrokerError
from stream.broker.topics import open_admin
from stream.delivery.connection import REQUEST_TIMEOUT, describe_connection, describe_security
from stream.delivery.errors import RefusedForGood
from stream.delivery.fence import Reached
from stream.delivery.packing import BATCH_BYTES
from stream.delivery.producer import Outgoing, write
from stream.settings import Settings
from stream.stages.batch import Position

log = logging.getLogger(__name__)

MOST: Final = 1_000
"""Entries in one transaction, more only where one event has more: its own cost is shared, and none takes long."""

TIMEOUT: Final = 30_000
"""Milliseconds after which the broker aborts a transaction whose owner nobody follows."""

PATIENCE: Final = 0.8 * REQUEST_TIMEOUT / 1000
"""Seconds that a transaction may take: less than any answer may take by the client's own measure. It would ask again,
and the first of two requests to end a transaction, carried out late, would end the next one. Whoever goes on after
this opens a new epoch, in which late requests are refused."""

STOP_SECONDS: Final = 1.0

# The client asks again whether the transaction before is through; at its own 20 ms this is most of a transaction.
sender.BACKOFF_OVERRIDE = 0.002


class Transactions:
    """The way out for the entries of one partition, open for one owner token; after any error it is done with."""

    def __init__(self, settings: Settings, partition: int) -> None:
        self.settings = settings
        self.id = f"{settings.app}-p{partition}"
        self.group = name_group(settings)
        self.source = TopicPartition(settings.topics.events, partition)
        self._client: AIOKafkaProducer | None = None

    async def open(self) -> Reached | None:
        """Cut the owner before off; return how far it got, None if nothing tells. Raises `KafkaError`.

        The place is read when the transactional id is taken and not before: the last transaction would be missed.
        """
        await self.close()
        client = AIOKafkaProducer(
            **describe_connection(self.settings),
            acks="all",
            linger_ms=0,
            transactional_id=self.id,
            transaction_timeout_ms=TIMEOUT,
            max_batch_size=BATCH_BYTES,
            max_request_size=1024 * 1024,
            retry_backoff_ms=5,
        )
        self._client = client
        # The client would try for ever. Not wait_for: before Python 3.12 it may lose the cancellation of the lane.
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT / 1000):
                await client.start()
        except TimeoutError as error:
            raise KafkaTimeoutError(f"the broker does not give the transactional id {self.id}") from error
        return await self._read_reached()

    async def _read_reached(self) -> Reached | None:
        bootstrap, security = self.settings.kafka.bootstrap, describe_security(self.settings)
        try:
            async with open_admin(bootstrap, security) as admin:
                found = await admin.list_consumer_group_offsets(self.group, partitions=[self.source])
        except BrokerError as error:
            raise KafkaConnectionError(str(error)) from error
        offset, metadata = found.get(self.source, OffsetAndMetadata(-1, ""))
        return None if offset < 0 else _read_metadata(offset, metadata)

    async def send(self, records: Sequence[Outgoing], reached: Reached) -> None:
        """Send all in one transaction, and with them how far they reach.

        Raises `RefusedForGood` if the broker refuses one of them, and nothing was sent; `KafkaError` if that is not
        known, `ProducerFenced` among them where another owner has come. `open` tells.
        """
        client = self._client
        if client is None:
            raise IllegalStateError("the transactional producer is not open")
        try:
            async with asyncio.timeout(PATIENCE):
                await self._transact(client, records, reached)
        except (AssertionError, IllegalOperation) as error:
            # The client's ways to say that it was fenced, or failed, before.
            raise KafkaError(f"the transactional producer {self.id} is done with: {error}") from error
        except TimeoutError as error:
            raise KafkaTimeoutError(f"a transaction of {self.id} does not end") from error

    async def _transact(self, client: AIOKafkaProducer, records: Sequence[Outgoing], reached: Reached) -> None:
        await client.begin_transaction()
        place = OffsetAndMetadata(reached.position.offset, _write_metadata(reached))
        try:
            await write(client, records, self.settings.partitioner, _refuse, {})
            # Not before: were the transaction ended here by a request that comes late, nobody would send the records.
            await client.send_offsets_to_transaction({self.source: place}, self.group)
        except InvalidTxnState as error:
            # A topic that was refused to the transaction shows in what is sent to others, by another name.
            raise _hear_end(client) or error from error
        await client.commit_transaction()

    async def close(self) -> None:
        """Disconnect; a transaction that is open is aborted by the next owner, or when its time is over."""
        client, self._client = self._client, None
        if client is None:
            return
        _hear_end(client)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await client.stop()
        except (KafkaError, TimeoutError) as error:
            log.debug("%s: did not stop cleanly: %r", self.id, error)


def name_group(settings: Settings) -> str:
    """The group without members whose offsets say how far transactions reach."""
    return f"{settings.app}-outbox"


def choose_transactions(settings: Settings, partition: int) -> Transactions | None:
    """The transactions of a partition of the events topic, None where entries go out at least once."""
    return Transactions(settings, partition) if settings.output_guarantee == "exactly_once" else None


def _write_metadata(reached: Reached) -> str:
    """What an offset alone does not say: the generation, and which of the offset's entries.

    >>> _read_metadata(41, _write_metadata(Reached(1, Position(41, 3))))
    Reached(generation=1, position=Position(offset=41, number=3))
    """
    return f"{reached.generation}/{reached.position.number}"


def _read_metadata(offset: int, metadata: str) -> Reached:
    generation, number = metadata.split("/")
    return Reached(int(generation), Position(offset, int(number)))


def _hear_end(client: AIOKafkaProducer) -> BaseException | None:
    """Hear with what the last transaction failed: what was sent in it has told, but what nobody hears is logged."""
    manager = client._txn_manager
    end = None if manager is None else manager.wait_for_transaction_end()
    return end.exception() if end is not None and end.done() and not end.cancelled() else None


async def _refuse() -> NoReturn:
    raise RefusedForGood("the broker refuses a record of the transaction for good")
