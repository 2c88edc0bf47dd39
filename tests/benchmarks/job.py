"""One job of the throughput benchmark as a process of its own, timed from outside by what it has done.

A job is started with its environment on a full topic and an empty Redis. Its count of events done with is read from
Redis fifty times a second, its CPU seconds from the kernel. What comes before the warm-up ends does not count: neither
start nor joining the group, nor the first events.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from redis import Redis

from stream.embedded import Guard

POLL_SECONDS: Final = 0.02
STALL_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 20.0
WARM_UP: Final = 0.1
"""Share of the events that is not timed."""


class BenchmarkError(Exception):
    """A job ended or stood still; the message holds the end of its log."""


class Mark(NamedTuple):
    """A moment: monotonic seconds, events done with, CPU seconds of the process (0 where the kernel does not tell)."""

    at: float
    done: int
    cpu: float


Progress = Callable[[Redis], tuple[float, int]]
"""Reads (monotonic seconds, events done with)."""


class Process:
    """A job's process, under `guard`; its log is `<name>.log` in `folder`."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], guard: Guard, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.popen = guard.spawn(command, log=self.log, folder=folder, env=env)

    def check(self) -> None:
        """Raise `BenchmarkError` if the process has ended."""
        if self.popen.poll() is not None:
            raise self.fail(f"ended with exit code {self.popen.returncode}")

    def fail(self, what: str) -> BenchmarkError:
        """The error that says `what` happened, with the end of the log."""
        tail = self.log.read_text(errors="replace").splitlines()[-20:]
        return BenchmarkError("\n".join([f"{self.name} {what}; the end of its log:", *tail]))

    def mark(self, redis: Redis, progress: Progress) -> Mark:
        """Where the job stands now."""
        cpu = read_cpu(self.popen.pid)
        at, done = progress(redis)
        return Mark(at, done, cpu)

    def wait(self, ready: Callable[[], bool], watch: Callable[[], object]) -> None:
        """Return once `ready`. Raises `BenchmarkError` when the process ends or `watch` stays the same too long."""
        seen, since = watch(), time.monotonic()
        while not ready():
            self.check()
            now = watch()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS:
                raise self.fail(f"stood still for {STALL_SECONDS:g} s at {now}")
            time.sleep(POLL_SECONDS)


@contextmanager
def run_process(
    name: str, command: Sequence[str], env: Mapping[str, str], guard: Guard, folder: Path
) -> Iterator[Process]:
    """Start a job's process; end it, by SIGTERM and if need be SIGKILL, when the context ends."""
    process = Process(name, command, env, guard, folder)
    try:
        yield process
    finally:
        _end(process.popen, signal.SIGTERM)
        try:
            process.popen.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _end(process.popen, signal.SIGKILL)
            process.popen.wait()
        guard.forget(process.popen)


def time_process(
    process: Process, redis: Redis, progress: Progress, total: int, is_warm: Callable[[], bool] = lambda: True
) -> tuple[Mark, Mark]:
    """The marks between which `process` is timed: the end of its warm-up, and all `total` events done.

    The warm-up lasts a tenth of the events, and longer (at most half of them) until `is_warm`. A job that is through
    it between two looks is timed from the last look before its first event.
    """
    marks = [process.mark(redis, progress)]

    def watch() -> int:
        marks.append(process.mark(redis, progress))
        return marks[-1].done

    def warm() -> bool:
        done = marks[-1].done
        return done >= total / 2 or (done >= total * WARM_UP and is_warm())

    process.wait(warm, watch)
    start = marks[-1] if marks[-1].done < total else next(m for m in reversed(marks) if m.done < total)
    process.wait(lambda: marks[-1].done >= total, watch)
    return start, next(mark for mark in marks if mark.done >= total)


def read_cpu(pid: int) -> float:
    """User and system CPU seconds of a process and of its children, with all threads, from /proc; 0 without one."""
    ticks = 0
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *children):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    except OSError:
        return 0.0
    return ticks / os.sysconf("SC_CLK_TCK")


def describe_pace(start: Mark, end: Mark, name: str = "events_per_second") -> dict[str, float]:
    """Rate and CPU cost between two marks."""
    events, seconds = end.done - start.done, max(end.at - start.at, 1e-6)
    return {
        "timed_events": events,
        "seconds": round(seconds, 3),
        name: round(events / seconds, 1),
        "cpu_seconds_per_100k": round((end.cpu - start.cpu) / max(events, 1) * 100_000, 3),
    }


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)
