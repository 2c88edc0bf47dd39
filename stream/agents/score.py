"""The score agent: batches of events in, one fenced commit each, entries handed to the drain."""

from __future__ import annotations

import logging
import time
import traceback
import uuid
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec
from aiokafka.errors import KafkaError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from models.lifecycle.registry import Champions
from schemas.reasons import Rejected
from schemas.trigger import RecommendationTrigger
from stream.agents.observation import observe_batch
from stream.delivery.attempts import Attempts, Isolation, Plan
from stream.delivery.breaker import Breaker
from stream.delivery.commit import Command, commit_batch
from stream.delivery.errors import BreakerOpen, DeliveryError
from stream.delivery.fence import Fence, hash_record
from stream.delivery.outbox import Drain
from stream.delivery.producer import Producer
from stream.delivery.transactions import choose_transactions
from stream.metrics import Metrics
from stream.settings import Settings
from stream.stages.batch import Batch, IdleRecord, Item, Position, Record
from stream.stages.pipeline import Stages
from stream.state.client import read_clock
from stream.state.forms import UnknownState
from stream.state.keys import tag_events
from stream.state.people import People
from stream.vitals import Vitals

log = logging.getLogger(__name__)

OURS = (DeliveryError, UnknownState, RedisError, KafkaError, OSError)
"""Failures of the way, not of an event: the batch goes again, whole."""

ENDED: Final = Rejected(
    "crash",
    None,
    "processes ended or hung while they worked on this record alone; what a hung one did stands in its log. "
    "This is a bug in nudge, report it",
)
"""What the dead letter of an event says that was found by its attempts."""


@dataclass(frozen=True)
class Scoring:
    """What all score sessions of a worker share."""

    settings: Settings
    redis: Redis
    producer: Producer
    stages: Stages
    champions: Champions
    metrics: Metrics
    vitals: Vitals
    newest: deque[RecommendationTrigger]
    """The last few triggers, for those who watch; the newest first."""
    sessions: dict[int, ScoreSession] = field(default_factory=dict)
    """The partitions that are at work here."""
    process: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Token of this process."""
    isolation: Isolation = field(default_factory=Isolation)
    tries: Counter[int] = field(default_factory=Counter)
    """Partition that the breaker holds -> times that its next event was given up here."""

    def open(self, partition: int, fence: Fence) -> ScoreSession:
        """Session for a partition just acquired."""
        return ScoreSession(self, partition, fence)


class ScoreSession:
    """Scores the events of one partition under one owner token."""

    def __init__(self, scoring: Scoring, partition: int, fence: Fence) -> None:
        self.scoring = scoring
        self.partition = partition
        self.fence = fence
        self.tag = tag_events(partition)
        settings = scoring.settings
        self.people = People(scoring.redis, self.tag, settings.batch.cached_people, settings.batch.closings_per_event)
        out = choose_transactions(settings, partition)
        self.drain = Drain(
            settings, scoring.redis, scoring.producer, self.tag, fence, scoring.metrics, scoring.vitals, out
        )
        self.attempts = Attempts(scoring.redis, self.tag, scoring.process)
        self.breaker = Breaker(settings.breaker, scoring.redis, self.tag)
        self.quiet_since = time.monotonic()
        self.wall = time.time

    async def open(self) -> int:
        """Take over what waits in the outbox, and see whether earlier owners ended at what comes next."""
        await self.attempts.read(self.fence.next)
        await self.breaker.read()
        self.wall = self.drain.wall = await read_clock(self.scoring.redis)
        await self.drain.open()
        self.scoring.sessions[self.partition] = self
        return self.fence.next

    async def close(self) -> None:
        """Stop the drain; the next owner sends what is left."""
        if self.scoring.sessions.get(self.partition) is self:
            del self.scoring.sessions[self.partition]
        try:
            # Where Redis is away it stands, and counts if others go on here: one more attempt convicts nobody.
            with suppress(RedisError, OSError):
                await self.attempts.forget()
        finally:
            await self.drain.close()
        self.scoring.metrics.forget_partition(self.partition)

    async def wait_for_room(self) -> None:
        """Back-pressure: nothing is decided while too much waits to be sent."""
        await self.drain.wait_for_room()

    async def handle(self, records: Sequence[Record]) -> None:
        """Score and commit; an event that makes a stage fail, or ends processes, is found and put aside."""
        self.quiet_since = time.monotonic()
        # An agent that was cancelled between two halves is offered the whole again: what is applied is not read twice.
        if records[0].offset < self.fence.next:
            records = [record for record in records if record.offset >= self.fence.next]
        while records:
            records = records[await self._advance(records) :]

    async def _advance(self, records: Sequence[Record]) -> int:
        """Make the first of the records count, and return how many: all, unless processes ended in them."""
        plan = await self.attempts.plan(records)
        if self.breaker.wary and (not plan.convicted or self._is_due()):
            plan = Plan(1, True, suspect=plan.suspect)
        async with self.scoring.isolation.hold(alone=plan.alone):
            if plan.convicted:
                log.error("%s: offset %d ends processes", self.tag, records[0].offset)
                await self._put_aside(records[:1], ENDED)
            else:
                await self._settle(records[: plan.size])
        return plan.size

    async def _settle(self, records: Sequence[Record]) -> None:
        """Apply the records, halved where a stage fails, until the event that makes it fail is found."""
        try:
            await self._apply(records)
            return
        except OURS:
            self.people.clear()
            raise
        except Exception as error:
            self.people.clear()
            if self.fence.next > records[-1].offset:
                # The commit stands, and what failed came after it: no event is to blame.
                raise
            crash = _describe_crash(error)
            if len(records) == 1:
                log.exception("%s: offset %d makes a stage fail", self.tag, records[0].offset)
        if len(records) == 1:
            await self._put_aside(records, crash)
            return
        half = len(records) // 2
        await self._settle(records[:half])
        await self._settle(records[half:])

    def _is_due(self) -> bool:
        """Whether an event that ended processes is to be tried again: under an open breaker, after the wait for it."""
        return self.breaker.open and self.partition in self.scoring.tries

    async def _put_aside(self, records: Sequence[Record], crash: Rejected) -> None:
        """Send the one record to the dead letters. Raises `BreakerOpen` where that would be one too many."""
        if not self.breaker.open:
            await self._apply(records, crash)
            return
        tries = self.scoring.tries
        tries[self.partition] = max(tries[self.partition] + 1, len(self.attempts.ends))
        wait = self.breaker.wait(tries[self.partition])
        self.scoring.vitals.pause("breaker", self.tag)
        raise BreakerOpen(
            f"so many events crash that they can't all be to blame, the last at offset {records[0].offset} "
            f"({crash.message}). Nothing more is dead-lettered and nothing is lost: go back to the version or the "
            f"settings that worked, or raise breaker.in_a_row and breaker.share to dead-letter them all the same. "
            f"One event is tried again in {wait:g} s",
            wait,
        )

    def _count(self, number: int, crashed: bool) -> None:
        """Take note of events that count now; one that passes ends what the breaker holds."""
        self.breaker.count(number, crashed=crashed)
        if not crashed and self.scoring.tries.pop(self.partition, 0):
            self.scoring.vitals.resume("breaker", self.tag)
            log.warning("%s: an event passed, the partition goes on", self.tag)

    async def idle(self) -> None:
        """Close what fell due in a partition without events, as of Redis' clock; under event time, time stands."""
        settings = self.scoring.settings
        quiet = (time.monotonic() - self.quiet_since) * 1000
        if settings.clock == "event" or quiet < settings.idle_after or self.fence.next == 0:
            return
        while await self._close_due(int(self.wall() * 1000)):
            pass
        self.quiet_since = time.monotonic()

    async def _close_due(self, now: int) -> bool:
        """Close as many windows as one event would; False when none was due."""
        watermark = now - self.scoring.settings.lateness
        batch = self._begin([])
        # The watermark in the fence stays: an event that comes late all the same must find it where a replay would.
        batch.items = [Item(IdleRecord(self.fence.next - 1, now), None, None, None, None, "", now, watermark)]
        await self.people.load(batch, watermark)
        if not batch.due and not batch.closed:
            return False
        await self.scoring.stages.run(batch, self.scoring.champions.current)
        await self._commit(batch, self.fence.next, self.fence.last_hash, ())
        return True

    def _begin(self, records: Sequence[Record]) -> Batch:
        return Batch(
            self.partition,
            self.scoring.settings.topics.events,
            records,
            self.fence.clocks(),
            emitted=self.fence.emitted,
            generation=self.fence.generation,
        )

    async def _apply(self, records: Sequence[Record], crash: Rejected | None = None) -> None:
        end = records[-1].offset + 1
        batch = self._begin(records)
        if crash is None:
            began = time.perf_counter()
            await self.attempts.begin(self.fence, end)
            noted = time.perf_counter()
            self.scoring.stages.decode(batch)
        else:
            began = noted = time.perf_counter()
            if self.scoring.settings.clock == "log":
                # As with every record that can't be used.
                batch.clock.now = max(batch.clock.now, *(record.timestamp for record in records))
            batch.rejected = [(record, crash) for record in records]
        decoded = time.perf_counter()
        await self.people.load(batch, batch.clock.watermark)
        loaded = time.perf_counter()
        seconds = await self.scoring.stages.run(batch, self.scoring.champions.current)
        scored = time.perf_counter()
        besides = [*self.attempts.conclude(end), *(self.breaker.note() if crash else ())]
        await self._commit(batch, end, hash_record(records[-1]), besides)
        self.attempts.concluded(end)
        self._count(len(records), crash is not None)
        seconds |= {"decode": decoded - noted}
        calls = {"attempt": noted - began, "fetch": loaded - decoded, "commit": time.perf_counter() - scored}
        observe_batch(self.scoring.metrics, batch, seconds, calls)

    async def _commit(self, batch: Batch, end: int, last_hash: str, besides: Sequence[Command]) -> None:
        emitted = batch.entries[-1].position if batch.entries else self.fence.emitted
        to = msgspec.structs.replace(
            self.fence,
            next=end,
            clock=batch.clock.now,
            watermark=batch.clock.watermark,
            last_hash=last_hash,
            emitted=Position(*emitted),
        )
        ttl = self.scoring.settings.profile_ttl
        await commit_batch(self.scoring.redis, self.tag, batch, self.fence, to, ttl, besides)
        self.fence = to
        self.people.accept(batch)
        self.drain.add(batch.entries)
        self.scoring.newest.extendleft(batch.triggers)


def _describe_crash(error: Exception) -> Rejected:
    """What the dead letter says: the error's type and where it was raised, never its text, which may hold data."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} in {frame.name}"
    return Rejected("crash", None, f"{type(error).__name__} at {where}; this is a bug in nudge, report it")
