"""River's logistic regression on standardised features, as a model that can take part.

`StandardScaler` and `LogisticRegression` with AdaGrad. What it knows is a few dozen plain numbers: one restored from
its bytes goes on exactly, to the bit, as the one that wrote them. Codes it leaves out: twice a campaign is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from river import linear_model, optim, preprocessing

from models.outcomes.model import Sight
from models.outcomes.scorer import Coefficients, LinearScorer

RATE: Final = 0.05
"""AdaGrad's learning rate. Chosen on a year of real orders: plain SGD at 0.005 is a little better on one window an
order, and worse than no model at all once every order line opens a window of its own; AdaGrad holds in both."""
SLOWEST: Final = 0.003
"""The intercept never learns more slowly than this, so that it follows a base rate that drifts."""
PRIOR: Final = -2.0
"""Log-odds before the first row (12 %): most outcomes are rarer than one in two."""
CLIP: Final = 5.0
"""Standardised features are bounded here: one that varies for the first time after a million rows would otherwise
arrive as a thousand standard deviations."""


class Newton(optim.base.Scheduler):  # type: ignore[misc]
    """The intercept's rate: one over the curvature of the log-loss seen so far, and never below `SLOWEST`.

    This is the running Newton step of a model that has only an intercept: it comes close to the base rate within tens
    of rows, however far off the prior was, and then averages.
    """

    def __init__(self, curvature: float = 1.0) -> None:
        """Start from a `curvature` of one, about four rows of probability one half."""
        self.curvature = curvature

    def get(self, t: int) -> float:
        """The rate; `t`, the number of steps, does not matter."""
        return max(SLOWEST, 1.0 / self.curvature)


class RegressionState(msgspec.Struct, frozen=True, kw_only=True):
    """What a `Regression` is restored from; the tuples have one entry a column, but for `categorical`."""

    categorical: tuple[int, ...] = ()
    counts: tuple[int, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]
    weights: tuple[float, ...]
    gradients: tuple[float, ...]
    intercept: float
    curvature: float
    steps: int


class Regression:
    """A logistic regression by River.

    >>> model = Regression(columns=2)
    >>> for n in range(400):
    ...     model.learn((float(n % 2), 1.0), n % 2 == 0)
    >>> model.see((0.0, 1.0)).prediction > 0.8 > 0.2 > model.see((1.0, 1.0)).prediction
    True
    """

    def __init__(self, columns: int, categorical: Sequence[int] = ()) -> None:
        """Learn from rows of `columns` floats; those in `categorical` are codes, and weigh nothing."""
        self.columns = columns
        self.categorical = tuple(categorical)
        self._quantities = [column for column in range(columns) if column not in self.categorical]
        self._newton = Newton()
        self._descent = optim.AdaGrad(RATE)
        self._scaler = preprocessing.StandardScaler()
        self._regression = linear_model.LogisticRegression(
            self._descent, intercept_init=PRIOR, intercept_lr=self._newton
        )

    def see(self, row: Sequence[float]) -> Sight:
        """See `Model.see`."""
        return Sight(self._predict(self._standardise(self._name(row))), ())

    def learn(self, row: Sequence[float], label: bool, weight: float = 1.0) -> None:
        """See `Model.learn`; the scaling is learned first."""
        named = self._name(row)
        self._scaler.learn_one(named)
        standardised = self._standardise(named)
        prediction = self._predict(standardised)
        self._newton.curvature += weight * prediction * (1.0 - prediction)
        self._regression.learn_one(standardised, label, weight)

    def combine(self, sight: Sight, label: bool, weight: float = 1.0) -> None:
        """See `Model.combine`: there is nothing to combine."""

    def scorer(self, names: Sequence[str], *, outcome: str = "", schema: str = "") -> LinearScorer:
        """A frozen copy of what is known now; `names` are the columns', `schema` the hash of their layout.

        Codes have the weight and the scale 0.
        """
        weights, columns = self._regression.weights, range(self.columns)
        return LinearScorer(
            Coefficients(
                outcome=outcome,
                schema=schema,
                names=tuple(names),
                means=tuple(self._scaler.means.get(column, 0.0) for column in columns),
                scales=tuple(_inverse_root(self._scaler.vars.get(column, 0.0)) for column in columns),
                weights=tuple(weights.get(column, 0.0) for column in columns),
                bias=self._regression.intercept,
                clip=CLIP,
            )
        )

    def to_bytes(self) -> bytes:
        """See `Model.to_bytes`."""
        scaler, descent, weights, columns = self._scaler, self._descent, self._regression.weights, range(self.columns)
        state = RegressionState(
            categorical=self.categorical,
            counts=tuple(scaler.counts.get(column, 0) for column in columns),
            means=tuple(scaler.means.get(column, 0.0) for column in columns),
            variances=tuple(scaler.vars.get(column, 0.0) for column in columns),
            weights=tuple(weights.get(column, 0.0) for column in columns),
            gradients=tuple(descent.g2.get(column, 0.0) for column in columns),
            intercept=self._regression.intercept,
            curvature=self._newton.curvature,
            steps=descent.n_iterations,
        )
        return msgspec.msgpack.encode(state)

    @classmethod
    def from_bytes(cls, data: bytes) -> Regression:
        """The model that wrote `data`, to the bit; raises msgspec.DecodeError for anything else."""
        state = msgspec.msgpack.decode(data, type=RegressionState)
        model = cls(len(state.counts), state.categorical)
        model._newton.curvature = state.curvature
        model._scaler.counts.update(model._name(state.counts))
        model._scaler.means.update(model._name(state.means))
        model._scaler.vars.update(model._name(state.variances))
        model._descent.g2.update(model._name(state.gradients))
        model._descent.n_iterations = state.steps
        model._regression.intercept = state.intercept
        for column, weight in model._name(state.weights).items():
            model._regression._weights[column] = weight
        return model

    def _name(self, entries: Sequence[float]) -> dict[int, float]:
        return {column: entries[column] for column in self._quantities}

    def _standardise(self, row: dict[int, float]) -> dict[int, float]:
        scaled = self._scaler.transform_one(row)
        if max(scaled.values(), default=0.0) > CLIP or min(scaled.values(), default=0.0) < -CLIP:
            return {name: min(max(value, -CLIP), CLIP) for name, value in scaled.items()}
        return scaled  # type: ignore[no-any-return]

    def _predict(self, standardised: dict[int, float]) -> float:
        return self._regression.predict_proba_one(standardised)[True]  # type: ignore[no-any-return]


def _inverse_root(variance: float) -> float:
    return variance**-0.5 if variance > 0.0 else 0.0
