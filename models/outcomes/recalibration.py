"""Recalibration: a raw probability in, one in, where stored predictions and matured labels have drifted apart.

Beta calibration, learned online from matured labels: it can stretch, shift and bend the probabilities and never changes
their order. While the raw probabilities are right it leaves them as they are, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from models.outcomes.evaluation import log_loss
from models.outcomes.scorer import sigmoid

HALF_LIFE: Final = 1_000.0
"""Matured labels after which one counts half."""
PRIOR: Final = 20.0
"""How many labels the identity is worth at first."""
MARGIN: Final = 3.0
"""The log-loss that must have been gained, in nats and decayed, before the map is used; it is left again at 0."""
FLOOR: Final = 1e-6

Parameters = tuple[float, float, float]
"""a, b and c of the map."""


class RecalibrationState(msgspec.Struct, frozen=True, array_like=True):
    """What a `Recalibration` is restored from."""

    parameters: Parameters
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
        self._parameters: Parameters = (1.0, 1.0, 0.0)
        self._curvature = [PRIOR, 0.0, 0.0, 0.0, PRIOR, 0.0, 0.0, 0.0, PRIOR]
        self._gained = 0.0
        self.used = False
        """Whether the map is applied: it has been better than the raw probabilities lately."""

    def __call__(self, raw: float) -> float:
        """The recalibrated probability; `raw` itself while the map is not used."""
        return bend(self._parameters, raw) if self.used else raw

    @property
    def parameters(self) -> Parameters | None:
        """Those of the map (`bend`); None while it is not used."""
        return self._parameters if self.used else None

    def learn(self, raw: float, label: bool) -> None:
        """Take the label of a row in that was stored as `raw`, before recalibration."""
        said = bend(self._parameters, raw)
        keep = 0.5 ** (1.0 / HALF_LIFE)
        self._gained = max(self._gained * keep + log_loss(raw, int(label)) - log_loss(said, int(label)), -MARGIN)
        self.used = self._gained > (0.0 if self.used else MARGIN)
        self._step(_terms(raw), said - float(label), said * (1.0 - said), keep)

    def state(self) -> RecalibrationState:
        """Everything."""
        return RecalibrationState(self._parameters, tuple(self._curvature), self._gained, self.used)

    @classmethod
    def restore(cls, state: RecalibrationState) -> Recalibration:
        """The recalibration that wrote `state`, to the bit."""
        made = cls()
        made._parameters = state.parameters
        made._curvature = list(state.curvature)
        made._gained, made.used = state.gained, state.used
        return made

    def _step(self, terms: Parameters, error: float, slope: float, keep: float) -> None:
        held = self._curvature
        prior = PRIOR * (1.0 - keep)
        for row, left in enumerate(terms):
            for column, right in enumerate(terms):
                place = 3 * row + column
                held[place] = held[place] * keep + left * right * slope + (prior if row == column else 0.0)
        step = _solve(held, [error * term for term in terms])
        a, b, c = (before - each for before, each in zip(self._parameters, step, strict=True))
        self._parameters = (max(a, 0.01), max(b, 0.01), c)


def bend(parameters: Parameters, raw: float) -> float:
    """The map with `parameters` at `raw`, within `FLOOR` and 1 - `FLOOR`.

    >>> bend((1.0, 1.0, 0.0), 0.25), round(bend((1.0, 1.0, -1.0), 0.25), 3)
    (0.25, 0.109)
    """
    a, b, c = parameters
    low, high, _ = _terms(raw)
    return min(max(sigmoid(a * low + b * high + c), FLOOR), 1.0 - FLOOR)


def _terms(raw: float) -> Parameters:
    held = min(max(raw, FLOOR), 1.0 - FLOOR)
    return math.log(held), -math.log(1.0 - held), 1.0


def _solve(matrix: Sequence[float], right: Sequence[float]) -> list[float]:
    """Solution of three equations by Cramer's rule: plain arithmetic, so the same bits on every machine."""
    whole = _determinant(matrix)
    replaced = []
    for place in range(3):
        changed = list(matrix)
        changed[place::3] = right
        replaced.append(_determinant(changed) / whole)
    return replaced


def _determinant(of: Sequence[float]) -> float:
    a, b, c, d, e, f, g, h, i = of
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
