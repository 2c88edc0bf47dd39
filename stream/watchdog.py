"""The watchdog: a thread that ends the process, stacks dumped, when the event loop or the sentiment thread hangs.

A hang can't be caught, but an end can be counted: with the process goes its attempt at the batch, and who comes next
finds the event. Waiting is no hang: while Redis, the broker or back-pressure are waited for, the loop beats on and the
sentiment thread has no work.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from typing import Final

from stream.desk import Desk
from stream.vitals import Vitals

EXIT_CODE: Final = 70
"""Of a process that the watchdog ended: `EX_SOFTWARE`."""

SHARE: Final = 20
"""Looks in the time after which something hangs."""

NET: Final = 2
"""So many times longer takes the net under the watchdog: C code that never lets other threads run stops this one too,
but not the timer of `faulthandler`. That one goes on while the process is stopped."""


class Watchdog:
    """Watches between `start` and `stop`; ends the process when what it watches stands still for `limit` seconds.

    Only time in which this thread ran counts: a process that was stopped or suspended for long has not hung.
    """

    def __init__(self, vitals: Vitals, desk: Desk | None, limit: float) -> None:
        self.vitals = vitals
        self.desk = desk
        self.limit = limit
        self._interval = limit / SHARE
        self._still = {"event loop": 0.0, "sentiment thread": 0.0}
        self._seen: dict[str, int] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        # Not in the thread: what hangs at once, as an event that is the first to come again, may never let it run.
        self._spread_net()
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(self._interval):
            now = time.monotonic()
            if name := self.look(min(now - last, 2 * self._interval)):
                self._end(name)
            self._spread_net()
            last = now

    def _spread_net(self) -> None:
        faulthandler.dump_traceback_later(NET * self.limit, exit=True)

    def look(self, spent: float) -> str | None:
        """Compare with the last look, `spent` seconds ago; what has hung by now, if anything."""
        desk = self.desk
        marks = {"event loop": self.vitals.beats}
        if desk is not None and desk.working:
            marks["sentiment thread"] = desk.steps
        for name in self._still:
            moved = name not in marks or marks[name] != self._seen.get(name)
            self._still[name] = 0.0 if moved else self._still[name] + spent
        self._seen = marks
        return next((name for name, still in self._still.items() if still >= self.limit), None)

    def _end(self, name: str) -> None:
        # Handlers may hold locks that what hangs will never release, so not through the log.
        said = f"CRITICAL the {name} has not moved for {self.limit:g} s (batch.hang_after): ending the process\n"
        os.write(sys.stderr.fileno(), said.encode())
        faulthandler.dump_traceback(all_threads=True)
        os._exit(EXIT_CODE)
