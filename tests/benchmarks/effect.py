"""How long a label takes until every worker scores with what it taught; one JSON line.

Two workers score and learn a log of people who can be told apart. Told are the seconds from when a matured label lies
in the examples topic until both workers' models include it, and the exit status is 1 where the bar is missed. Run as
`python -m tests.benchmarks.effect`, with KAFKA_HOME for Apache Kafka; `--broker embedded` for the other one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from redis.asyncio import Redis

from schemas.example import Example, Interaction
from stream.commands.connections import open_consumer
from stream.commands.topic import find_partitions
from stream.embedded import Servers, start_servers
from tests.benchmarks.report import describe_machine
from tests.integration.workers import Job, Worker, end_task
from tests.unit.test_batch_invariance import compose_log, eager

BAR: Final = 5.0
"""Seconds."""
RATE: Final = 500
"""Events a second."""
EVENTS: Final = 20_000
PEOPLE: Final = 2_000
OUTCOMES: Final = ("conversion", "click")
LOOK: Final = 0.05
"""Seconds between two looks at the workers' versions."""

Label = tuple[float, str, int]
"""When it was read (monotonic seconds), its outcome, its offset."""


async def read_labels(job: Job, found: list[Label]) -> None:
    """Note each matured label as soon as it can be read."""
    async with open_consumer(job.settings) as consumer:
        partitions = await find_partitions(job.settings, job.settings.topics.examples)
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        async for record in consumer:
            example = msgspec.json.decode(record.value, type=Example | Interaction)
            if isinstance(example, Example) and example.stage == "matured":
                found.append((time.monotonic(), example.outcome, record.offset))


async def watch_versions(workers: Sequence[Worker], found: list[tuple[float, dict[str, int]]]) -> None:
    """Note the version that all workers have reached, by outcome."""
    while True:
        pages = await asyncio.gather(*(asyncio.to_thread(worker.metrics) for worker in workers))
        told = [dict(re.findall(r'^nudge_model_version\{model="(\w+)"\} (\S+)', page, re.M)) for page in pages]
        reached = {name: min(int(float(each.get(name, -1))) for each in told) for name in OUTCOMES}
        found.append((time.monotonic(), reached))
        await asyncio.sleep(LOOK)


def take_seconds(labels: Sequence[Label], looks: Sequence[tuple[float, dict[str, int]]]) -> Iterator[float]:
    """By label, how long it took; those that came before a model spoke, or are in none yet, are left out.

    >>> looks = [(1.0, {"click": 4}), (2.0, {"click": 9}), (3.0, {"click": 12})]
    >>> list(take_seconds([(0.5, "click", 3), (1.5, "click", 8), (1.75, "click", 11), (2.5, "click", 20)], looks))
    [0.5, 1.25]
    """
    for read, outcome, offset in labels:
        spoke = next((at for at, reached in looks if reached[outcome] >= 0), read)
        took = next((at - read for at, reached in looks if reached[outcome] >= offset), None)
        if took is not None and read >= spoke:
            yield max(took, 0.0)


async def measure(servers: Servers, folder: Path) -> dict[str, Any]:
    """The run."""
    labels: list[Label] = []
    looks: list[tuple[float, dict[str, int]]] = []
    async with Redis.from_url(servers.redis_url) as redis:
        await redis.flushall()
        job = Job(servers, redis, "effect.", folder, eager(clock="event"))
        await job.create_topics()
        try:
            workers = [job.start_worker() for _ in range(2)]
            await asyncio.gather(*(worker.wait_ready() for worker in workers))
            tasks = [asyncio.create_task(each) for each in (read_labels(job, labels), watch_versions(workers, looks))]
            await job.send(compose_log(EVENTS, people=PEOPLE), rate=RATE)
            await asyncio.sleep(2 * BAR)
            for task in tasks:
                await end_task(task)
        finally:
            job.end()
    seconds = np.array(list(take_seconds(labels, looks)))
    told = {f"p{share}": round(float(np.percentile(seconds, share)), 2) for share in (50, 99)}
    return {"labels": len(labels), "measured": len(seconds), **told, "longest": round(float(seconds.max()), 2)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="effect", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--broker", choices=("embedded", "kafka"), default="kafka")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    with start_servers(options.broker) as servers, tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(servers, Path(folder)))
    held = found["longest"] <= BAR
    print(json.dumps({"benchmark": "effect", "broker": options.broker, "machine": machine, **found, "bar": held}))
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
