"""The models that F4 is compared with, behind the same interface: River's regression and trees, and boosted trees.

All learn from rows of floats. River's models are kept as the rows they were taught and made again by teaching those
anew, so that what is restored is the same to the bit and nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from river import forest, linear_model, optim, preprocessing, tree

from models.outcomes.model import Sight
from models.outcomes.regression import CLIP, PRIOR, RATE

KEPT: Final = 20_000
"""Rows after which a model of River begins anew, from the newer half of them."""
SMOOTH: Final = 10.0
"""Rows for which the base rate counts in the encoding of a category."""
SEED: Final = 1

Rows = list[tuple[tuple[float, ...], bool, float]]


class ReplayedState(msgspec.Struct, frozen=True):
    """What a `Replayed` is restored from: float64 rows, each followed by label and weight."""

    kind: str
    columns: int
    categorical: tuple[int, ...]
    rows: bytes


class Replayed:
    """A model of River, one of `KINDS`, that can be made again from the rows it was taught.

    >>> model = Replayed("hoeffding_adaptive_tree", columns=1)
    >>> for n in range(500):
    ...     model.learn((float(n % 2),), n % 2 == 0)
    >>> Replayed.from_bytes(model.to_bytes()).see((0.0,)).prediction == model.see((0.0,)).prediction > 0.9
    True
    """

    def __init__(self, kind: str, columns: int, categorical: Sequence[int] = (), *, kept: int = KEPT) -> None:
        """A fresh model of `kind` for rows of `columns` floats, those in `categorical` being codes."""
        self.kind = kind
        self.columns = columns
        self.categorical = tuple(categorical)
        self._kept = kept
        self._rows: Rows = []
        self._begin()

    def see(self, row: Sequence[float]) -> Sight:
        """See `Model.see`."""
        chance = self._model.predict_proba_one(self._encode(row)).get(True, None)
        # A tree that has seen one class only is too sure of itself, and River's say nothing before the first row.
        prior = self._base()
        sure = prior if chance is None else chance
        return Sight(min(max(sure, 0.02 * prior), 1.0 - 0.02 * (1.0 - prior)), ())

    def learn(self, row: Sequence[float], label: bool, weight: float = 1.0) -> None:
        """See `Model.learn`."""
        if len(self._rows) >= self._kept:
            self._rows = self._rows[self._kept // 2 :]
            self._begin()
            for each in self._rows:
                self._teach(*each)
        self._rows.append((tuple(row), label, weight))
        self._teach(*self._rows[-1])

    def combine(self, sight: Sight, label: bool, weight: float = 1.0) -> None:
        """See `Model.combine`: there is nothing to combine."""

    def to_bytes(self) -> bytes:
        """See `Model.to_bytes`."""
        flat = np.array([(*row, label, weight) for row, label, weight in self._rows], "<f8")
        return msgspec.msgpack.encode(ReplayedState(self.kind, self.columns, self.categorical, flat.tobytes()))

    @classmethod
    def from_bytes(cls, data: bytes, *, kept: int = KEPT) -> Replayed:
        """The model that wrote `data`, to the bit; raises msgspec.DecodeError or ValueError for other bytes."""
        state = msgspec.msgpack.decode(data, type=ReplayedState)
        if state.kind not in KINDS:
            raise ValueError(f"no model of River is called {state.kind!r}, expected one of {sorted(KINDS)}")
        model = cls(state.kind, state.columns, state.categorical, kept=kept)
        for flat in np.frombuffer(state.rows, "<f8").reshape(-1, state.columns + 2).tolist():
            row = (tuple(flat[:-2]), flat[-2] == 1.0, flat[-1])
            model._rows.append(row)
            model._teach(*row)
        return model

    def _begin(self) -> None:
        self._model = KINDS[self.kind]()
        self._counts: list[dict[float, list[float]]] = [{} for _ in self.categorical]
        self._positive, self._weight = 0.5, 1.0

    def _base(self) -> float:
        return self._positive / self._weight

    def _teach(self, row: Sequence[float], label: bool, weight: float) -> None:
        self._model.learn_one(self._encode(row), label, w=weight)
        self._positive += weight * label
        self._weight += weight
        for counts, place in zip(self._counts, self.categorical, strict=True):
            of = counts.setdefault(row[place], [0.0, 0.0])
            of[0] += weight * label
            of[1] += weight

    def _encode(self, row: Sequence[float]) -> dict[int, float]:
        """The row by column, a category as its share of positives so far; what is missing is zero."""
        encoded = {place: value if value == value else 0.0 for place, value in enumerate(row)}
        base = self._base()
        for counts, place in zip(self._counts, self.categorical, strict=True):
            positive, weight = counts.get(row[place], (0.0, 0.0))
            encoded[place] = (positive + SMOOTH * base) / (weight + SMOOTH)
        return encoded


class Clipped(preprocessing.StandardScaler):  # type: ignore[misc]
    """Standardised features, bounded."""

    def transform_one(self, x: dict[Any, float]) -> dict[Any, float]:
        """The features in standard deviations, none beyond five."""
        return {name: min(max(value, -CLIP), CLIP) for name, value in super().transform_one(x).items()}


def _logistic() -> Any:
    return Clipped() | linear_model.LogisticRegression(optim.AdaGrad(RATE), intercept_init=PRIOR)


def _tree() -> Any:
    return tree.HoeffdingAdaptiveTreeClassifier(grace_period=100, delta=1e-5, seed=SEED)


def _forest() -> Any:
    return forest.ARFClassifier(n_models=10, seed=SEED, leaf_prediction="mc")


KINDS: Final[dict[str, Callable[[], Any]]] = {
    "logistic_regression": _logistic,
    "hoeffding_adaptive_tree": _tree,
    "adaptive_random_forest": _forest,
}
"""River's models by name."""
