"""Drift: whether what a champion gets wrong has changed, by ADWIN on its residuals.

Bifet and Gavaldà, "Learning from time-changing data with adaptive windowing", SDM 2007, as River has it. The detector
is kept as the residuals it was told and made again by telling them anew: the same to the bit, and nothing is unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
from river import drift

KEPT: Final = 8_000
"""Residuals after which the detector begins anew, from the newer half of them."""
DELTA: Final = 0.002
"""Chance of a false alarm, as River's default; its own bound holds it in practice far below that."""
RECENT: Final = 200
"""Residuals that are the newest."""


class DriftState(msgspec.Struct, frozen=True, kw_only=True):
    """What a `Drift` is restored from; residuals as little-endian float64."""

    residuals: bytes
    found: int
    severity: float


class Drift:
    """Watches one stream of residuals, label less probability: how far off they are, and to which side.

    `found` counts changes; `severity` is by how much, at the last of them, the newest `RECENT` residuals or their sizes
    were off the mean of all, 0 to 1.

    >>> watch = Drift()
    >>> any(watch.add(0.1 * (-1) ** n) for n in range(2_000))
    False
    >>> any(watch.add(0.5 + 0.1 * (-1) ** n) for n in range(500)), watch.found
    (True, 1)
    """

    def __init__(self) -> None:
        """Begin with no residual."""
        self.found = 0
        self.severity = 0.0
        self.begin()

    def begin(self) -> None:
        """Forget the residuals: those to come are of another champion, and their level is their own."""
        self._tell(())

    def add(self, residual: float) -> bool:
        """Take one residual in; whether with it a change shows."""
        if len(self._residuals) >= KEPT:
            self._tell(self._residuals[KEPT // 2 :])
        self._residuals.append(residual)
        if not self._detect(residual):
            return False
        self.found += 1
        self.severity = max(_move(self._residuals), _move([abs(each) for each in self._residuals]))
        return True

    def state(self) -> DriftState:
        """Everything."""
        residuals = np.array(self._residuals, "<f8").tobytes()
        return DriftState(residuals=residuals, found=self.found, severity=self.severity)

    @classmethod
    def restore(cls, state: DriftState) -> Drift:
        """The watch that wrote `state`, to the bit."""
        restored = cls()
        restored.found, restored.severity = state.found, state.severity
        restored._tell(np.frombuffer(state.residuals, "<f8").tolist())
        return restored

    def _tell(self, residuals: Iterable[float]) -> None:
        self._residuals = list(residuals)
        self._side, self._size = drift.ADWIN(delta=DELTA), drift.ADWIN(delta=DELTA)
        for residual in self._residuals:
            self._detect(residual)

    def _detect(self, residual: float) -> bool:
        self._side.update(residual)
        # A world that has turned may be as often above as below.
        self._size.update(abs(residual))
        return bool(self._side.drift_detected or self._size.drift_detected)


def _move(values: Sequence[float]) -> float:
    newest = values[-RECENT:]
    return abs(math.fsum(newest) / len(newest) - math.fsum(values) / len(values))
