"""Attempts: who began a batch and was not heard of again. They lead to an event that ends or hangs its process.

Before a batch is worked on, the process writes down in Redis that it begins; the commit deletes that, and so does a
process that gives the batch up alive (Redis or broker away, a refusal, a stop). What is left is of processes that are
gone. Two of those make a batch suspect: it is halved, and halved again each time that another process ends in it,
until one event is left; that is convicted once two processes ended while they worked on nothing else.

What is suspect runs alone in its process, so that no other partition's batch is blamed for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from redis.asyncio import Redis

from stream.delivery.commit import Command
from stream.delivery.fence import Fence, settle
from stream.stages.batch import Record
from stream.state.client import call
from stream.state.keys import Tag, name_key
from stream.state.scripts import Script

_attempt: Final = Script("stream.delivery", "attempt.lua")

ATTEMPTS: Final = 2
"""Processes that must have ended in a batch before it is halved, and in an event alone before that is to blame."""

NOTHING: Final = -1
"""In place of the end of what is suspect."""


class Plan(NamedTuple):
    """What to do next: work on the first `size` records, `alone` or beside other partitions, or, with `convicted`,
    put the first one aside. Up to the offset `suspect` something ends processes; `NOTHING` if nothing is known."""

    size: int
    alone: bool = False
    convicted: bool = False
    suspect: int = NOTHING


def plan_attempt(offsets: Sequence[int], ends: Sequence[int], suspect: int) -> Plan:
    """What to do with records at `offsets`, when processes ended in batches from the first of them to one of `ends`.

    The end of a batch is one past its last offset.

    >>> plan_attempt(range(8), [], NOTHING), plan_attempt(range(9), [8], NOTHING).size
    (Plan(size=8, alone=False, convicted=False, suspect=-1), 8)
    >>> plan_attempt(range(9), [8, 8], NOTHING), plan_attempt(range(9), [8, 8, 4], 8)[::3]
    (Plan(size=4, alone=True, convicted=False, suspect=8), (2, 4))
    >>> plan_attempt(range(3, 9), [], 4)[:3], plan_attempt(range(3, 9), [4], 4)[:3], plan_attempt([3], [4, 4], 4)[:3]
    ((1, True, False), (1, True, False), (1, True, True))
    """
    end = min(ends, default=suspect)
    within = sum([offset < end for offset in offsets])
    if within == 0:
        return Plan(len(offsets))
    if within == 1:
        return Plan(1, True, ends.count(end) >= ATTEMPTS, suspect)
    if suspect == NOTHING and len(ends) < ATTEMPTS:
        return Plan(within, True)
    return Plan(within // 2, True, False, end)


class Attempts:
    """The attempts at what comes next in one partition, as `process` (a token made at its start) sees them."""

    def __init__(self, redis: Redis, tag: Tag, process: str) -> None:
        self.redis = redis
        self.tag = tag
        self.process = process
        self.key = name_key("attempts", tag)
        self.ends: list[int] = []
        self.suspect = NOTHING

    async def read(self, at: int) -> None:
        """Learn which other processes began a batch at offset `at`, the fence's `next`, and were not heard of again."""
        fields: dict[bytes, bytes] = await call(self.redis, "HGETALL", self.key)
        self.suspect = int(fields.pop(b"suspect", NOTHING))
        # This process lives: whatever became of its attempts, no event ended it.
        fields.pop(self.process.encode(), None)
        attempts = [value.split() for value in fields.values()]
        self.ends = [int(end) for start, end in attempts if int(start) == at]

    async def plan(self, records: Sequence[Record]) -> Plan:
        """What to do with records that begin at the fence's `next`."""
        if not self.ends and self.suspect == NOTHING:
            return Plan(len(records))
        if self.ends:
            # One of them may have been asleep, and have said meanwhile that it lives.
            await self.read(records[0].offset)
        plan = plan_attempt([record.offset for record in records], self.ends, self.suspect)
        self.suspect = plan.suspect
        return plan

    async def begin(self, held: Fence, end: int) -> None:
        """Write down that this process is about to work on a batch up to offset `end`. Raises `Refused`."""
        suspect = "" if self.suspect == NOTHING else self.suspect
        keys = [name_key("fence", self.tag), self.key]
        settle(await _attempt(self.redis, keys, [held.owner, held.next, self.process, end, suspect]), held)

    def conclude(self, end: int) -> list[Command]:
        """What belongs into the commit of a batch up to `end`; the rest of what is suspect stays so."""
        commands: list[Command] = [("DEL", self.key)]
        if self.suspect > end:
            commands.append(("HSET", self.key, "suspect", self.suspect))
        return commands

    def concluded(self, end: int) -> None:
        """The commit said yes."""
        self.ends = []
        if self.suspect <= end:
            self.suspect = NOTHING

    async def forget(self) -> None:
        """Say that this process lives, and works on nothing here any more."""
        await call(self.redis, "HDEL", self.key, self.process)


class Isolation:
    """Lets the batches of a process run side by side, or one of them alone; who wants that goes first."""

    def __init__(self) -> None:
        self._running = 0
        self._wanted = 0
        self._alone = False
        self._left = asyncio.Event()

    @asynccontextmanager
    async def hold(self, *, alone: bool) -> AsyncIterator[None]:
        """Wait for the others as far as need be, then run what is inside."""
        self._wanted += alone
        try:
            while self._alone or (self._running if alone else self._wanted):
                self._left.clear()
                await self._left.wait()
            self._running += 1
            self._alone = alone
            try:
                yield
            finally:
                self._running -= 1
                self._alone = False
        finally:
            self._wanted -= alone
            self._left.set()
