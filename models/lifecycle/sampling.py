"""The terms on which is learned, beside the examples: at which rate negatives are sampled, and who takes part.

When examples come faster than they are learned, negatives are sampled at a rate q, with weight 1/q; which windows
depends on their ids alone. Which terms held from which version on is part of what is learned, because a past version
can't be learned again without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

LOWEST: Final = 1 / 16
"""A label that counted for more would teach a model mostly noise."""
RELIEVED: Final = 0.25
"""Part of the allowed delay below which more is learned again."""
REMEMBERED: Final = 1_000
"""Newest decisions that are kept."""


class Decision(NamedTuple):
    """From the example after `version` on, negatives are learned at `rate`, and `entrants` take part."""

    version: int
    rate: float
    entrants: tuple[str, ...] = ()


def choose_rate(rate: float, delay: float, allowed: float) -> float:
    """The next rate: half of `rate` while learning is `delay` behind and `allowed` is less, twice it when relieved.

    >>> choose_rate(1.0, 40.0, 30.0), choose_rate(0.5, 20.0, 30.0), choose_rate(0.5, 5.0, 30.0)
    (0.5, 0.5, 1.0)
    """
    if delay > allowed:
        return max(rate / 2, LOWEST)
    return min(rate * 2, 1.0) if delay < allowed * RELIEVED else rate


def find_following(decisions: Sequence[Decision], last: int, version: int) -> list[Decision]:
    """What was decided after version `last` and before `version`.

    >>> find_following([Decision(3, 0.5), Decision(7, 0.25), Decision(9, 0.5)], 3, 9)
    [Decision(version=7, rate=0.25, entrants=())]
    """
    return [decision for decision in decisions if last < decision.version < version]
