"""A frozen F4: what score workers load from a snapshot, with the learner's own arithmetic.

Rows of floats in, probabilities out, the same bits for a row whatever its batch, and the columns that moved each.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from models.outcomes.bins import Bins, Floats, Layout
from models.outcomes.ftrl import Ftrl
from models.outcomes.stack import Stack, StackState
from schemas.trigger import Contribution

AT_ONCE: Final = 1_000
"""Rows whose slots are in memory at a time: more of them leave the processor's caches."""


class F4Scoring(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="f4"):
    """What score workers load: weights without what learning them goes on from."""

    outcome: str
    schema: str
    names: tuple[str, ...]
    layout: Layout
    rates: tuple[float, ...]
    bias: float
    slots: bytes
    weights: bytes
    stack: StackState
    memory: tuple[float, ...]


class F4Scorer:
    """A frozen `F4`: probabilities, the same bits as the learner's, and what they are made of."""

    def __init__(self, scoring: F4Scoring) -> None:
        """Score with `scoring`; raises ValueError where its parts do not fit each other."""
        self.scoring = scoring
        if len(scoring.names) != len(scoring.layout.edges):
            raise ValueError(f"{len(scoring.names)} names for {len(scoring.layout.edges)} columns")
        self._bins = Bins(scoring.layout)
        slots = np.frombuffer(scoring.slots, "<i4").astype(np.int64)
        weights = np.frombuffer(scoring.weights, "<f8").reshape(len(slots), len(scoring.rates))
        self._ftrl = Ftrl.frozen(scoring.rates, self._bins.size, scoring.bias, slots, weights)
        self._stack = Stack.restore(scoring.stack)
        owners = self._bins.owners()
        self._column = np.array([column for each in owners for column in each])
        self._slot = np.array([slot for slot, each in enumerate(owners) for _ in each])
        self._part = np.array([1.0 / len(each) for each in owners for _ in each])

    @property
    def outcome(self) -> str:
        """Name of the outcome."""
        return self.scoring.outcome

    @property
    def schema(self) -> str:
        """Hash of the feature layout that the rows must have."""
        return self.scoring.schema

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that the rows must have."""
        return self.scoring.names

    @property
    def columns(self) -> int:
        """Floats of a row."""
        return self._bins.columns

    def score(self, rows: Floats) -> Floats:
        """Probabilities, shape (n,), of `rows`, shape (n, columns); raises ValueError for another width."""
        if rows.ndim != 2 or rows.shape[1] != self.columns:
            raise ValueError(f"rows must have the shape (n, {self.columns}), not {rows.shape}")
        return score(self._bins, self._ftrl, self._stack, self.scoring.memory, rows)

    def score_one(self, row: Sequence[float]) -> float:
        """Probability of one row: equal to `score` to the bit."""
        logits = self._ftrl.logits(*self._bins.encode(np.asarray(row, np.float64)))
        return self._stack.predict((*logits.tolist(), *self.scoring.memory))

    def contributions(self, row: Sequence[float], k: int) -> tuple[Contribution, ...]:
        """The `k` features that move the log-odds of `row` most, strongest first, ties in the order of the features.

        Log-odds away from the base rate, as the heads of the stack weigh the rates; a cross counts half for each of its
        two features.
        """
        slots, values = self._bins.encode(np.asarray(row, np.float64))
        blend = self._stack.blend()[: len(self.scoring.rates)]
        shares = np.add.reduce(self._ftrl.shares(slots, values) * blend, axis=1)
        moved = np.bincount(self._column, shares[self._slot] * self._part, self.columns).tolist()
        strongest = heapq.nsmallest(k, range(self.columns), key=lambda column: -abs(moved[column]))
        names = self.scoring.names
        return tuple(Contribution(name=names[j], value=float(row[j]), contribution=moved[j]) for j in strongest)

    def to_bytes(self) -> bytes:
        """The scoring as msgpack."""
        return msgspec.msgpack.encode(self.scoring)

    @classmethod
    def from_bytes(cls, data: bytes) -> F4Scorer:
        """The scorer that wrote `data`; raises msgspec.DecodeError or ValueError for anything else."""
        return cls(msgspec.msgpack.decode(data, type=F4Scoring))


def score(bins: Bins, ftrl: Ftrl, stack: Stack, memory: tuple[float, ...], rows: Floats) -> Floats:
    """Probabilities, shape (n,), of `rows`, shape (n, columns), without a matrix product."""
    if len(rows) > AT_ONCE:
        parts = [rows[at : at + AT_ONCE] for at in range(0, len(rows), AT_ONCE)]
        return np.concatenate([score(bins, ftrl, stack, memory, part) for part in parts])
    inputs = ftrl.logits_batch(*bins.encode_batch(np.asarray(rows, np.float64)))
    if memory:
        inputs = np.concatenate([inputs, np.tile(memory, (len(rows), 1))], axis=1)
    return stack.predict_batch(inputs)
