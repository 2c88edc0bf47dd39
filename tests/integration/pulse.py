"""How long partitions stand still: a watch over the fences, from outside of every worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise

from redis.asyncio import Redis

from stream.state.keys import name_key, tag_events
from tests.integration.workers import end_task

LOOK_SECONDS = 0.01


class Pulse:
    """When each partition moved on, in monotonic seconds. Its load must never pause, or that counts as standing."""

    def __init__(self, redis: Redis, partitions: int) -> None:
        self.redis = redis
        self.moves: dict[int, list[float]] = {number: [] for number in range(partitions)}
        self.owners: dict[int, str] = {}
        """Token of each partition's owner now."""

    async def watch(self) -> None:
        """Run until cancelled."""
        seen: dict[int, bytes] = {}
        while True:
            async with self.redis.pipeline(transaction=False) as pipe:
                for number in self.moves:
                    pipe.hmget(name_key("fence", tag_events(number)), "next", "owner")
                fences = await pipe.execute()
            now = time.monotonic()
            for number, (at, owner) in enumerate(fences):
                if at is None:
                    continue
                self.owners[number] = owner.decode()
                if seen.get(number) != at:
                    seen[number] = at
                    self.moves[number].append(now)
            await asyncio.sleep(LOOK_SECONDS)

    def longest(self, partitions: Iterable[int], since: float, until: float) -> dict[int, float]:
        """Longest time that each partition stood still between two moments, in seconds."""
        found = {}
        for number in partitions:
            times = [since, *(at for at in self.moves[number] if since < at < until), until]
            found[number] = max(later - earlier for earlier, later in pairwise(times))
        return found

    async def wait_moved(self, partitions: Iterable[int], since: float, seconds: float = 60.0) -> float:
        """Wait until each has moved on after `since`; the seconds that the last of them took."""
        wanted = set(partitions)
        while True:
            firsts = {n: next((at for at in self.moves[n] if at > since), None) for n in wanted}
            if None not in firsts.values():
                return max(at for at in firsts.values() if at is not None) - since
            assert time.monotonic() < since + seconds, f"stand still: {[n for n, at in firsts.items() if at is None]}"
            await asyncio.sleep(LOOK_SECONDS)

    async def wait_taken(self, owners: dict[int, str], seconds: float = 60.0) -> set[int]:
        """Wait until others own partitions than `owners`; the partitions."""
        deadline = time.monotonic() + seconds
        while True:
            if taken := {number for number, owner in self.owners.items() if owner != owners.get(number)}:
                return taken
            assert time.monotonic() < deadline, "nobody else takes a partition"
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def feel_pulse(redis: Redis, partitions: int) -> AsyncIterator[Pulse]:
    """A `Pulse` that watches as long as the context lasts."""
    pulse = Pulse(redis, partitions)
    task = asyncio.create_task(pulse.watch())
    try:
        yield pulse
    finally:
        await end_task(task)
