"""The worker that the schedules run: nudge's own, that dies or stands still where it is told to, and keeps an audit.

Run as a module with the name of a mutant or `none`. `FAULTS_ARMED` names a file: while it is there, it says at which
point, at the how many-th time, which signal the worker sends to itself. What it was doing then stands in the file
beside it that ends in `.struck`. Each commit that Redis applies adds a line to the list `audit:{p7}`: the committing
owner, the fence's owner and epoch at that moment, `from` and `to`. `FAULTS_SKEW` says by how many hours the wall clock
is off.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from stream import process
from stream.agents import score
from stream.agents.score import ScoreSession
from stream.delivery import commit, lane, outbox, transactions
from stream.delivery.outbox import Drain
from stream.settings import load_settings
from stream.state.scripts import Script
from tests.faults.mutants import MUTANTS

NO_PARTITION: Final = -1
TAG: Final = re.compile(r".*\{p(\d+)\}$")
AUDIT: Final = """
local now = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
redis.call('RPUSH', 'audit' .. string.sub(KEYS[1], 6),
  table.concat({ARGV[1], tostring(now[1]), tostring(now[2]), ARGV[2], ARGV[4]}, ' '))
"""
BEFORE: Final = "for piece = 10, #ARGV do"

armed = Path("armed.json")
times = 0
acquire_fence = lane.acquire_fence
commit_batch = commit.commit_batch
trim = outbox._trim
handle = ScoreSession.handle
deliver = Drain._deliver
write = transactions.write


def is_armed(point: str, partition: int) -> Any:
    """What is to happen at `point` in the work on `partition`; None for nothing."""
    if not armed.exists():
        return None
    order = json.loads(armed.read_text())
    return order if order["point"] == point and order["partition"] in (None, partition) else None


def reach(point: str, partition: int, at: int | None = None) -> None:
    """Be at `point`, where a batch from offset `at` is in flight if that is given; the process may end here, or stand
    still for a while.

    No batch is struck twice: an event alone in flight at two ends of processes is to blame for them, by the rule.
    """
    global times
    order = is_armed(point, partition)
    if order is None or (at is not None and _was_struck(partition, at)):
        return
    times += 1
    if times < order["count"]:
        return
    times = 0
    if at is not None:
        with _strikes().open("a") as strikes:
            strikes.write(f"{partition} {at}\n")
    armed.unlink()
    fresh = armed.with_suffix(".striking")
    fresh.write_text(json.dumps({"point": point, "partition": partition}))
    fresh.rename(armed.with_suffix(".struck"))
    os.kill(os.getpid(), order["signal"])


async def handle_a_batch(self: ScoreSession, records: Sequence[Any]) -> None:
    reach("read", self.partition)
    await handle(self, records)


async def commit_a_batch(redis: Any, tag: Any, batch: Any, held: Any, *rest: Any) -> None:
    reach("decided", batch.partition, held.next)
    if is_armed("committing", batch.partition):
        task = asyncio.ensure_future(commit_batch(redis, tag, batch, held, *rest))
        await asyncio.sleep(0.0005)
        reach("committing", batch.partition, held.next)
        await task
    else:
        await commit_batch(redis, tag, batch, held, *rest)
    reach("committed", batch.partition)


async def acquire_a_fence(redis: Any, tag: Any, start: int, **options: Any) -> Any:
    fence = await acquire_fence(redis, tag, start, **options)
    if found := TAG.match(tag):
        reach("acquired", int(found[1]))
    return fence


async def trim_the_outbox(redis: Any, keys: Sequence[Any], arguments: Sequence[Any]) -> Any:
    reach("sent", _partition(keys[0]))
    return await trim(redis, keys, arguments)


async def deliver_a_chunk(self: Drain, chunk: Any) -> None:
    reach("sending", _partition(self.tag))
    await deliver(self, chunk)


async def write_a_transaction(*arguments: Any) -> Any:
    result = await write(*arguments)
    # Whose partition it is, the writer does not know.
    reach("written", NO_PARTITION)
    return result


def _strikes() -> Path:
    """Where the workers of a schedule write down at which batches they were struck."""
    return armed.parent / "strikes"


def _was_struck(partition: int, at: int) -> bool:
    return _strikes().exists() and f"{partition} {at}" in _strikes().read_text().splitlines()


def set_clock(hours: int) -> None:
    """Have the wall clock of this process be off by so much."""
    right = time.time
    time.time = lambda: right() + hours * 3_600


def rewrite(script: Script, old: str, new: str) -> None:
    """Put `new` in the place of `old`, which must be there."""
    assert old in script.source, f"the script has no {old!r}"
    script.source = script.source.replace(old, new)
    script.sha = hashlib.sha1(script.source.encode(), usedforsecurity=False).hexdigest()


def _partition(key: str) -> int:
    found = TAG.match(key)
    assert found is not None
    return int(found[1])


def main(mutant: str) -> None:
    """Run the worker with what the environment says, until it is told to stop."""
    global armed
    armed = Path(os.environ.get("FAULTS_ARMED", "armed.json"))
    set_clock(int(os.environ.get("FAULTS_SKEW", "0")))
    rewrite(commit._commit, BEFORE, AUDIT + BEFORE)
    score.commit_batch = commit_a_batch
    lane.acquire_fence = acquire_a_fence
    outbox._trim = trim_the_outbox  # type: ignore[assignment]
    ScoreSession.handle = handle_a_batch  # type: ignore[method-assign]
    Drain._deliver = deliver_a_chunk  # type: ignore[method-assign]
    transactions.write = write_a_transaction  # type: ignore[assignment]
    MUTANTS[mutant](rewrite)
    process.run_worker(load_settings())


if __name__ == "__main__":
    main(sys.argv[1])
