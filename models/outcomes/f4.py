"""F4: four FTRL-proximal models on hashed quantile bins, crosses and linear terms, combined by an online stack.

Rows of floats in, probabilities out. The first rows are kept: at 125, 500 and 2,000 of them the bins are made from all
so far and the rows learned again, after which the bins stay. Learning is one row at a time, scoring also in batches,
and the whole state goes to bytes and back without losing a bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from models.outcomes.bins import Bins, Floats, Layout, Slots, fit
from models.outcomes.f4_scorer import F4Scorer, F4Scoring, score
from models.outcomes.ftrl import Ftrl, FtrlState
from models.outcomes.model import Sight
from models.outcomes.scorer import sigmoid
from models.outcomes.stack import Stack, StackState

RATES: Final = (0.02, 0.05, 0.1, 0.5)
WARM_UPS: Final = (125, 500, 2_000)
"""Rows after which bins are made; the last of them are kept."""
PRIOR: Final = (0.12, 2.0)
"""Before any label: a rate, and how many rows it counts for."""
MEMORY: Final = (0.2, 0.02)
"""Parts by which the newest residual enters the two running means of residuals."""

Row = tuple[Floats, float, float]
"""A row as it was learned: features, label, weight."""


class Warming(msgspec.Struct, frozen=True, array_like=True):
    """Rows kept for the next bins, each with its label and weight, as little-endian float64."""

    rows: bytes
    count: int


class F4State(msgspec.Struct, frozen=True, kw_only=True):
    """What an `F4` is restored from."""

    columns: int
    categorical: tuple[int, ...]
    rates: tuple[float, ...]
    remembers: bool
    memory: tuple[float, ...]
    rows: int
    counts: tuple[float, float]
    warming: Warming | None
    layout: Layout | None
    ftrl: FtrlState | None
    stack: StackState | None


class Seen(NamedTuple):
    """A row as it was looked up last, with the log-odds by rate."""

    row: object
    slots: Slots
    values: Floats
    logits: list[float]


class F4:
    """The default learner of outcomes.

    With `remembers` the stack also sees two running means of the newest residuals, which tell a level that just moved.

    >>> model = F4(columns=2)
    >>> for n in range(600):
    ...     chance = model.update((n % 7, n % 3), n % 3 == 0)
    >>> model.predict((2.0, 0.0)) > 0.9, model.predict((2.0, 1.0)) < 0.1
    (True, True)
    """

    def __init__(
        self, columns: int, categorical: Sequence[int] = (), *, rates: Sequence[float] = RATES, remembers: bool = False
    ) -> None:
        """Learn from rows of `columns` floats; those in `categorical` are codes, whose order means nothing."""
        self.columns = columns
        self.categorical = tuple(categorical)
        self.rates = tuple(rates)
        self.remembers = remembers
        self.rows = 0
        self.memory = (0.0,) * len(MEMORY) if remembers else ()
        self._weight, self._positive = PRIOR[1], PRIOR[0] * PRIOR[1]
        self._warming: list[Row] | None = []
        self._fitted: tuple[Bins, Ftrl, Stack] | None = None
        self._seen: Seen | None = None

    @property
    def base_rate(self) -> float:
        """Share of positives so far, which is all that is said before the first bins."""
        return self._positive / self._weight

    def predict(self, row: ArrayLike) -> float:
        """Probability of one row, of shape (columns,)."""
        return self.see(row).prediction

    def predict_batch(self, rows: Floats) -> Floats:
        """Probabilities, shape (n,), of `rows`, shape (n, columns): the same bits as one by one.

        Raises ValueError for another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self.columns:
            raise ValueError(f"rows must have the shape (n, {self.columns}), not {rows.shape}")
        if self._fitted is None:
            return np.full(len(rows), self.base_rate)
        bins, ftrl, stack = self._fitted
        return score(bins, ftrl, stack, self.memory, rows)

    def see(self, row: ArrayLike) -> Sight:
        """Probability of one row, and what the stack saw of it, to be given to `combine` with the label."""
        if self._fitted is None:
            return Sight(self.base_rate, ())
        bins, ftrl, stack = self._fitted
        inputs = (*self._look(bins, ftrl, row).logits, *self.memory)
        return Sight(stack.predict(inputs), inputs)

    def learn(self, row: ArrayLike, label: bool, weight: float = 1.0) -> None:
        """Teach the models below the stack."""
        target = float(label)
        kept = None if self._warming is None else self._checked(np.array(row, np.float64))
        if self._fitted is not None:
            self._descend(self._fitted, row, target, weight)
        self.rows += 1
        self._weight += weight
        self._positive += weight * target
        if self._warming is not None and kept is not None:
            self._warming.append((kept, target, weight))
            if self.rows in WARM_UPS:
                self._fit(self._warming)

    def combine(self, sight: Sight, label: bool, weight: float = 1.0) -> None:
        """Teach the stack the final label of a row that was seen as `sight`, before it was learned."""
        target = float(label)
        if self._fitted is not None and sight.inputs:
            self._fitted[2].learn(sight.inputs, target, weight)
        if self.remembers:
            residual = (target - sight.prediction) * weight
            self.memory = tuple(held + part * (residual - held) for held, part in zip(self.memory, MEMORY, strict=True))

    def update(self, row: ArrayLike, label: bool, weight: float = 1.0) -> float:
        """See a row, and learn its final label at once; the probability that it had."""
        row = row if isinstance(row, tuple) else tuple(np.asarray(row, np.float64).tolist())
        sight = self.see(row)
        self.combine(sight, label, weight)
        self.learn(row, label, weight)
        return sight.prediction

    def scorer(self, names: Sequence[str], *, outcome: str = "", schema: str = "") -> F4Scorer | None:
        """A frozen copy of what is known now; None before the first bins.

        `names` are the columns', `schema` the hash of their layout, `outcome` the name of what is predicted.
        """
        if self._fitted is None:
            return None
        bins, ftrl, stack = self._fitted
        slots, weights = ftrl.weights()
        return F4Scorer(
            F4Scoring(
                outcome=outcome,
                schema=schema,
                names=tuple(names),
                layout=bins.layout,
                rates=ftrl.rates,
                bias=ftrl.bias,
                slots=slots.astype("<i4").tobytes(),
                weights=weights.astype("<f8").tobytes(),
                stack=stack.state(),
                memory=self.memory,
            )
        )

    def to_bytes(self) -> bytes:
        """The whole state as msgpack."""
        bins, ftrl, stack = self._fitted or (None, None, None)
        return msgspec.msgpack.encode(
            F4State(
                columns=self.columns,
                categorical=self.categorical,
                rates=self.rates,
                remembers=self.remembers,
                memory=self.memory,
                rows=self.rows,
                counts=(self._weight, self._positive),
                warming=None if self._warming is None else _pack(self._warming),
                layout=None if bins is None else bins.layout,
                ftrl=None if ftrl is None else ftrl.state(),
                stack=None if stack is None else stack.state(),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> F4:
        """The model that wrote `data`, to the bit; raises msgspec.DecodeError or ValueError for anything else."""
        state = msgspec.msgpack.decode(data, type=F4State)
        model = cls(state.columns, state.categorical, rates=state.rates, remembers=state.remembers)
        model.memory = state.memory
        model.rows = state.rows
        model._weight, model._positive = state.counts
        model._warming = None if state.warming is None else _unpack(state.warming, state.columns)
        if state.layout is not None and state.ftrl is not None and state.stack is not None:
            model._fitted = Bins(state.layout), Ftrl.restore(state.ftrl), Stack.restore(state.stack)
        return model

    def _look(self, bins: Bins, ftrl: Ftrl, row: ArrayLike) -> Seen:
        # A row is often seen and learned in one go: a tuple can't have changed meanwhile.
        held = self._seen
        if held is not None and held.row is row:
            return held
        slots, values = bins.encode(self._checked(np.asarray(row, np.float64)))
        seen = Seen(row, slots, values, ftrl.logits(slots, values).tolist())
        self._seen = seen if isinstance(row, tuple) else None
        return seen

    def _descend(self, fitted: tuple[Bins, Ftrl, Stack], row: ArrayLike, label: float, weight: float) -> None:
        bins, ftrl, _ = fitted
        seen = self._look(bins, ftrl, row)
        self._seen = None
        ftrl.learn(seen.slots, seen.values, np.array([(sigmoid(each) - label) * weight for each in seen.logits]))

    def _checked(self, row: Floats) -> Floats:
        if row.shape != (self.columns,):
            raise ValueError(f"a row must have the shape ({self.columns},), not {row.shape}")
        return row

    def _fit(self, rows: list[Row]) -> None:
        labels, weights = (np.array([row[place] for row in rows]) for place in (1, 2))
        bins = Bins(fit(np.array([row[0] for row in rows]), labels, weights, self.categorical))
        bias = log_odds(self.base_rate)
        ftrl = Ftrl(self.rates, bins.size, bias)
        first = self._fitted is None
        stack = (
            Stack(len(self.rates), len(self.rates) + len(self.memory), bias)
            if self._fitted is None
            else self._fitted[2]
        )
        self._fitted, self._seen = (bins, ftrl, stack), None
        for values, label, weight in rows:
            if first:
                stack.learn(self.see(values).inputs, label, weight)
            self._descend(self._fitted, values, label, weight)
        if self.rows >= WARM_UPS[-1]:
            self._warming = None


def log_odds(chance: float) -> float:
    """The log-odds of a probability inside (0, 1).

    >>> log_odds(0.5)
    0.0
    """
    return math.log(chance / (1.0 - chance))


def _pack(rows: list[Row]) -> Warming:
    flat = [np.append(row, (label, weight)) for row, label, weight in rows]
    return Warming(np.array(flat, "<f8").tobytes(), len(rows))


def _unpack(warming: Warming, columns: int) -> list[Row]:
    flat = np.frombuffer(warming.rows, "<f8").astype(np.float64).reshape(warming.count, columns + 2)
    return [(row[:columns].copy(), float(row[columns]), float(row[columns + 1])) for row in flat]
