"""An hour at half load: whether the worker's memory stays flat, and what Redis' memory is made of; one JSON line.

First a burst tells how many events a second this machine does. Then events come at a share of that, each with a time
of its own, from a fixed number of people, while the worker's resident memory, Redis' memory and the backlog are looked
at. The first sixth of the time is warm-up: caches fill and the first windows close. Growth is the median of the last
sixth against that of the sixth after the warm-up. Run as `python -m tests.benchmarks.soak`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from statistics import median
from typing import Any, Final, NamedTuple

from redis import Redis
from rich.console import Console
from rich.table import Table

from stream.demo.setting import build_settings, write_environment
from stream.embedded import Guard, Servers, start_servers
from stream.produce import Record, produce
from stream.settings import Settings
from tests.benchmarks.job import Process, run_process
from tests.benchmarks.memory import divide_redis, read_resident
from tests.benchmarks.report import describe_machine
from tests.benchmarks.throughput import choose_overrides, fill_topic
from tests.benchmarks.worker import Worker, choose_command
from tests.benchmarks.workload import PEOPLE, build_log
from tests.integration.workers import end_task

BURST: Final = 60_000
CHUNK_SECONDS: Final = 5
"""So much of the load is made at a time."""
PARTS: Final = 6

err = Console(stderr=True)


class Sample(NamedTuple):
    """One look: seconds since the load began, bytes of the worker and of Redis, events sent and not done with."""

    at: float
    resident: int
    redis: int
    backlog: int


def make_load(rate: float) -> Iterator[Record]:
    """Events without end, their times those at which they are due at `rate` a second."""
    size = max(int(rate * CHUNK_SECONDS), 1)
    start = int(time.time() * 1_000)
    for number in count(1):
        yield from build_log(size, start + number * CHUNK_SECONDS * 1_000, seed=number, span=CHUNK_SECONDS * 1_000)


class Soak:
    """A worker under load, looked at from outside."""

    def __init__(self, process: Process, redis: Redis, settings: Settings) -> None:
        self.process, self.redis, self.settings = process, redis, settings
        self.worker = Worker(settings)
        self.sent = BURST
        self.samples: list[Sample] = []

    def time_burst(self) -> float:
        """Events a second of the burst that lies in the topic, its first tenth aside."""
        marks = []
        for share in (0.1, 1.0):
            self.process.wait(lambda share=share: self._done() >= share * BURST, self._done)  # type: ignore[misc]
            marks.append((time.monotonic(), self._done()))
        (start, before), (end, after) = marks
        return (after - before) / (end - start)

    async def run(self, rate: float, seconds: float, every: float) -> None:
        """Send at `rate` for `seconds`, and look at `every` so many."""
        began = time.monotonic()
        sending = asyncio.create_task(self._send(rate))
        try:
            while (at := time.monotonic() - began) < seconds:
                await asyncio.sleep(every)
                self.process.check()
                if sending.done():
                    sending.result()
                self.samples.append(await asyncio.to_thread(self._look, at))
        finally:
            await end_task(sending)

    async def _send(self, rate: float) -> None:
        def tell(acknowledged: int) -> None:
            self.sent = BURST + acknowledged

        kafka, topics = self.settings.kafka, self.settings.topics
        await produce(make_load(rate), kafka.bootstrap, topics.events, rate=rate, on_progress=tell)

    def _look(self, at: float) -> Sample:
        used: Any = self.redis.info("memory")
        sample = Sample(at, read_resident(self.process.popen.pid), used["used_memory"], self.sent - self._done())
        err.print(
            f"{at:6.0f} s: worker {sample.resident / 2**20:.1f} MiB, Redis {sample.redis / 2**20:.1f} MiB, "
            f"{sample.backlog:,} behind",
            highlight=False,
        )
        return sample

    def _done(self) -> int:
        return self.worker.progress(self.redis)[1]


def judge(samples: Sequence[Sample]) -> dict[str, Any]:
    """Growth over the samples that come after the warm-up; bytes, and shares of what was there then."""
    size = max(len(samples) // PARTS, 1)
    first, last = samples[size : 2 * size] or samples[-1:], samples[-size:]
    found: dict[str, Any] = {"samples": len(samples)}
    for name in ("resident", "redis"):
        before, after = (median(getattr(sample, name) for sample in part) for part in (first, last))
        found |= {f"{name}_after_warm_up": int(before), f"{name}_at_end": int(after)}
        found[f"{name}_growth_ratio"] = round(after / before - 1.0, 4)
    found["resident_peak"] = max(sample.resident for sample in samples)
    found["backlog_peak"] = max(sample.backlog for sample in samples[size:] or samples)
    return found


def measure(servers: Servers, guard: Guard, options: argparse.Namespace) -> dict[str, Any]:
    """The burst, the soak and, at its end, what Redis holds."""
    overrides = choose_overrides(servers, 1)
    settings, folder = build_settings(overrides), guard.make_folder()
    redis: Redis = Redis.from_url(servers.redis_url, decode_responses=True)
    asyncio.run(fill_topic(settings, build_log(BURST, int(time.time() * 1_000))))
    command, env = choose_command(None), write_environment(overrides, settings)
    with run_process("soak", command, env, guard, folder) as process:
        soak = Soak(process, redis, settings)
        pace = soak.time_burst()
        rate = options.rate or options.share * pace
        err.print(f"{pace:,.0f} events/s in a burst; {rate:,.0f} for {options.minutes:g} minutes", highlight=False)
        asyncio.run(soak.run(rate, options.minutes * 60, options.every))
        memory = divide_redis(redis)
    found = {"burst_events_per_second": round(pace), "events_per_second": round(rate), "minutes": options.minutes}
    return found | {"people": PEOPLE, **judge(soak.samples), "memory": memory}


def draw_families(memory: dict[str, Any]) -> Table:
    """Redis' memory by key family."""
    table = Table(title=f"Redis: {memory['used'] / 2**20:.1f} MiB, of which {memory['rest']:.1%} unexplained")
    table.add_column("keys")
    for title in ("number", "MiB", "bytes a key"):
        table.add_column(title, justify="right")
    for family, row in memory["families"].items():
        table.add_row(family, f"{row['keys']:,}", f"{row['bytes'] / 2**20:.2f}", f"{row['bytes_per_key']:,}")
    for name in ("tables", "server"):
        table.add_row(f"({name})", "", f"{memory[name] / 2**20:.2f}", "")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status: 1 where the worker's memory grew by more than `--tolerance`."""
    parser = argparse.ArgumentParser(prog="soak", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--share", type=float, default=0.5, help="of the rate of the burst")
    parser.add_argument("--rate", type=float, help="events a second, in place of a share")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--tolerance", type=float, default=0.05, help="growth of the worker's memory that is allowed")
    parser.add_argument("--broker", choices=("embedded", "kafka"))
    options = parser.parse_args(arguments)
    broker = options.broker or ("kafka" if "KAFKA_HOME" in os.environ else "embedded")
    machine = describe_machine()
    with Guard() as guard, start_servers(broker) as servers:
        found = measure(servers, guard, options)
    Console().print(draw_families(found["memory"]))
    print(json.dumps({"benchmark": "soak", "broker": broker, "machine": machine, **found}))
    return int(found["resident_growth_ratio"] > options.tolerance)


if __name__ == "__main__":
    sys.exit(main())
