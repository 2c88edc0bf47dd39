"""aiokafka's transactions, which nudge sends its outbox in, beside librdkafka's, on Apache Kafka; one JSON line.

Both send the same entries to the same topic in transactions that tell how far they reach, of several sizes, in turns.
Told are entries a second, the milliseconds that a transaction takes, and the process' CPU for an entry. librdkafka
works in threads of its own and is asked from an executor, as an event loop must. Run as
`python -m tests.benchmarks.transactions`; needs KAFKA_HOME.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Final, Protocol

import uvloop
from aiokafka.errors import KafkaError
from confluent_kafka import Consumer, Producer, TopicPartition
from rich.console import Console
from rich.table import Table

from stream.broker import TopicSpec, ensure_topics
from stream.delivery.fence import Reached
from stream.delivery.producer import Outgoing
from stream.delivery.transactions import Transactions
from stream.embedded import Guard, start_kafka
from stream.settings import Settings
from stream.stages.batch import Position
from tests.benchmarks.report import describe_machine, merge

SIZES: Final = (30, 300, 1_000)
PARTITIONS: Final = 4
VALUE: Final = b"x" * 450
"""About as large as a trigger."""


class Sender(Protocol):
    """A way to send transactions."""

    async def open(self) -> object:
        """Take the transactional id."""

    async def send(self, records: Sequence[Outgoing], reached: Reached) -> None:
        """Send all in one transaction, and how far they reach."""

    async def close(self) -> None:
        """Let go."""


class Librdkafka:
    """The same transactions by librdkafka."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.executor = ThreadPoolExecutor(1)
        common = {"bootstrap.servers": settings.kafka.bootstrap}
        self.group = Consumer({**common, "group.id": f"{settings.app}-librdkafka"}).consumer_group_metadata()
        options = {"transactional.id": f"{settings.app}-librdkafka", "linger.ms": 0, "partitioner": "murmur2"}
        # As low as ours: what the broker is not done with yet is asked for again.
        options |= {"retry.backoff.ms": 5, "retry.backoff.max.ms": 20}
        self.producer = Producer({**common, **options})

    async def open(self) -> None:
        await self._run(self.producer.init_transactions)

    async def send(self, records: Sequence[Outgoing], reached: Reached) -> None:
        await self._run(self._send, records, reached.position.offset)

    async def close(self) -> None:
        self.executor.shutdown()

    def _send(self, records: Sequence[Outgoing], offset: int) -> None:
        self.producer.begin_transaction()
        for topic, key, value, headers, timestamp in records:
            self.producer.produce(topic, value, key, headers=list(headers), timestamp=timestamp)
        self.producer.send_offsets_to_transaction([TopicPartition(self.settings.topics.events, 0, offset)], self.group)
        self.producer.commit_transaction()

    async def _run(self, work: Any, *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self.executor, work, *arguments)


async def time_sending(sender: Sender, topic: str, size: int, entries: int, begin: int) -> dict[str, float]:
    """Send so many entries in transactions of `size`."""
    took: list[float] = []
    headers = (("event_id", b"0123456789abcdef"),)
    cpu, began = time.process_time(), time.perf_counter()
    for first in range(begin, begin + entries, size):
        now = int(time.time() * 1000)
        records = [Outgoing(topic, b"user-%d" % number, VALUE, headers, now) for number in range(first, first + size)]
        at = time.perf_counter()
        await sender.send(records, Reached(0, Position(first + size, 0)))
        took.append((time.perf_counter() - at) * 1000)
    seconds = time.perf_counter() - began
    return {
        "entries_per_second": round(entries / seconds),
        "p50_ms": round(median(took), 2),
        "p99_ms": round(sorted(took)[int(len(took) * 0.99)], 2),
        "cpu_us_per_entry": round((time.process_time() - cpu) / entries * 1e6, 1),
    }


async def measure(bootstrap: str, rounds: int, entries: int) -> dict[str, Any]:
    """All rounds, in turns; medians by client and size."""
    settings = Settings(kafka={"bootstrap": bootstrap}, output_guarantee="exactly_once")
    topics = settings.topics
    names = [topics.events, topics.recommendations]
    await ensure_topics(bootstrap, [TopicSpec(name=name, partitions=PARTITIONS) for name in names])
    senders: dict[str, Sender] = {"aiokafka": Transactions(settings, 0), "librdkafka": Librdkafka(settings)}
    for sender in senders.values():
        await _open(sender)
        await time_sending(sender, topics.recommendations, SIZES[0], SIZES[0], 0)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in senders}
    for number in range(rounds):
        for name, sender in senders.items():
            of = {str(size): await time_sending(sender, topics.recommendations, size, entries, number * entries)
                  for size in SIZES}  # fmt: skip
            found[name].append(of)
            print(name, of, file=sys.stderr)
    for sender in senders.values():
        await sender.close()
    return {name: merge(of) for name, of in found.items()}


async def _open(sender: Sender) -> None:
    """A fresh broker has its coordinators some seconds after it answers."""
    while True:
        try:
            await sender.open()
            return
        except KafkaError:
            await asyncio.sleep(0.3)


def show(found: dict[str, Any]) -> None:
    """A table for people."""
    table = Table("client", "entries in one", "entries/s", "p50 ms", "p99 ms", "CPU us/entry")
    for name, sizes in found.items():
        for size, one in sizes.items():
            table.add_row(name, size, *(f"{value:,.1f}" for value in one.values()))
    Console(stderr=True).print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(prog="transactions", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--entries", type=int, default=12_000, help="of each size, in each round")
    options = parser.parse_args(arguments)
    if "KAFKA_HOME" not in os.environ:
        parser.error("the embedded broker has no transactions: name an Apache Kafka in KAFKA_HOME")
    machine = describe_machine()
    with Guard() as guard, start_kafka(Path(os.environ["KAFKA_HOME"]), guard.make_folder(), guard=guard) as server:
        found = uvloop.run(measure(f"127.0.0.1:{server.port}", options.rounds, options.entries))
    show(found)
    ratios = {
        size: round(found["aiokafka"][size]["entries_per_second"] / found["librdkafka"][size]["entries_per_second"], 3)
        for size in map(str, SIZES)
    }
    print(json.dumps({"benchmark": "transactions", "machine": machine, **found, "ratio_to_librdkafka": ratios}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
