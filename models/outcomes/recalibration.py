"""Recalibration: a raw probability in, one in, where stored predictions and matured labels have drifted apart.

Beta calibration, learned online from matured labels: it can stretch, shift and bend the probabilities and never changes
their order. While the raw probabilities are right it leaves them as they are, to the bit.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.outcomes.evaluation import log_loss
from models.outcomes.scorer import sigmoid

HALF_LIFE: Final = 1_000.0
"""Matured labels after which one counts half."""
PRIOR: Final = 20.0
"""How many labels the identity is worth at first."""
MARGIN: Final = 3.0
"""The log-loss that must have been gained, in nats and decayed, before the map is used; it is left again at 0."""
FLOOR: Final = 1e-6


class RecalibrationState(msgspec.Struct, frozen=True, array_like=True):
    """What a `Recalibration` is restored from."""

    parameters: tuple[float, float, float]
    curvature: tuple[float, ...]
    gained: float
    used: bool


class Recalibration:
    """p -> sigmoid(a log p - b log(1 - p) + c) with a and b at least 0.01. Kull et al., "Beta calibration", 2017.

    Each label is a step of online Newton descent, with older ones forgotten.

    >>> import random
    >>> chance, map_ = random.Random(1), Recalibration()
    >>> for _ in range(3000):
    ...     p = chance.random()
    ...     map_.learn(p, chance.random() < 0.5 * p)
    >>> map_.used, round(map_(0.6), 1)
    (True, 0.3)
    """

    def __init__(self) -> None:
        """Begin with the identity."""
        self._parameters = [1.0, 1.0, 0.0]
        self._curvature = np.eye(3) * PRIOR
        self._gained = 0.0
        self.used = False
        """Whether the map is applied: it has been better than the raw probabilities lately."""

    def __call__(self, raw: float) -> float:
        """The recalibrated probability; `raw` itself while the map is not used."""
        return self._map(raw) if self.used else raw

    def apply(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same of many, shape (n,): the same bits as one by one."""
        return np.array([self._map(each) for each in raw.tolist()], np.float64) if self.used else raw

    def learn(self, raw: float, label: bool) -> None:
        """Take the label of a row in that was stored as `raw`, before recalibration."""
        said = self._map(raw)
        keep = 0.5 ** (1.0 / HALF_LIFE)
        self._gained = max(self._gained * keep + log_loss(raw, int(label)) - log_loss(said, int(label)), -MARGIN)
        self.used = self._gained > (0.0 if self.used else MARGIN)
        self._step(_terms(raw), said - float(label), said * (1.0 - said), keep)

    def state(self) -> RecalibrationState:
        """Everything."""
        a, b, c = self._parameters
        return RecalibrationState((a, b, c), tuple(self._curvature.ravel().tolist()), self._gained, self.used)

    @classmethod
    def restore(cls, state: RecalibrationState) -> Recalibration:
        """The recalibration that wrote `state`, to the bit."""
        made = cls()
        made._parameters = list(state.parameters)
        made._curvature = np.array(state.curvature).reshape(3, 3)
        made._gained, made.used = state.gained, state.used
        return made

    def _map(self, raw: float) -> float:
        a, b, c = self._parameters
        low, high, _ = _terms(raw)
        return min(max(sigmoid(a * low + b * high + c), FLOOR), 1.0 - FLOOR)

    def _step(self, terms: tuple[float, float, float], error: float, slope: float, keep: float) -> None:
        outer = np.multiply.outer(terms, terms)
        self._curvature = self._curvature * keep + outer * slope + np.eye(3) * (PRIOR * (1.0 - keep))
        step = _solve(self._curvature.tolist(), [error * term for term in terms])
        a, b, c = (held - each for held, each in zip(self._parameters, step, strict=True))
        self._parameters = [max(a, 0.01), max(b, 0.01), c]


def _terms(raw: float) -> tuple[float, float, float]:
    held = min(max(raw, FLOOR), 1.0 - FLOOR)
    return math.log(held), -math.log(1.0 - held), 1.0


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solution of three equations by Cramer's rule: plain arithmetic, so the same bits on every machine."""
    whole = _determinant(matrix)
    return [
        _determinant([[*row[:place], value, *row[place + 1 :]] for row, value in zip(matrix, right, strict=True)])
        / whole
        for place in range(3)
    ]


def _determinant(m: list[list[float]]) -> float:
    return (
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
        - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    )
