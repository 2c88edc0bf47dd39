"""How long partitions stand still when a worker is killed: restarted at once, and gone for good; one JSON line.

Two workers share the partitions of a topic that is written to all the time. One is killed by SIGKILL. Told are the
seconds from then until all of its partitions have moved on, and for how long the other's stood still at most; the exit
status is 1 where a bar is missed. Run as `python -m tests.benchmarks.takeover`, with KAFKA_HOME for Apache Kafka;
`--broker embedded` for the other one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from stream.broker import probe
from stream.embedded import Servers, start_servers
from tests.benchmarks.report import describe_machine
from tests.integration.pulse import Pulse, feel_pulse
from tests.integration.workers import PARTITIONS, PINNED, Job, Worker, end_task
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

RATE: Final = 1_000
"""Events a second: few enough that there is never a backlog, enough that each partition moves many times a second."""
EVENTS: Final = 20_000
"""Sent again and again: those that come twice are counted as duplicates, and move a partition all the same."""

SESSION: Final = 6_000
"""The default, in milliseconds, for a worker that is gone."""
STANDSTILL: Final = 1.0
"""Seconds between two moves that are no standstill yet, on a machine that all servers share."""
LONG_SESSION: Final = 30_000
"""For one that comes back: no machine is so slow that it takes longer to start."""


async def send_for_ever(job: Job) -> None:
    """The load."""
    log = compose_log(EVENTS, people=EVENTS)
    while True:
        await job.send(log, rate=RATE)


async def kill_one(job: Job, pulse: Pulse, doomed: Worker, *, restart: bool) -> dict[str, Any]:
    """Kill `doomed`, maybe start it again at once; what stood still for how long."""
    mine = await asyncio.to_thread(doomed.partitions)
    doomed.kill()
    killed = time.monotonic()
    found: dict[str, Any] = {}
    if restart:
        worker = job.start_worker()
        await worker.wait_up()
        found["up_after"] = round(time.monotonic() - killed, 2)
    found["moved_after"] = round(await pulse.wait_moved(mine, killed), 2)
    await asyncio.sleep(3.0)
    others = set(pulse.moves) - mine
    stood = pulse.longest(others, killed - 0.5, time.monotonic())
    found |= {"partitions": len(mine), "others_stood": round(max(stood.values(), default=0.0), 2)}
    print(found, file=sys.stderr)
    return found


async def measure(servers: Servers, rounds: int, folder: Path) -> dict[str, Any]:
    """All rounds; seconds everywhere."""
    capabilities = await probe(servers.kafka_bootstrap)
    async with _run(servers, folder, LONG_SESSION) as (job, pulse):
        restarted = []
        for _ in range(rounds):
            restarted.append(await kill_one(job, pulse, job.workers[-1], restart=True))
            await job.workers[-1].wait_ready()
            await asyncio.sleep(1.0)
    async with _run(servers, folder, SESSION) as (job, pulse):
        gone = await kill_one(job, pulse, job.workers[-1], restart=False)
    return {
        "static_membership": capabilities.static_membership,
        "restarted": {"session_timeout": LONG_SESSION / 1000, "rounds": restarted},
        "gone": {"session_timeout": SESSION / 1000, **gone},
    }


def hold_to_bars(found: dict[str, Any], broker: str) -> dict[str, bool]:
    """Which bars are held. Who comes back is known to the group by name alone; the embedded one knows no names.

    >>> gone = {"session_timeout": 6.0, "moved_after": 7.9}
    >>> back = {"rounds": [{"up_after": 1.2, "moved_after": 2.3, "others_stood": 0.2}]}
    >>> hold_to_bars({"static_membership": True, "restarted": back, "gone": gone}, "kafka")
    {'gone': True, 'restarted': False, 'others': True}
    """
    gone = found["gone"]
    bars = {"gone": gone["moved_after"] <= gone["session_timeout"] * (1.5 if broker == "embedded" else 1.0) + 2.0}
    if found["static_membership"]:
        rounds = found["restarted"]["rounds"]
        bars["restarted"] = all(one["moved_after"] - one["up_after"] <= 1.0 for one in rounds)
        bars["others"] = all(one["others_stood"] <= STANDSTILL for one in rounds)
    return bars


@asynccontextmanager
async def _run(servers: Servers, folder: Path, session: int) -> AsyncIterator[tuple[Job, Pulse]]:
    """Two workers that have settled, under load."""
    async with Redis.from_url(servers.redis_url) as redis:
        await redis.flushall()
        job = Job(servers, redis, f"takeover-{session}.", folder, eager(clock="event"))
        kafka = job.settings.kafka.model_copy(update={"session_timeout": session})
        job.settings = job.settings.model_copy(update={"kafka": kafka})
        await job.create_topics()
        await job.pin(make_lineup("conversion", "click", version=PINNED))
        sending = asyncio.create_task(send_for_ever(job))
        try:
            async with feel_pulse(redis, PARTITIONS) as pulse:
                await asyncio.gather(*(job.start_worker().wait_ready() for _ in range(2)))
                await asyncio.sleep(3.0)
                yield job, pulse
        finally:
            await end_task(sending)
            job.end()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="takeover", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--broker", choices=("embedded", "kafka"), default="kafka")
    parser.add_argument("--rounds", type=int, default=2, help="how often a worker is killed and started again")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    with start_servers(options.broker) as servers, tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(servers, options.rounds, Path(folder)))
    bars = hold_to_bars(found, options.broker)
    print(json.dumps({"benchmark": "takeover", "broker": options.broker, "machine": machine, **found, "bars": bars}))
    return int(not all(bars.values()))


if __name__ == "__main__":
    sys.exit(main())
