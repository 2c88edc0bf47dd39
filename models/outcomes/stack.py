"""An online logistic stack: the log-odds of several models in, one probability out, learned as labels come.

Several heads combine the same log-odds, each learning at a rate of its own, and one knows only the base rate. The
probability is their mixture, weighed by how likely each made the labels so far, so that no head's rate has to be chosen
and a stack is hardly ever worse than the base rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from models.outcomes.bins import Floats
from models.outcomes.scorer import sigmoid

HEAD_RATES: Final = (0.02, 0.1, 0.5, 2.0)
SHARE: Final = 1e-3
"""Part of the mixture dealt out anew at each label, so that a head can come back. Herbster and Warmuth, 1998."""
SLOWEST: Final = 1e-3
"""The base rate is never learned more slowly than this."""
EVIDENCE: Final = -20.0
"""The log-likelihood of one label counts no less than this."""


class StackState(msgspec.Struct, frozen=True, array_like=True):
    """What a stack is restored from; buffers are little-endian float64."""

    inputs: int
    weights: bytes
    squares: bytes
    mixture: tuple[float, ...]
    base: float
    curvature: float


class Stack:
    """Mixture of logistic regressions on `inputs` numbers and of the base rate.

    The first `models` inputs are log-odds and begin at equal weights; the others begin at none.
    """

    def __init__(self, models: int, inputs: int, base: float) -> None:
        """Combine `models` of `inputs` numbers; the base rate begins at `base` log-odds."""
        heads = len(HEAD_RATES)
        self.base = base
        self.curvature = 10.0
        self._weights = np.zeros((inputs + 1, heads))
        self._weights[:models] = 1.0 / models
        self._squares = np.ones((inputs + 1, heads))
        self._rates = np.array(HEAD_RATES)
        self.mixture = [1.0 / (heads + 1)] * (heads + 1)
        self._last: tuple[Sequence[float], list[float]] | None = None

    def predict(self, inputs: Sequence[float]) -> float:
        """Probability of a row's `inputs`."""
        heads = self._heads(inputs)
        # What is predicted is often learned next: a tuple can't have changed meanwhile.
        self._last = (inputs, heads) if isinstance(inputs, tuple) else None
        return self._mix([heads])[0]

    def predict_batch(self, inputs: Floats) -> Floats:
        """Probabilities, shape (n,), of `inputs`, shape (n, inputs): the same bits as one by one."""
        weights = self._weights
        logits = np.zeros((len(inputs), len(HEAD_RATES)))
        for place in range(inputs.shape[1]):
            logits += inputs[:, place, None] * weights[place]
        logits += weights[-1]
        return np.array(self._mix(logits.tolist()), np.float64)

    def learn(self, inputs: Sequence[float], label: float, weight: float) -> None:
        """Take the label (0 or 1) of a row in, `weight` times."""
        last, self._last = self._last, None
        logits = last[1] if last is not None and last[0] is inputs else self._heads(inputs)
        chances = [*map(sigmoid, logits), sigmoid(self.base)]
        errors = np.array([(chance - label) * weight for chance in chances[:-1]])
        extended = np.array((*inputs, 1.0))[:, None]
        gradients = extended * errors
        self._squares += gradients * gradients
        self._weights -= self._rates * gradients / np.sqrt(self._squares)
        self._weigh([chance if label else 1.0 - chance for chance in chances], weight)
        base = chances[-1]
        self.curvature += weight * base * (1.0 - base)
        self.base -= max(SLOWEST, 1.0 / self.curvature) * (base - label) * weight

    def blend(self) -> Floats:
        """How much each input moves the log-odds, shape (inputs,): the heads' weights, averaged by the mixture."""
        moved: Floats = np.add.reduce(self._weights[:-1].T * np.array(self.mixture[:-1])[:, None], axis=0)
        return moved

    def state(self) -> StackState:
        """Everything."""
        weights, squares = (each.astype("<f8").tobytes() for each in (self._weights, self._squares))
        return StackState(len(self._weights) - 1, weights, squares, tuple(self.mixture), self.base, self.curvature)

    @classmethod
    def restore(cls, state: StackState) -> Stack:
        """The stack that wrote `state`, to the bit; raises ValueError where the buffers do not fit."""
        stack = cls(1, state.inputs, state.base)
        shape = stack._weights.shape
        stack._weights = np.frombuffer(state.weights, "<f8").reshape(shape).astype(np.float64)
        stack._squares = np.frombuffer(state.squares, "<f8").reshape(shape).astype(np.float64)
        stack.mixture = list(state.mixture)
        stack.curvature = state.curvature
        return stack

    def _heads(self, inputs: Sequence[float]) -> list[float]:
        shares = self._weights[:-1] * np.array(inputs)[:, None]
        logits: Floats = np.add.reduce(shares, axis=0)
        logits += self._weights[-1]
        listed: list[float] = logits.tolist()
        return listed

    def _mix(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """The probability of each row of the heads' log-odds."""
        *parts, rest = self.mixture
        first = rest * sigmoid(self.base)
        mixed = []
        for row in rows:
            total = first
            for part, logit in zip(parts, row, strict=True):
                total += part * sigmoid(logit)
            mixed.append(total)
        return mixed

    def _weigh(self, likelihoods: list[float], weight: float) -> None:
        logs = [
            math.log(part) + weight * max(math.log(max(chance, 1e-300)), EVIDENCE)
            for part, chance in zip(self.mixture, likelihoods, strict=True)
        ]
        most = max(logs)
        odds = [math.exp(log - most) for log in logs]
        total = sum(odds)
        even = SHARE / len(odds)
        self.mixture = [(1.0 - SHARE) * each / total + even for each in odds]
