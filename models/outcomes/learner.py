"""The learner of one outcome: labelled examples in, one at a time, and frozen scorers out.

River's `StandardScaler` and `LogisticRegression` with AdaGrad, taught by a label policy. What it knows is a few dozen
plain numbers: a learner restored from its bytes goes on exactly, to the bit, as the one that wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NoReturn

import msgspec
from river import linear_model, optim, preprocessing

from models.outcomes.evaluation import Evaluation, EvaluationState
from models.outcomes.policies import POLICIES, FakeNegativeWeighting
from models.outcomes.scorer import Coefficients, LinearScorer
from schemas.example import Example

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


WARM = 200
"""Matured labels from which a model speaks."""


class ExampleRefused(ValueError):
    """An example that this learner cannot learn from; the message says which field and why."""


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


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a learner is restored from; the tuples have one entry a feature, in the order of `names`."""

    outcome: str
    names: tuple[str, ...]
    schema: str
    policy: str
    counts: tuple[int, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]
    weights: tuple[float, ...]
    gradients: tuple[float, ...]
    intercept: float
    curvature: float
    steps: int
    rows: dict[str, int]
    evaluation: EvaluationState


class OutcomeLearner:
    """Learns one outcome's probability from its examples.

    `rows` counts the examples taken, by stage; `evaluation` judges the predictions that were stored at exposure.
    Not safe for use from two threads at once.
    """

    def __init__(
        self,
        outcome: str,
        feature_names: Sequence[str],
        schema: str,
        *,
        policy: str = FakeNegativeWeighting.name,
        window: int = 2_000,
    ) -> None:
        """Learn `outcome` from rows of `feature_names`, whose layout hashes to `schema`.

        `policy` is a key of `POLICIES`, `window` the number of matured labels behind the recent metrics.
        """
        self.outcome = outcome
        self.schema = schema
        self.names = tuple(feature_names)
        self.rows = {"exposed": 0, "fulfilled": 0, "matured": 0}
        self.evaluation = Evaluation(window)
        self._policy = POLICIES[policy]
        self._newton = Newton()
        self._descent = optim.AdaGrad(RATE)
        self._scaler = preprocessing.StandardScaler()
        self._regression = linear_model.LogisticRegression(
            self._descent, intercept_init=PRIOR, intercept_lr=self._newton
        )

    def learn(self, example: Example) -> None:
        """Take one example in; raises ExampleRefused, and changes nothing, where it does not fit this learner.

        The scaling is learned at exposure, so once a row; the label as the policy says; a `matured` row goes to the
        evaluation.
        """
        self._check(example)
        row = dict(zip(self.names, example.features, strict=True))
        stage = example.stage
        self.rows[stage] += 1
        if stage == "exposed":
            self._scaler.learn_one(row)
        elif stage == "matured":
            self.evaluation.add(example.prediction, example.label)
        if stage in self._policy.stages:
            self._teach(example, row)

    @property
    def cold(self) -> bool:
        """Whether too few labels have matured to say anything: a young model knows only those who were quick.

        Until then the base rate is a guess, and a probability made of a guess would be taken at its word.
        """
        return self.rows["matured"] < WARM

    def predict(self, features: Sequence[float]) -> float:
        """The current probability of one row, by River itself."""
        return self._predict(self._standardise(dict(zip(self.names, features, strict=True))))

    def scorer(self) -> LinearScorer:
        """A frozen copy of what is known now."""
        weights = self._regression.weights
        return LinearScorer(
            Coefficients(
                outcome=self.outcome,
                schema=self.schema,
                names=self.names,
                means=tuple(self._scaler.means.get(name, 0.0) for name in self.names),
                scales=tuple(_inverse_root(self._scaler.vars.get(name, 0.0)) for name in self.names),
                weights=tuple(weights.get(name, 0.0) for name in self.names),
                bias=self._regression.intercept,
                clip=CLIP,
            )
        )

    def to_bytes(self) -> bytes:
        """The whole state as msgpack."""
        scaler, descent, weights = self._scaler, self._descent, self._regression.weights
        state = State(
            outcome=self.outcome,
            names=self.names,
            schema=self.schema,
            policy=self._policy.name,
            counts=tuple(scaler.counts.get(name, 0) for name in self.names),
            means=tuple(scaler.means.get(name, 0.0) for name in self.names),
            variances=tuple(scaler.vars.get(name, 0.0) for name in self.names),
            weights=tuple(weights.get(name, 0.0) for name in self.names),
            gradients=tuple(descent.g2.get(name, 0.0) for name in self.names),
            intercept=self._regression.intercept,
            curvature=self._newton.curvature,
            steps=descent.n_iterations,
            rows=self.rows,
            evaluation=self.evaluation.state(),
        )
        return msgspec.msgpack.encode(state)

    @classmethod
    def from_bytes(cls, data: bytes) -> OutcomeLearner:
        """The learner that wrote `data`; raises msgspec.DecodeError for anything else."""
        state = msgspec.msgpack.decode(data, type=State)
        learner = cls(state.outcome, state.names, state.schema, policy=state.policy)
        learner.rows = state.rows
        learner.evaluation = Evaluation.restore(state.evaluation)
        learner._resume(state)
        return learner

    def _resume(self, state: State) -> None:
        names = state.names
        self._newton.curvature = state.curvature
        self._scaler.counts.update(dict(zip(names, state.counts, strict=True)))
        self._scaler.means.update(dict(zip(names, state.means, strict=True)))
        self._scaler.vars.update(dict(zip(names, state.variances, strict=True)))
        self._descent.g2.update(dict(zip(names, state.gradients, strict=True)))
        self._descent.n_iterations = state.steps
        self._regression.intercept = state.intercept
        for name, weight in zip(names, state.weights, strict=True):
            self._regression._weights[name] = weight

    def _check(self, example: Example) -> None:
        if example.outcome != self.outcome:
            self._refuse("outcome", example.outcome, self.outcome)
        if example.schema != self.schema:
            self._refuse("schema", example.schema, self.schema)
        if len(example.features) != len(self.names):
            self._refuse("number of features", len(example.features), len(self.names))
        # One value that is not finite would make every weight so, for ever. (A sum is finite only if all terms are.)
        if not math.isfinite(sum(example.features)):
            self._refuse("features", "a value that is not finite", "finite numbers")
        if example.label not in (0, 1):
            self._refuse("label", example.label, "0 or 1")
        if example.prediction is not None and not 0.0 <= example.prediction <= 1.0:
            self._refuse("prediction", example.prediction, "a probability")

    def _refuse(self, field: str, found: object, expected: object) -> NoReturn:
        raise ExampleRefused(f"the learner of {self.outcome!r} got {field} {found!r}, expected {expected!r}")

    def _teach(self, example: Example, row: dict[str, float]) -> None:
        standardised = self._standardise(row)
        prediction = self._predict(standardised)
        target = self._policy.target(example.stage, example.label, prediction)
        self._newton.curvature += target.weight * prediction * (1.0 - prediction)
        self._regression.learn_one(standardised, target.label, target.weight)

    def _standardise(self, row: dict[str, float]) -> dict[str, float]:
        scaled = self._scaler.transform_one(row)
        if max(scaled.values()) > CLIP or min(scaled.values()) < -CLIP:
            return {name: min(max(value, -CLIP), CLIP) for name, value in scaled.items()}
        return scaled  # type: ignore[no-any-return]

    def _predict(self, standardised: dict[str, float]) -> float:
        return self._regression.predict_proba_one(standardised)[True]  # type: ignore[no-any-return]


def _inverse_root(variance: float) -> float:
    return variance**-0.5 if variance > 0.0 else 0.0
