"""The privacy agent: passes requests from the ledger on into the events topic, to their person's partition.

Their place there decides from when they hold, so that a replay agrees. A request carries its place in the ledger
along; when it is passed on twice (a crash between acknowledgement and fence), the gate knows the second copy by it.
What can not be read is dead-lettered, or parked where the broker refuses that for good.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis

from schemas.privacy import KIND_HEADER, LEDGER_HEADER, Place
from schemas.reasons import Rejected
from schemas.wire import decode_request
from stream.delivery.entries import REFUSED, park_entry
from stream.delivery.errors import DeliveryError
from stream.delivery.fence import Fence, advance_fence, hash_record
from stream.delivery.producer import Outgoing, Producer
from stream.metrics import Metrics
from stream.settings import Settings
from stream.stages.batch import Entry, Position, Record
from stream.stages.letters import write_headers
from stream.state.keys import tag_source

_json = msgspec.json.Encoder()
log = logging.getLogger(__name__)


class PrivacySession:
    """Passes on the requests of one partition of the ledger."""

    def __init__(
        self, settings: Settings, redis: Redis, producer: Producer, partition: int, fence: Fence, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.redis = redis
        self.producer = producer
        self.partition = partition
        self.fence = fence
        self.metrics = metrics
        self.tag = tag_source("privacy", partition)

    async def open(self) -> int:
        """Go on behind the last request passed on."""
        return self.fence.next

    async def close(self) -> None:
        """Nothing is held."""

    async def wait_for_room(self) -> None:
        """Requests never wait: each batch is acknowledged before the next is read."""

    async def idle(self) -> None:
        """Nothing falls due here."""

    async def handle(self, records: Sequence[Record]) -> None:
        """Send each request on, or to the dead letters, and move the fence once all are acknowledged."""
        outgoing = [self._pass_on(record) for record in records]
        refused = await self.producer.send(outgoing)
        requests = [number for number in refused if outgoing[number].topic == self.settings.topics.events]
        if requests:
            # Neither dropped nor passed over: what a person asked for holds the ledger up until somebody looks.
            raise DeliveryError(f"the broker refuses the request at offset {records[requests[0]].offset} for good")
        for number in refused:
            await self._park(records[number], outgoing[number])
        last = records[-1]
        to = msgspec.structs.replace(self.fence, next=last.offset + 1, last_hash=hash_record(last))
        await advance_fence(self.redis, self.tag, self.fence, to, ())
        self.fence = to

    async def _park(self, record: Record, letter: Outgoing) -> None:
        """Put a dead letter aside: nobody asked for anything in it, and it must not hold up who did."""
        at = Position(record.offset, 1)
        entry = Entry(at, "dead_letters", letter.key, letter.value, letter.headers, record.timestamp)
        if await park_entry(self.redis, self.tag, self.fence.generation, entry, REFUSED):
            log.error("%s: entry %s parked: %s", self.tag, at, REFUSED)
            self.metrics.outbox_parked.add(1)

    def _pass_on(self, record: Record) -> Outgoing:
        topics = self.settings.topics
        now = int(time.time() * 1000)
        try:
            request = decode_request(record.value)
        except Rejected as rejection:
            headers = write_headers(rejection, topics.privacy, self.partition, record, self.fence.generation)
            return Outgoing(topics.dead_letters, record.key or b"", record.value or b"", headers, now)
        place = Place(self.fence.generation, record.offset)
        headers = ((KIND_HEADER, b"privacy"), (LEDGER_HEADER, f"{self.partition}/{place}".encode()))
        return Outgoing(topics.events, request.user_id.encode(), _json.encode(request), headers, now)
