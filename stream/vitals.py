"""Is the worker alive, and is it ready: facts come in as they happen, two answers with their reasons leave.

Alive means that the event loop moves and, while there is lag and nothing holds the worker back, the position moves;
who restarts the worker asks this. Ready means that no pause holds it, by whatever cause; a pause never fails liveness,
because a restart mends neither Redis nor the broker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from stream.metrics import Metrics

Cause = Literal[
    "start",
    "assignment",
    "redis",
    "broker",
    "forbidden",
    "clock",
    "outbox",
    "breaker",
    "failure",
    "log_mismatch",
    "partitions",
    "state",
    "name",
    "shutdown",
]
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)

MEANINGS: Final[dict[Cause, str]] = {
    "start": "the worker is starting",
    "assignment": "partitions are being taken over",
    "redis": "Redis does not answer",
    "broker": "the broker does not answer",
    "forbidden": "the broker's rights or a policy forbid what nudge must do there; the log says more",
    "clock": "by the broker's clock, that of Redis is wrong: the broker takes nothing that is dated so",
    "outbox": "too much waits for the output topics",
    "breaker": "so many events crash that a bug or a setting is to blame; the log says more",
    "failure": "something failed that was not foreseen, and is tried again; the log says more",
    "log_mismatch": "the log is not the one that the fence knows",
    "partitions": "the events topic has another number of partitions than the state in Redis was written with",
    "state": "the state in Redis is of a version that is not read here",
    "name": "another process goes by this worker's name in the group; see kafka.instance_id",
    "shutdown": "the worker is stopping",
}

LOOP_LIMIT_SECONDS: Final = 10.0
PROGRESS_LIMIT_SECONDS: Final = 60.0


class Vitals:
    """What is known of the worker's health. `clock` gives monotonic seconds.

    A cause may hold several partitions; it ends when each of them was resumed.

    >>> vitals = Vitals(clock=lambda: 0.0)
    >>> vitals.pause("redis"); vitals.live(), vitals.ready()
    ((True, []), (False, ['redis: Redis does not answer, for 0 s']))
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        loop_limit: float = LOOP_LIMIT_SECONDS,
        progress_limit: float = PROGRESS_LIMIT_SECONDS,
    ) -> None:
        self._clock, self._loop_limit, self._progress_limit = clock, loop_limit, progress_limit
        self._beat_at = self._moved_at = clock()
        self.beats = 0
        """Times that the event loop moved; read by the watchdog's thread."""
        self._position: int | None = None
        self._lag = 0
        self._paused: dict[Cause, tuple[float, set[object]]] = {}
        self._held_since = 0.0

    def beat(self) -> None:
        """The event loop moved."""
        self._beat_at = self._clock()
        self.beats += 1

    def progress(self, position_sum: int, lag: int) -> None:
        """Tell the sum of the owned partitions' positions and what is left to read; to be called while paused too."""
        if position_sum != self._position or not lag:
            self._moved_at = self._clock()
        self._position, self._lag = position_sum, lag

    def pause(self, cause: Cause, holder: object = None) -> None:
        """`cause` holds `holder` (a partition, say), or all of the worker, from now on; said twice is said once."""
        if not self._paused:
            self._held_since = self._clock()
        _, held = self._paused.setdefault(cause, (self._clock(), set()))
        held.add(holder)

    def resume(self, cause: Cause, holder: object = None) -> None:
        """`cause` no longer holds `holder`, or (without one) anything at all."""
        _, held = self._paused.get(cause, (0.0, set[object]()))
        held.discard(holder)
        if cause in self._paused and (holder is None or not held):
            del self._paused[cause]
            if not self._paused:
                # Time under a pause is not counted, but what stood still before it is: pauses that come and go
                # must not hide a position that never moves.
                self._moved_at += self._clock() - max(self._held_since, self._moved_at)

    def pauses(self) -> dict[Cause, float]:
        """Causes that hold the worker now, with the seconds since each began."""
        now = self._clock()
        return {cause: now - since for cause, (since, _) in self._paused.items()}

    def live(self) -> tuple[bool, list[str]]:
        """Whether the worker moves, and what stands still."""
        now, problems = self._clock(), []
        if (still := now - self._beat_at) > self._loop_limit:
            problems.append(f"event loop: has not moved for {still:.0f} s (limit {self._loop_limit:.0f} s)")
        still = now - self._moved_at
        if self._lag and not self._paused and still > self._progress_limit:
            limit = f"limit {self._progress_limit:.0f} s"
            problems.append(f"position: has not moved for {still:.0f} s with {self._lag} records to read ({limit})")
        return not problems, problems

    def ready(self) -> tuple[bool, list[str]]:
        """Whether nothing holds the worker, and what does."""
        problems = [f"{cause}: {MEANINGS[cause]}, for {age:.0f} s" for cause, age in self.pauses().items()]
        return not problems, problems


async def watch_loop(vitals: Vitals, metrics: Metrics, interval: float = 0.1) -> None:
    """Run for ever: beat every `interval` seconds, measure how late that is, and how busy this thread is."""
    mark, burnt = time.monotonic(), time.thread_time()
    while True:
        asked = time.monotonic()
        await asyncio.sleep(interval)
        now = time.monotonic()
        vitals.beat()
        metrics.loop_lag.of().observe(now - asked - interval)
        metrics.show_pauses(vitals.pauses())
        if now - mark >= 1.0:
            spent = time.thread_time()
            metrics.busy.set(min((spent - burnt) / (now - mark), 1.0))
            mark, burnt = now, spent
