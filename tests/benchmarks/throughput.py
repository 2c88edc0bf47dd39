"""Events a second end to end, without texts: nudge beside its floor and beside an idiomatic per-event Faust app.

All three work on the same records of the same topic, one after the other, round after round, on one broker and one
Redis; the medians over the rounds are printed as a table and, as the last line, as one JSON object. The topic is full
before a job starts. Figures of one machine say little; the ratios between the jobs say more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from redis import Redis
from rich.console import Console

from stream.app import list_topics
from stream.broker import ensure_topics
from stream.demo.setting import build_settings, write_environment
from stream.embedded import Broker, Guard, Servers, free_port, start_servers
from stream.produce import Record, produce
from stream.settings import Settings
from tests.benchmarks.job import BenchmarkError, describe_pace, run_process, time_process
from tests.benchmarks.report import describe_machine, draw_table, summarise
from tests.benchmarks.worker import Worker, choose_command, time_worker
from tests.benchmarks.workload import PEOPLE, build_log

PARTITIONS: Final = 4
JOBS: Final = ("nudge", "floor", "faust")
EXACTLY_ONCE: Final = "exactly_once"
"""The worker once more, its output in transactions; asked for by name, on brokers that have them."""
FLOOR: Final = (sys.executable, "-m", "tests.benchmarks.floor")
FAUST: Final = (
    sys.executable,
    "-m",
    "faust",
    "-A",
    "tests.benchmarks.faust_app",
    "-L",
    "uvloop",
    "worker",
    "-l",
    "warn",
    # The option wins over the app's own setting, and the port would be the same for all.
    "--without-web",
)
OUTPUTS: Final = ("recommendations", "examples", "dead_letters")
PROGRESS: Final = "faust:events"
"""Redis key to which the Faust app tells how far it is."""

err = Console(stderr=True)


class Plan(NamedTuple):
    """What is asked for: numbers of events, people and rounds, the jobs, and where cProfile writes (None: not run)."""

    events: int
    faust_events: int
    people: int
    rounds: int
    jobs: tuple[str, ...]
    processes: int
    profile: Path | None


class Round:
    """One round: a topic of its own, filled once, and every job on it in turn."""

    def __init__(self, plan: Plan, servers: Servers, guard: Guard) -> None:
        self.plan, self.guard = plan, guard
        self.folder = guard.make_folder()
        self.overrides = choose_overrides(servers, plan.processes)
        self.settings = build_settings(self.overrides)
        self.env = write_environment(self.overrides, self.settings)
        self.redis = Redis.from_url(servers.redis_url, decode_responses=True)

    def run(self, log: Sequence[Record]) -> dict[str, dict[str, Any]]:
        """Results by job."""
        asyncio.run(fill_topic(self.settings, log))
        found = {}
        for job in self.plan.jobs:
            # Ours alone: it was started with this run, and the jobs before have ended.
            self.redis.flushall()
            found[job] = self._choose(job)()
            err.print(f"  {job}: {found[job]['events_per_second']:,.0f} events/s", highlight=False)
        return found

    def _choose(self, job: str) -> Callable[[], dict[str, Any]]:
        known = {"nudge": self._run_nudge, "floor": self._run_floor, "faust": self._run_faust}
        return known.get(job, partial(self._run_nudge, EXACTLY_ONCE))

    def _run_nudge(self, guarantee: str = "at_least_once") -> dict[str, Any]:
        # Of its own name, so of its own groups and topics for what goes out: they begin empty.
        command, name = choose_command(self.plan.profile), f"nudge-{guarantee}"
        settings, env = self._write_settings(guarantee)
        with run_process(name, command, env, self.guard, self.folder) as process:
            found = time_worker(process, self.redis, settings, self.plan.events)
        if guarantee == EXACTLY_ONCE:
            # Transactions take offsets of their own among the examples, by which this is counted.
            del found["learned_events_per_second"]
        return found

    def _write_settings(self, guarantee: str) -> tuple[Settings, dict[str, str]]:
        if guarantee != EXACTLY_ONCE:
            return self.settings, self.env
        name = f"{self.overrides['app']}-{guarantee}"
        topics = self.overrides["topics"]
        topics = topics | {topic: f"{topics[topic]}-{guarantee}" for topic in OUTPUTS}
        overrides = self.overrides | {"app": name, "output_guarantee": guarantee, "topics": topics}
        settings = build_settings(overrides)
        asyncio.run(ensure_topics(settings.kafka.bootstrap, list_topics(settings)))
        return settings, write_environment(overrides, settings)

    def _run_floor(self) -> dict[str, Any]:
        with run_process("floor", FLOOR, self.env, self.guard, self.folder) as process:
            progress = Worker(self.settings).progress
            return describe_pace(*time_process(process, self.redis, progress, self.plan.events))

    def _run_faust(self) -> dict[str, Any]:
        with run_process("faust", FAUST, self.env, self.guard, self.folder) as process:
            return describe_pace(*time_process(process, self.redis, read_faust, self.plan.faust_events))


def read_faust(redis: Redis) -> tuple[float, int]:
    """(monotonic seconds, events) as the Faust app last told them."""
    told = redis.get(PROGRESS)
    if told is None:
        return time.monotonic(), 0
    done, at = told.split()
    return float(at), int(done)


def choose_overrides(servers: Servers, processes: int) -> dict[str, Any]:
    """Settings of one round: fresh topics and groups; consent is optional, so that the log needs no requests."""
    name = f"bench-{secrets.token_hex(4)}"
    topics = ("events", "privacy", "items", "recommendations", "examples", "dead_letters")
    return {
        "app": name,
        "kafka": {"bootstrap": servers.kafka_bootstrap},
        "redis": {"url": servers.redis_url},
        "topics": {"partitions": PARTITIONS, **{topic: f"{name}.{topic}" for topic in topics}},
        "models": {"snapshot_key": secrets.token_hex(32)},
        "consent": {"mode": "optional"},
        # So short that most windows close within the log, and that models are warm when the clock starts.
        "outcomes": [{"window": "5m"}],
        "http": {"host": "127.0.0.1", "port": find_ports(processes)},
        "processes": processes,
        "log_level": "WARNING",
    }


def find_ports(number: int) -> int:
    """The first of so many free loopback ports in a row."""
    while True:
        first = free_port()
        try:
            for port in range(first + 1, first + number):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


async def fill_topic(settings: Settings, log: Sequence[Record]) -> None:
    """Make the topics as a worker would, and write the whole log. Raises `BenchmarkError` if some of it was refused."""
    await ensure_topics(settings.kafka.bootstrap, list_topics(settings))
    written = await produce(log, settings.kafka.bootstrap, settings.topics.events)
    if written != len(log):
        raise BenchmarkError(f"the broker took {written} of {len(log)} events")


def run_broker(broker: Broker, plan: Plan) -> dict[str, Any]:
    """All rounds on one broker and one Redis, started here; the medians."""
    log = build_log(plan.events, int(time.time() * 1000), plan.people)
    rounds = []
    with Guard() as guard, start_servers(broker) as servers:
        for number in range(plan.rounds):
            err.print(f"{broker}, round {number + 1} of {plan.rounds}", highlight=False)
            rounds.append(Round(plan, servers, guard).run(log))
    return {"broker": broker, **summarise(rounds)}


def list_brokers(asked: str) -> list[Broker]:
    """The brokers to run on. Apache Kafka is left out of `both` where KAFKA_HOME names none."""
    if asked == "embedded":
        return ["embedded"]
    if asked == "both" and not os.environ.get("KAFKA_HOME"):
        err.print("KAFKA_HOME is unset: no Apache Kafka, the embedded broker alone")
        return ["embedded"]
    return ["kafka"] if asked == "kafka" else ["embedded", "kafka"]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(prog="throughput", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--events", type=int, default=400_000, help="events that nudge and the floor work on")
    parser.add_argument("--faust-events", type=int, help="how many of them Faust does (default: a tenth)")
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker", choices=("embedded", "kafka", "both"), default="both")
    parser.add_argument("--jobs", default=",".join(JOBS), help="some of nudge,exactly_once,floor,faust")
    parser.add_argument("--processes", type=int, default=2, help="of nudge's worker (default: 2)")
    parser.add_argument("--profile", type=Path, help="run the worker under cProfile, which slows it, and write FILE")
    parser.add_argument("--json", action="store_true", help="the JSON line alone on standard output")
    options = parser.parse_args(arguments)
    options.jobs = tuple(job for job in ("nudge", EXACTLY_ONCE, *JOBS[1:]) if job in options.jobs.split(","))
    if EXACTLY_ONCE in options.jobs and options.broker != "kafka":
        parser.error("the job exactly_once needs --broker kafka: the embedded one has no transactions")
    if options.events < 100 or options.rounds < 1 or options.processes < 1 or not options.jobs:
        parser.error("at least 100 events, one round, one process and one job")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    options = parse(arguments)
    faust_events = min(options.faust_events or options.events // 10, options.events)
    rounds, processes = options.rounds, options.processes
    plan = Plan(options.events, faust_events, options.people, rounds, options.jobs, processes, options.profile)
    machine = describe_machine()
    try:
        results = [run_broker(broker, plan) for broker in list_brokers(options.broker)]
    except BenchmarkError as error:
        err.print(str(error), markup=False, highlight=False)
        return 1
    if not options.json:
        console = Console()
        for result in results:
            console.print(draw_table(result, machine))
    print(json.dumps({"benchmark": "throughput", "events": plan.events, "machine": machine, "brokers": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
