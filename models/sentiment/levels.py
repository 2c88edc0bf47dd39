"""How much the transformer is asked, by load: five levels, from every English text to none.

A load comes in after each batch, the level for the next one goes out. Pure: a level follows from the loads before it
and nothing else, so a log of loads gives the same levels again.
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
