"""What an operator would ask about the live view, answered in plain words: why nothing is decided yet, why lag grows.

Counters go in, sentences come out; where all is as it should be there are none.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

SPAN_SECONDS: Final = 10.0
"""Time over which lag is watched."""
LEAST_LAG: Final = 1_000
GROWTH: Final = 0.05
"""Share of what is done by which more must come in before it is told."""


def say_waiting(model: str, matured: int, needed: int, window_days: float, log_days: float | None) -> str:
    """Why a model is silent: `matured` of `needed` labels are there, `log_days` of the log's time have been read.

    >>> print(say_waiting("conversion", 12, 200, 30, 31.26).partition(". ")[0])
    model conversion waits for its first labels: 12 of 200 matured
    """
    days = "nothing of it was" if log_days is None else f"{log_days:.1f} days of it were"
    return (
        f"model {model} waits for its first labels: {matured:,} of {needed:,} matured. The first windows close after "
        f"{window_days:g} days of the log's time; {days} read since this worker began"
    )


class Moment(NamedTuple):
    """Lag and records done with so far, at a monotonic time in seconds."""

    at: float
    lag: int
    done: int


class Tide:
    """Tells whether more comes in than is done, from what lag and the count of finished records did lately."""

    def __init__(self) -> None:
        self._moments: deque[Moment] = deque()
        self._partitions: frozenset[int] = frozenset()

    def watch(self, moment: Moment, partitions: frozenset[int]) -> None:
        """Take one moment; other partitions than before begin anew, because their lag is another."""
        if partitions != self._partitions:
            self._moments.clear()
            self._partitions = partitions
        self._moments.append(moment)
        while moment.at - self._moments[0].at > SPAN_SECONDS:
            self._moments.popleft()

    def say(self) -> str | None:
        """What comes in, what is done and what that does to lag, in records a second; None where it keeps up."""
        if not self._moments:
            return None
        first, last = self._moments[0], self._moments[-1]
        seconds = last.at - first.at
        if seconds < SPAN_SECONDS / 2 or last.lag < LEAST_LAG:
            return None
        done, growth = (last.done - first.done) / seconds, (last.lag - first.lag) / seconds
        if growth <= GROWTH * done:
            return None
        return (
            f"more comes in than this worker can do here: {done + growth:,.0f} records/s come in, it does {done:,.0f}, "
            f"and lag grows by {growth:,.0f}/s. Send fewer, or add workers on other machines"
        )
