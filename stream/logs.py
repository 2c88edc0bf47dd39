"""What the process logs: one line a record, and of the Kafka client's repeated complaints few.

A broker that is away makes the client say so many times a second, in each of its parts. The first of each kind passes
at once; what follows within some seconds is counted, and told with the next one that passes.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import aiokafka  # noqa: F401 - its loggers are there once it was imported

HOLD_SECONDS: Final = 10.0

Kind = tuple[str, int, str, tuple[object, ...]]
"""Logger, level, text without what was filled in, and the broker that it is about."""


class Throttle(logging.Filter):
    """Lets one line a kind and broker pass in `seconds`. `swallowed` counts what it has held back so far.

    >>> throttle = Throttle(clock=lambda: 5.0)
    >>> line = logging.LogRecord("aiokafka", logging.ERROR, "", 0, "Unable connect to node with id %s", (1,), None)
    >>> throttle.filter(line), throttle.filter(line), throttle.swallowed
    (True, False, 1)
    """

    def __init__(self, seconds: float = HOLD_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.seconds = seconds
        self.clock = clock
        self.swallowed = 0
        self._passed: dict[Kind, float] = {}
        self._held: Counter[Kind] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line passes; one that follows others which did not says how many they were."""
        kind, now = _classify(record), self.clock()
        if now - self._passed.get(kind, -self.seconds) < self.seconds:
            self._held[kind] += 1
            self.swallowed += 1
            return False
        if held := self._held.pop(kind, 0):
            spent = now - self._passed[kind]
            record.msg, record.args = f"{record.getMessage()} (and {held} like it in the last {spent:.0f} s)", ()
        self._passed[kind] = now
        return True


def _classify(record: logging.LogRecord) -> Kind:
    """Brokers are named by number, or by host and port."""
    text = str(record.msg)
    given = record.args if isinstance(record.args, tuple) else ()
    broker = given[:2] if "%s:%s" in text else tuple(value for value in given if isinstance(value, int))
    return record.name, record.levelno, text, broker


def configure_logging(level: str) -> None:
    """One line a record; the Kafka clients speak only when something is wrong, and not all the time."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("aiokafka", "faust", "mode"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    throttle = Throttle()
    # A filter sees what is logged to its own logger alone, not what comes up from below.
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "aiokafka" and isinstance(logger, logging.Logger):
            logger.addFilter(throttle)
