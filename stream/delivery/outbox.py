"""The outbox: what a commit wrote beside the state, drained to Kafka in order, trimmed after the acknowledgement.

Entries just committed are handed over in memory; what an earlier owner left is read from Redis when the partition is
opened. Sending twice is possible (a crash between acknowledgement and trim), losing is not. Through `Transactions`,
what the last of them reached is neither sent again, nor when it is decided anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import groupby, islice, takewhile
from typing import Final

from aiokafka.errors import KafkaError, ProducerFenced
from redis.asyncio import Redis
from redis.exceptions import RedisError

from stream.delivery.entries import REFUSED, name_topics, park_entry, read_entry
from stream.delivery.errors import Refused, RefusedForGood
from stream.delivery.fence import Fence, Reached, read_fence
from stream.delivery.producer import Outgoing, Producer
from stream.delivery.refusals import BARRED, BARRING, name_cause
from stream.delivery.transactions import MOST, Transactions
from stream.metrics import Metrics
from stream.settings import Settings
from stream.stages.batch import NOWHERE, Entry, Position
from stream.state.client import call, read_clock
from stream.state.keys import Tag, name_key
from stream.state.scripts import Argument, Script
from stream.vitals import Cause, Vitals

log = logging.getLogger(__name__)

_trim: Final = Script("stream.delivery", "trim.lua")
CHUNK: Final = 2_000
PASSING: Final[tuple[Cause, ...]] = ("broker", "redis")
PARTING_SECONDS: Final = 1.0
BARRED_SECONDS: Final = 5.0
"""About as long is waited before what is barred is tried again: a person must act first."""


class Drain:
    """Drains the outbox of one partition while this worker owns it under `fence.owner`."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        producer: Producer,
        tag: Tag,
        fence: Fence,
        metrics: Metrics,
        vitals: Vitals,
        transactions: Transactions | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.redis = redis
        self.producer = producer
        self.tag = tag
        self.transactions = transactions
        self.reached = self.known = _place(fence.reached, fence.generation)
        self.owner = fence.owner
        self.generation = fence.generation
        self.metrics = metrics
        self.vitals = vitals
        self.wall = wall
        self.topics = name_topics(settings)
        self.most = settings.outbox.max_entries
        self.entry_bytes = settings.outbox.max_entry_bytes
        self.max_age = 0 if settings.clock == "event" else settings.outbox.max_trigger_age
        self.waiting: deque[Entry] = deque()
        self.more = asyncio.Event()
        self.less = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.closing = False
        self.holder = f"drain {tag}"
        self.barred: Position | None = None
        """Up to where something is barred, until all of it has gone out."""
        self.size = CHUNK
        """How many go out at once without transactions: fewer while something is barred."""

    async def open(self) -> None:
        """Read what an earlier owner left, then begin to send. Raises `KafkaError` where no transaction can be had."""
        await self._open_transactions()
        self.known = self.reached
        left = await call(self.redis, "XRANGE", name_key("outbox", self.tag), "-", "+")
        self.add([read_entry(identity, fields) for identity, fields in left])
        self.task = asyncio.create_task(self._run(), name=f"drain {self.tag}")

    async def _open_transactions(self) -> None:
        """Cut the owner before off, and go on where it got to: what Kafka knows may be newer, or have expired."""
        if self.transactions is not None:
            found = _place(await self.transactions.open(), self.generation)
            self.reached = max(self.reached, found)

    def add(self, entries: Sequence[Entry]) -> None:
        """Take entries that a commit just wrote."""
        if entries:
            self.waiting.extend(entries)
            self.more.set()

    async def wait_for_room(self) -> None:
        """Return once fewer than the most allowed wait.

        Raises `Refused` when the drain lost the partition, `KafkaError` when it does not know what was sent.
        """
        if len(self.waiting) < self.most and not self._ended():
            return
        self.vitals.pause("outbox", self.tag)
        try:
            while len(self.waiting) >= self.most and not self._ended():
                self.less.clear()
                await self.less.wait()
        finally:
            self.vitals.resume("outbox", self.tag)
        if self.task is not None and self._ended():
            self.task.result()
            raise Refused(self.owner, -1, None, None, "the outbox has another owner")

    async def close(self) -> None:
        """Stop sending; what waits stays in Redis for the next owner. What is under way gets a moment to be trimmed."""
        self.closing = True
        self.more.set()
        try:
            if self.task is not None:
                await asyncio.wait([self.task], timeout=PARTING_SECONDS)
        finally:
            # Also where nobody waits any more: it would send on, for a partition that is others' by then.
            if self.task is not None:
                self.task.cancel()
                await asyncio.gather(self.task, return_exceptions=True)
            self._resume(*BARRING)
            if self.transactions is not None:
                await self.transactions.close()

    def _ended(self) -> bool:
        return self.task is not None and self.task.done()

    async def _run(self) -> None:
        try:
            while True:
                await self.more.wait()
                while self.waiting:
                    if self.closing:
                        return
                    chunk = self._take_chunk()
                    if not await self._send(chunk):
                        return
                    for _ in chunk:
                        self.waiting.popleft()
                    self.less.set()
                if self.closing:
                    return
                self.more.clear()
        finally:
            self.less.set()

    def _take_chunk(self) -> list[Entry]:
        """What goes out at once; a transaction holds all of an event's entries."""
        if self.transactions is None:
            return list(islice(self.waiting, self.size))
        chunk = list(islice(self.waiting, MOST))
        last = chunk[-1].position.offset
        chunk += takewhile(lambda entry: entry.position.offset == last, islice(self.waiting, MOST, None))
        return chunk

    async def _send(self, chunk: list[Entry]) -> bool:
        """Send and trim, as often as it takes; False when the partition has another owner.

        A transaction is tried once: what became of one that failed is told to the next owner, so `KafkaError` ends it;
        but one that was barred came to nothing. Of a chunk that is barred in part, the end may be left to later.
        """
        sent, told = False, None
        keys = [name_key("fence", self.tag), name_key("outbox", self.tag)]
        try:
            while True:
                try:
                    if self.barred is not None:
                        # It may be the clock that was mended.
                        self.wall = await read_clock(self.redis)
                    if not sent:
                        await self._deliver(chunk)
                        sent = True
                    trimmed = await _trim(self.redis, keys, self._describe_trim(chunk[-1].position))
                    self.size = min(2 * self.size, CHUNK)
                    if self.barred is not None and chunk[-1].position >= self.barred:
                        self.barred = None
                    return bool(trimmed == 1)
                except (KafkaError, RedisError, OSError) as error:
                    cause = name_cause(error)
                    if cause == "broker" and self.transactions is not None:
                        raise
                    if cause != told and not (cause in BARRING and self.barred):
                        log.warning("%s: outbox waits for %s: %r", self.tag, cause, error)
                        told = cause
                    if cause in BARRING:
                        self.barred = self.barred or chunk[-1].position
                    self.vitals.pause(cause, self.holder)
                    await self._rest(cause, chunk)
        finally:
            self._resume(*PASSING, *(() if self.barred else BARRING))

    def _resume(self, *causes: Cause) -> None:
        for cause in causes:
            self.vitals.resume(cause, self.holder)

    async def _rest(self, cause: Cause, chunk: list[Entry]) -> None:
        """Wait before the next try. Of what is barred in part less is tried: the rest would go out each time."""
        if cause not in BARRING:
            await asyncio.sleep(random.uniform(0.05, 0.3))
        elif self.transactions is None and len(chunk) > 1:
            del chunk[len(chunk) // 2 :]
            self.size = len(chunk)
        else:
            await asyncio.sleep(BARRED_SECONDS * random.uniform(0.5, 1.0))

    def _describe_trim(self, last: Position) -> list[Argument]:
        arguments: list[Argument] = [self.owner, f"{last.offset}-{last.number + 1}"]
        if self.transactions is not None:
            arguments.append(str(Reached(self.generation, max(self.reached, last))))
        return arguments

    async def _deliver(self, chunk: list[Entry]) -> None:
        now = int(self.wall() * 1000)
        stale = {entry.position for entry in chunk if self._is_stale(entry, now)}
        rest = [entry for entry in chunk if entry.position not in stale]
        sent = await (self._produce(rest, now) if self.transactions is None else self._transact(rest, now))
        self.metrics.stale_triggers.add(len(stale))
        self.metrics.outbox_known.add(sum([entry.position <= self.known for entry in chunk]))
        self._count(sent)

    async def _produce(self, entries: list[Entry], now: int) -> list[Entry]:
        """Send, park what can't be sent, and return the rest."""
        fresh = [entry for entry in entries if not self._is_large(entry)]
        refused = {fresh[number].position for number in await self.producer.send(self._address(fresh, now))}
        # Only now: a chunk that is sent again must not be parked and counted again.
        for entry in entries:
            if entry.position in refused:
                await self._park(entry, REFUSED)
            elif self._is_large(entry):
                await self._park_large(entry)
        return [entry for entry in fresh if entry.position not in refused]

    async def _transact(self, entries: list[Entry], now: int) -> list[Entry]:
        """The same in transactions, of which none reaches past an entry that is not parked yet."""
        sent: list[Entry] = []
        for large, run in groupby(entries, self._is_large):
            if large:
                # Whatever was reached: a Redis from before may have lost them.
                for entry in run:
                    await self._park_large(entry)
            else:
                sent += await self._transact_run([entry for entry in run if entry.position > self.reached], now)
        return sent

    async def _transact_run(self, entries: list[Entry], now: int) -> list[Entry]:
        """Send in one transaction, or, where one entry is refused, in several without it."""
        assert self.transactions is not None
        if not entries:
            return []
        began, last = time.perf_counter(), entries[-1].position
        try:
            await self.transactions.send(self._address(entries, now), Reached(self.generation, last))
        except ProducerFenced as error:
            raise Refused(self.owner, -1, None, None, "another owner sends the outbox") from error
        except RefusedForGood:
            await self._check_owner()
            await self._open_transactions()
            if len(entries) == 1:
                await self._park(entries[0], REFUSED)
                return []
            half = len(entries) // 2
            return await self._transact_run(entries[:half], now) + await self._transact_run(entries[half:], now)
        except BARRED:
            await self._check_owner()
            await self._open_transactions()
            raise
        self.reached = last
        self.metrics.transactions.of().observe(time.perf_counter() - began)
        return entries

    async def _check_owner(self) -> None:
        """Raise `Refused` unless the partition is ours: to open transactions is to cut off who has them."""
        fence = await read_fence(self.redis, self.tag)
        if fence is None or fence.owner != self.owner:
            raise Refused(self.owner, -1, fence.owner if fence else None, fence.next if fence else None)

    def _address(self, entries: list[Entry], now: int) -> list[Outgoing]:
        return [Outgoing(self.topics[e.target], e.key, e.value, e.headers, now) for e in entries]

    def _is_stale(self, entry: Entry, now: int) -> bool:
        return entry.target == "recommendations" and bool(self.max_age) and now - entry.at > self.max_age

    def _is_large(self, entry: Entry) -> bool:
        return len(entry.value) > self.entry_bytes

    async def _park_large(self, entry: Entry) -> None:
        await self._park(entry, f"larger than outbox.max_entry_bytes, {self.entry_bytes}")

    async def _park(self, entry: Entry, error: str) -> None:
        if await park_entry(self.redis, self.tag, self.generation, entry, error):
            log.error("%s: entry %s parked: %s", self.tag, entry.position, error)
            self.metrics.outbox_parked.add(1)

    def _count(self, sent: list[Entry]) -> None:
        for target, number in Counter(entry.target for entry in sent).items():
            self.metrics.outbox_sent.add(number, self.topics[target])
        now = self.wall()
        triggers = [now - entry.at / 1000 for entry in sent if entry.target == "recommendations"]
        if triggers:
            self.metrics.observe_end_to_end(triggers)


def _place(reached: Reached | None, generation: int) -> Position:
    """Up to where entries of this generation's log were sent; another's offsets say nothing of them."""
    return NOWHERE if reached is None or reached.generation != generation else reached.position
