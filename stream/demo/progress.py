"""How far the worker is, as Redis tells it: counts made inside the commits, what waits, what is learned.

Nothing here asks the worker itself, so that a worker which miscounts is found out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Self

import msgspec
from redis.asyncio import Redis

from stream.commands import CommandError
from stream.state.keys import name_key, tag_events, tag_source
from stream.state.partition import read_partitions

PATIENCE_SECONDS: Final = 60.0


class Standstill(Exception):
    """Nothing moved for too long; the message says which counter stands, and where."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the partitions at one moment. `learned` is the number of examples records that snapshots include."""

    counts: dict[str, int]
    outbox: int
    learned: int

    def count(self, name: str) -> int:
        """One count; 0 before the first."""
        return self.counts.get(name, 0)

    @property
    def accounted(self) -> int:
        """Events that have come to one of their four ends."""
        return sum(self.count(name) for name in ("scored", "denied", "duplicates", "dead_letters"))

    def describe(self) -> str:
        """The four ends in words."""
        names = ("scored", "denied", "duplicates", "dead_letters")
        return ", ".join(f"{self.count(name):,} {name.replace('_', ' ')}" for name in names)


class Meter:
    """Reads `Progress` for `events` partitions of the events topic and `examples` of the examples topic."""

    def __init__(self, redis: Redis, events: int, examples: int) -> None:
        self._redis, self.examples = redis, examples
        self._tags = [tag_events(partition) for partition in range(events)]
        self._learners = [tag_source("examples", partition) for partition in range(examples)]

    @classmethod
    async def open(cls, redis: Redis, examples: int) -> Self:
        """For the partitions that a worker has written down; raises `CommandError` if none has."""
        layout = await read_partitions(redis)
        if layout is None:
            raise CommandError("the worker says that it is ready, but there is nothing of it in Redis")
        return cls(redis, layout[0], examples)

    async def read(self) -> Progress:
        """The sums now, all of one moment."""
        async with self._redis.pipeline(transaction=True) as pipe:
            for tag in self._tags:
                pipe.hgetall(name_key("counts", tag))
                pipe.xlen(name_key("outbox", tag))
            for tag in self._learners:
                pipe.hget(name_key("fence", tag), "next")
            replies = await pipe.execute()
        many = 2 * len(self._tags)
        counts: Counter[str] = Counter()
        for found in replies[:many:2]:
            counts.update({name.decode(): int(number) for name, number in found.items()})
        learned = sum(int(place) for place in replies[many:] if place is not None)
        return Progress(counts=dict(counts), outbox=sum(replies[1:many:2]), learned=learned)


class Patience:
    """Bounds how long something owed may not move. `clock` gives monotonic seconds."""

    def __init__(self, seconds: float = PATIENCE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._mark: object = None
        self._since = clock()

    def check(self, mark: object, owed: str | None) -> None:
        """Raise `Standstill` if `mark` has been the same for too long while something was owed, and say what."""
        now = self._clock()
        if owed is None or mark != self._mark:
            self._mark, self._since = mark, now
        elif now - self._since > self._seconds:
            raise Standstill(f"nothing has moved for {self._seconds:g} s: {owed}")
