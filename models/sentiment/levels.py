"""How much the transformer is asked, by load: five levels, from every English text to none.

Counts of texts and times come in before and after each batch, the level for it goes out. Pure: a level follows from
those numbers and nothing else, so a log of them gives the same levels again.
"""

import math
from typing import Final

import msgspec

LEVELS: Final = 5
LOWEST: Final = LEVELS - 1
"""The student answers alone."""

RISE: Final = 0.8
FALL: Final = 0.4
CALM: Final = 20
"""Batches in a row below `FALL` before the transformer is asked more again."""

WEIGHT: Final = 0.2
"""Of the newest batch in what a text is taken to cost."""

FADING: Final = 0.9


class Pace(msgspec.Struct, frozen=True):
    """The level, 0 (every English text is the transformer's) to `LOWEST`, and how many batches in a row were calm."""

    level: int = 0
    calm: int = 0


def advance(pace: Pace, load: float) -> Pace:
    """Return the pace of the next batch after one of this `load`: time taken by time allowed, 1.0 being all of it.

    Above `RISE` the level goes one towards the student for each time that the load doubles it; below `FALL` for `CALM`
    batches it goes one back. Between the two nothing moves, so a load that halves when the level changes does not make
    it swing. Raises `ValueError` for a load below 0 or not a number.

    >>> advance(Pace(), 0.9), advance(Pace(1), 0.5), advance(Pace(1, calm=19), 0.1)
    (Pace(level=1, calm=0), Pace(level=1, calm=0), Pace(level=0, calm=0))
    """
    if not load >= 0:
        raise ValueError(f"load: found {load}, expected at least 0")
    if load > RISE:
        steps = LEVELS if math.isinf(load) else 1 + int(math.log2(load / RISE))
        return Pace(min(LOWEST, pace.level + steps))
    if load >= FALL or pace.level == 0:
        return Pace(pace.level)
    if pace.calm + 1 < CALM:
        return Pace(pace.level, pace.calm + 1)
    return Pace(pace.level - 1)


class Throttle:
    """The level of each batch, by how long those before it took and how long it waited. Times are seconds."""

    def __init__(self, deadline: float) -> None:
        """Take the time within which a batch's texts ought to be scored, their wait for their turn included.

        Raises `ValueError` unless it is more than 0.
        """
        if not deadline > 0:
            raise ValueError(f"deadline: found {deadline}, expected more than 0")
        self.pace = Pace()
        self._deadline = deadline
        self._costs = [0.0] * LEVELS

    def brace(self, texts: int, waited: float) -> int:
        """Return the level of the batch that is next: lower than before where it would miss the deadline.

        What a text costs at a level is known from the last batches there; nothing is foreseen before the first.
        """
        level = self.pace.level
        expected = (waited + texts * self._costs[level]) / self._deadline
        if expected > RISE:
            # A cost that keeps its level from being tried is believed less each time, or it would never be mended.
            self._costs[level] *= FADING
            self.pace = advance(self.pace, expected)
        return self.pace.level

    def relate(self, texts: int, waited: float, spent: float) -> None:
        """Take note of the batch that `brace` was asked about last, which has been scored."""
        level = self.pace.level
        cost = spent / max(1, texts)
        self._costs[level] += WEIGHT * (cost - self._costs[level]) if self._costs[level] else cost
        self.pace = advance(self.pace, (waited + spent) / self._deadline)
