"""The breaker: what makes many events crash is a bug, and must not put them all aside as if they were to blame.

It knows which of a partition's last events ended as dead letters of reason `crash`, in Redis too, and says when another
would be too many: so many in a row, or so great a share of the last ones. Then the partition waits, and tries the
event again at growing intervals; nothing is put aside until one passes.
"""

from __future__ import annotations

from collections import deque

from redis.asyncio import Redis

from stream.delivery.commit import Command
from stream.settings import Breaker as Options
from stream.state.client import call
from stream.state.keys import Tag, name_key

DONE = ("scored", "denied", "duplicates", "dead_letters", "consents")
"""Counts in Redis of which every record is in one."""


class Breaker:
    """What one partition's last events came to. Events are numbered from 0 in the order in which they were done."""

    def __init__(self, options: Options, redis: Redis, tag: Tag) -> None:
        self.options = options
        self.redis = redis
        self.tag = tag
        self.key = name_key("crashes", tag)
        self.done = 0
        self.crashes: deque[int] = deque(maxlen=max(options.window, options.in_a_row))

    async def read(self) -> None:
        """Learn what earlier owners came to."""
        counts = await call(self.redis, "HMGET", name_key("counts", self.tag), *DONE)
        self.done = sum([int(count or 0) for count in counts])
        self.crashes.clear()
        self.crashes.extend([int(number) for number in await call(self.redis, "LRANGE", self.key, 0, -1)])

    @property
    def row(self) -> int:
        """Crashes in a row up to now."""
        return next(
            (n for n, crash in enumerate(reversed(self.crashes)) if crash != self.done - 1 - n), len(self.crashes)
        )

    @property
    def open(self) -> bool:
        """Whether another crash would be one too many."""
        options = self.options
        recent = sum([crash > self.done - options.window for crash in self.crashes])
        return self.row >= options.in_a_row or recent + 1 > options.share * options.window

    @property
    def wary(self) -> bool:
        """Whether the next event is to be tried alone, before others are."""
        return bool(self.crashes) and (self.crashes[-1] == self.done - 1 or self.open)

    def note(self) -> list[Command]:
        """What belongs into the commit of a dead letter."""
        most = self.crashes.maxlen or 0
        return [("RPUSH", self.key, self.done), ("LTRIM", self.key, -most, -1)]

    def count(self, number: int, *, crashed: bool) -> None:
        """The commit of `number` events said yes."""
        if crashed:
            self.crashes.append(self.done)
        self.done += number

    def wait(self, tries: int) -> float:
        """Seconds before an event is tried again that failed `tries` times, from 1."""
        options = self.options
        return min(options.retry_after * 2.0 ** min(tries - 1, 30), options.retry_most) / 1000
