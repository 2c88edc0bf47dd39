"""The first job: the real worker, `nudge worker`, with all default outcomes and rules, sentiment loaded but no texts.

Beside its rate it tells, per event, where its time goes: the worker's own stage and Redis times as its metrics page
has them, differences between the end of the warm-up and the last event.
"""

from __future__ import annotations

import re
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from redis import Redis

from stream.demo.worker import COMMAND
from stream.settings import Settings
from stream.state.keys import name_key, tag_events, tag_source
from tests.benchmarks.job import Mark, Process, describe_pace, time_process

RESULTS: Final = ("scored", "denied", "duplicates", "dead_letters")
REDIS_CPU: Final = ("redis_cpu_seconds", "")
_SAMPLE: Final = re.compile(r'^(\w+)(?:\{(?:\w+="([^"]*)",?)*\})? (\S+)$', re.MULTILINE)

Samples = dict[tuple[str, str], float]
"""(metric, value of its last label) -> value."""


class Worker:
    """What can be seen of a worker from outside: Redis and its metrics page."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tags = [tag_events(number) for number in range(settings.topics.partitions)]
        ports = range(settings.http.port, settings.http.port + settings.processes)
        self.urls = [f"http://127.0.0.1:{port}/metrics" for port in ports]

    def progress(self, redis: Redis) -> tuple[float, int]:
        """Events done with, as the commits counted them."""
        rows = [redis.hmget(name_key("counts", tag), RESULTS) for tag in self.tags]
        return time.monotonic(), sum(int(value or 0) for row in rows for value in row)

    def count(self, redis: Redis) -> dict[str, int]:
        """All counts of the commits, without those by role."""
        sums: dict[str, int] = {}
        for tag in self.tags:
            counts: Any = redis.hgetall(name_key("counts", tag))
            for name, value in counts.items():
                if ":" not in name or name.startswith("triggers:"):
                    sums[name] = sums.get(name, 0) + int(value)
        return sums

    def waiting(self, redis: Redis) -> int:
        """Entries in the outboxes."""
        return sum(redis.xlen(name_key("outbox", tag)) for tag in self.tags)

    def learned(self, redis: Redis) -> int:
        """Examples that the published snapshots include."""
        return int(redis.hget(name_key("fence", tag_source("examples", 0)), "next") or 0)

    def read_metrics(self, redis: Redis) -> Samples:
        """The metrics of all processes as they are now, summed, and the CPU seconds that Redis itself has used."""
        samples: Samples = defaultdict(float)
        for url in self.urls:
            with urllib.request.urlopen(url, timeout=10.0) as page:
                for name, label, value in _SAMPLE.findall(page.read().decode()):
                    samples[name, label] += float(value)
        used: Any = redis.info("cpu")
        samples[REDIS_CPU] = used["used_cpu_user"] + used["used_cpu_sys"]
        return samples


def choose_command(profile: Path | None) -> list[str]:
    """How the worker is started; with `profile`, under cProfile, which slows it and writes that file at its end."""
    if profile is None:
        return list(COMMAND)
    code = f"import cProfile; from stream.cli import main; cProfile.run('main()', {str(profile.resolve())!r})"
    return [COMMAND[0], "-P", "-c", code, "worker"]


def time_worker(process: Process, redis: Redis, settings: Settings, total: int) -> dict[str, Any]:
    """Time the worker until all events are committed, then until all it decided is sent, then learned."""
    worker = Worker(settings)
    start_metrics: Samples = {}

    def is_warm() -> bool:
        """Every model has been learned, so that nothing is left out of the work that is timed."""
        if not redis.hexists(name_key("snapshots", tag_source("examples", 0)), "conversion"):
            return False
        start_metrics.update(worker.read_metrics(redis))
        return ("nudge_model_version", "conversion") in start_metrics

    start, end = time_process(process, redis, worker.progress, total, is_warm)
    end_metrics = worker.read_metrics(redis)
    backlog = worker.waiting(redis)
    process.wait(lambda: worker.waiting(redis) == 0, lambda: worker.waiting(redis))
    sent = process.mark(redis, worker.progress)
    examples = int(worker.read_metrics(redis)["nudge_outbox_sent_total", settings.topics.examples])
    process.wait(lambda: worker.learned(redis) >= examples, lambda: worker.learned(redis))
    learned = process.mark(redis, worker.progress)
    return describe_pace(start, end) | {
        "sustained_events_per_second": describe_pace(start, sent)["events_per_second"],
        "sustained_cpu_seconds_per_100k": describe_pace(start, sent)["cpu_seconds_per_100k"],
        "learned_events_per_second": describe_pace(start, learned)["events_per_second"],
        "outbox_at_end": backlog,
        "examples": examples,
        "warm": bool(start_metrics) and ("nudge_model_version", "conversion") in start_metrics,
        "counts": worker.count(redis),
        "microseconds_per_event": divide_time(start_metrics, end_metrics, start, end),
    }


def divide_time(before: Samples, after: Samples, start: Mark, end: Mark) -> dict[str, float]:
    """Microseconds per event by stage and by call of Redis, and of CPU.

    Stages are wall time of one thread; calls are waits, which overlap.
    """

    def spent(metric: str, label: str) -> float:
        return after.get((metric, label), 0.0) - before.get((metric, label), 0.0)

    events = spent("nudge_batch_size_sum", "") or 1.0
    parts = {
        f"{kind}:{label}": spent(metric, label) / events * 1e6
        for kind in ("stage", "redis")
        for metric, label in sorted(after)
        if metric == f"nudge_{kind}_seconds_sum"
    }
    stages = sum(micros for name, micros in parts.items() if name.startswith("stage:"))
    cpu = (end.cpu - start.cpu) / max(end.done - start.done, 1) * 1e6
    batches = spent("nudge_batch_size_count", "") or 1.0
    parts |= {"stages": stages, "cpu": cpu, "cpu_outside_stages": cpu - stages}
    parts["cpu_of_redis"] = spent(*REDIS_CPU) / events * 1e6
    return {name: round(micros, 2) for name, micros in parts.items()} | {"batch_size": round(events / batches, 1)}
