"""Several worker processes that one command runs: one process works on one core, a machine has more.

Each is a member of the groups in its own right, with a page of its own, and knows nothing of the others. One that dies
is replaced; all end together, also when their parent is killed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Final, NamedTuple

from stream.logs import configure_logging
from stream.settings import Settings

log = logging.getLogger(__name__)

Work = Callable[[Settings], int]
"""What each process does, until it is told to stop; returns its exit status."""

YOUNG_SECONDS: Final = 20.0
"""One that ends by itself before has found a fault that the next would find too."""

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
"""Seconds before one that died is replaced: the longer, the more have died young in a row."""

LOOK_SECONDS: Final = 0.2
"""Between two looks at the time, while a replacement is due."""

_context = multiprocessing.get_context("spawn")


class Member(NamedTuple):
    """A process, since when it is there (monotonic seconds), and how many died young in its place before."""

    process: SpawnProcess
    since: float
    deaths: int


class Vacancy(NamedTuple):
    """A place whose process died: when the next one is due, and how many died young in a row."""

    due: float
    deaths: int


def settle(settings: Settings, place: int) -> Settings:
    """The settings of the process at `place`, counted from 0: a port and a name in the groups of its own."""
    kafka, http = settings.kafka, settings.http
    if kafka.instance_id not in ("auto", "none"):
        kafka = kafka.model_copy(update={"instance_id": f"{kafka.instance_id}-{place}"})
    if http.port:
        http = http.model_copy(update={"port": http.port + place})
    return settings.model_copy(update={"kafka": kafka, "http": http, "processes": 1})


def run_crew(work: Work, settings: Settings) -> int:
    """Run `settings.processes` processes until SIGTERM or SIGINT; returns the exit status.

    That is the worst of theirs, and where one can't begin its work that one's: the others are ended then.
    """
    configure_logging(settings.log_level)
    return Crew(work, settings).run()


class Crew:
    """The processes of one worker, by place. For the main thread: it takes the signals."""

    def __init__(self, work: Work, settings: Settings) -> None:
        self.work, self.settings = work, settings
        self.members: dict[int, Member] = {}
        self.vacancies = {place: Vacancy(0.0, 0) for place in range(settings.processes)}
        self.statuses: list[int] = []
        self.stopping = False

    def run(self) -> int:
        """See `run_crew`."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        while self.members or (self.vacancies and not self.stopping):
            self._fill()
            wait([each.process.sentinel for each in self.members.values()], LOOK_SECONDS if self.vacancies else None)
            for place, member in list(self.members.items()):
                if member.process.exitcode is not None:
                    del self.members[place]
                    self._part(place, member, member.process.exitcode)
        return max(self.statuses, default=0)

    def _fill(self) -> None:
        """Start what is due."""
        for place, vacancy in list(self.vacancies.items()):
            if time.monotonic() < vacancy.due or self.stopping:
                continue
            del self.vacancies[place]
            process = _context.Process(
                target=_work, args=(self.work, settle(self.settings, place)), name=f"worker {place}"
            )
            # Ctrl-C is for the whole group; it is ours to tell them, and they begin with the same mask.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            try:
                process.start()
                self.members[place] = Member(process, time.monotonic(), vacancy.deaths)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})

    def _part(self, place: int, member: Member, status: int) -> None:
        """Decide what follows from a process' end."""
        young = time.monotonic() - member.since < YOUNG_SECONDS
        if self.stopping or status == 0:
            self.statuses.append(status if status > 0 else 0)
        elif status > 0 and young:
            log.error("worker %d can't begin its work; the others end with it", place)
            self.statuses.append(status)
            self._stop()
        else:
            deaths = member.deaths + 1 if young else 0
            seconds = min(FIRST_PAUSE * 2**deaths, LONGEST_PAUSE)
            log.error("worker %d ended with %d; the next takes its place in %g s", place, status, seconds)
            self.vacancies[place] = Vacancy(time.monotonic() + seconds, deaths)

    def _stop(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        self.stopping = True
        for member in self.members.values():
            member.process.terminate()


def _work(work: Work, settings: Settings) -> None:
    """One process: it ends when its parent does, by whatever that is ended."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    raise SystemExit(work(settings))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
