"""Decay by weight: instead of letting old counts shrink, newer interactions weigh more.

Counts become plain sums that commute, and their ratios are those of exponentially decayed counts at every moment.
Cormode et al., "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE 2009.
"""

from __future__ import annotations

from typing import Final

LIMIT: Final = 200.0
"""Half-lives after which sums are brought down again: 2**200 is far from where a float ends."""


class ForwardDecay:
    """Weights that double every `half_life` milliseconds of event time.

    >>> decay = ForwardDecay(half_life=1_000)
    >>> decay.weight(5_000), decay.weight(6_000), decay.weight(4_000)
    (1.0, 2.0, 0.5)
    """

    def __init__(self, half_life: int, landmark: int | None = None, latest: int = 0) -> None:
        """Weigh by `half_life`, with weight 1 at `landmark` (by default the first time seen)."""
        self.half_life = half_life
        self.landmark = landmark
        self.latest = latest

    def weight(self, ts: int) -> float:
        """The weight of an interaction at `ts`, epoch milliseconds, which it moves the latest time on to.

        One interaction moves it by a half-life at most: a single date far in the future cannot make all that is
        known vanish, and after a real silence a few interactions catch up.
        """
        if self.landmark is None:
            self.landmark = self.latest = ts
        elif ts > self.latest:
            self.latest = ts = min(ts, self.latest + self.half_life)
        return 2.0 ** max((ts - self.landmark) / self.half_life, -LIMIT)  # type: ignore[no-any-return]

    def rebase(self) -> float | None:
        """Once `LIMIT` half-lives have passed, the factor for every sum, else None; ask after `weight`."""
        if self.landmark is None or self.latest - self.landmark < LIMIT * self.half_life:
            return None
        factor = 2.0 ** ((self.landmark - self.latest) / self.half_life)
        self.landmark = self.latest
        return factor  # type: ignore[no-any-return]
