"""FTRL-proximal logistic regression at several learning rates over one table of slots.

The rates share a row's slots, so that a row is encoded once and learned by all of them in one pass over arrays. A
product is summed slot by slot, never by a matrix routine: a row's log-odds are the same bits alone or in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from models.outcomes.bins import Floats, Slots

BETA: Final = 1.0
MANY: Final = 192
"""Rows from which on more than a few operations of numpy pay."""
BOUND: Final = 15.0
"""Log-odds are bounded here: beyond, no more is said, and exp() stays far from overflow."""


class FtrlState(msgspec.Struct, frozen=True, array_like=True):
    """The slots that were ever learned, as little-endian buffers: int32 slots, float64 (slots, 2, rates) z and sums."""

    rates: tuple[float, ...]
    size: int
    bias: float
    slots: bytes
    values: bytes


class Ftrl:
    """Logistic regressions without a penalty, one a rate. McMahan et al., "Ad Click Prediction", KDD 2013.

    >>> import numpy as np
    >>> model = Ftrl((0.1, 0.5), size=4, bias=0.0)
    >>> slots, values = np.array([0, 3]), np.ones((2, 1))
    >>> for _ in range(20):
    ...     model.learn(slots, values, np.array([0.5, 0.5]) - 1.0)
    >>> bool(model.logits(slots, values)[1] > model.logits(slots, values)[0] > 0)
    True
    """

    def __init__(self, rates: Sequence[float], size: int, bias: float) -> None:
        """A table of `size` slots for each of `rates`, two or more; all begin at `bias` log-odds."""
        if len(rates) < 2:
            raise ValueError(f"at least two rates are compared, not {len(rates)}")
        self.rates = tuple(rates)
        self.bias = bias
        self._rates = np.array(self.rates)
        # Of each slot, by rate: the weight, FTRL's z, and the root of the sum of squared gradients.
        self._weights, self._z, self._roots = (np.zeros((size, len(self.rates))) for _ in range(3))

    def logits(self, slots: Slots, values: Floats) -> Floats:
        """Log-odds by rate, shape (rates,), of a row's slots, shape (m,), and values, shape (m, 1)."""
        return self._sum(self._weights.take(slots, axis=0) * values, 0)

    def logits_batch(self, slots: Slots, values: Floats) -> Floats:
        """Log-odds, shape (n, rates), of slots, shape (n, m), and values, shape (n, m, 1): as one by one, to the bit.

        Many rows are added up a slot after the other: what lies between two additions stays in near memory.
        """
        if len(slots) < MANY:
            return self._sum(self._weights.take(slots, axis=0) * values, 1)
        total: Floats = self._weights.take(slots[:, 0], axis=0)
        total *= values[:, 0]
        share = np.empty_like(total)
        for place in range(1, slots.shape[1]):
            self._weights.take(slots[:, place], axis=0, out=share, mode="clip")
            share *= values[:, place]
            total += share
        return self._bound(total)

    def shares(self, slots: Slots, values: Floats) -> Floats:
        """What each slot of a row adds to the log-odds, shape (m, rates)."""
        shares: Floats = self._weights[slots] * values
        return shares

    def learn(self, slots: Slots, values: Floats, errors: Floats) -> None:
        """One step down the log-loss; `errors`, shape (rates,), is (prediction - label), times the row's weight."""
        weights, z, roots = (table.take(slots, axis=0) for table in (self._weights, self._z, self._roots))
        gradients = values * errors
        z += gradients
        grown = roots * roots
        gradients *= gradients
        grown += gradients
        np.sqrt(grown, out=grown)
        np.subtract(grown, roots, out=roots)
        roots /= self._rates
        roots *= weights
        z -= roots
        self._z[slots] = z
        self._roots[slots] = grown
        self._weights[slots] = _weights(z, grown, self._rates)

    def weights(self) -> tuple[Slots, Floats]:
        """The slots that were ever learned, ascending, and their weights, shape (slots, rates)."""
        slots = self._learned()
        return slots, self._weights[slots]

    def state(self) -> FtrlState:
        """Everything, as buffers of the slots in use."""
        slots = self._learned()
        kept = np.stack([self._z[slots], self._roots[slots]], axis=1).astype("<f8")
        return FtrlState(self.rates, len(self._z), self.bias, slots.astype("<i4").tobytes(), kept.tobytes())

    @classmethod
    def restore(cls, state: FtrlState) -> Ftrl:
        """The model that wrote `state`, to the bit; raises ValueError where the buffers do not fit each other."""
        model = cls(state.rates, state.size, state.bias)
        slots = np.frombuffer(state.slots, "<i4").astype(np.int64)
        if len(slots) and not 0 <= slots.min() <= slots.max() < state.size:
            raise ValueError(f"slots outside a table of {state.size}")
        kept = np.frombuffer(state.values, "<f8").reshape(len(slots), 2, len(state.rates))
        model._z[slots], model._roots[slots] = kept[:, 0], kept[:, 1]
        model._weights[slots] = _weights(kept[:, 0], kept[:, 1], model._rates)
        return model

    @classmethod
    def frozen(cls, rates: Sequence[float], size: int, bias: float, slots: Slots, weights: Floats) -> Ftrl:
        """A model that predicts with `weights` of `slots` and is not to be taught; raises ValueError as `restore`."""
        model = cls(rates, size, bias)
        if len(slots) and not 0 <= slots.min() <= slots.max() < size:
            raise ValueError(f"slots outside a table of {size}")
        model._weights[slots] = weights
        return model

    def _learned(self) -> Slots:
        return np.flatnonzero(self._roots.any(axis=1))

    def _sum(self, shares: Floats, axis: int) -> Floats:
        # Over an axis that is not the innermost numpy adds term after term, in order, whatever the other axes.
        total: Floats = np.add.reduce(shares, axis=axis)
        return self._bound(total)

    def _bound(self, total: Floats) -> Floats:
        total += self.bias
        return np.minimum(np.maximum(total, -BOUND, out=total), BOUND, out=total)


def _weights(z: Floats, roots: Floats, rates: Floats) -> Floats:
    weights: Floats = -z * rates
    weights /= roots + BETA
    return weights
