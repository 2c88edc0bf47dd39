"""F4 as a River classifier: dicts of numbers and strings in, one at a time, probabilities out.

The first rows are kept as they came and decide which features there are and which of them are categorical; a feature
that appears only later is ignored, one that is left out is missing.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from river import base

from models.outcomes.bins import Floats
from models.outcomes.f4 import F4, WARM_UPS

FIRST: Final = WARM_UPS[0]
"""Rows from which the features are known."""

Given = dict[str, float | str | None]


class ClassifierState(msgspec.Struct, frozen=True):
    """What an `F4Classifier` is restored from."""

    remembers: bool
    names: tuple[str, ...]
    categorical: tuple[int, ...]
    waiting: list[tuple[Given, bool, float]]
    weight: float
    positive: float
    model: bytes | None


class F4Classifier(base.Classifier):  # type: ignore[misc]
    """Four FTRL-proximal models on hashed quantile bins, crosses and linear terms, combined by an online stack.

    Parameters
    ----------
    remembers
        Whether the stack sees running means of the newest residuals: right where labels come at once.

    Examples
    --------
    >>> model = F4Classifier()
    >>> for n in range(600):
    ...     model.learn_one({"shop": "abc"[n % 3], "hour": n % 24}, n % 3 == 0)
    >>> model.predict_one({"shop": "a", "hour": 3}), model.predict_one({"shop": "b", "hour": 4})
    (True, False)
    """

    def __init__(self, remembers: bool = True) -> None:
        self.remembers = remembers
        self._names: tuple[str, ...] = ()
        self._categorical: tuple[int, ...] = ()
        self._waiting: list[tuple[Given, bool, float]] = []
        self._weight, self._positive = 1.0, 0.5
        self._model: F4 | None = None

    def learn_one(self, x: Mapping[Any, Any], y: bool, w: float = 1.0) -> None:
        """Take a row and its label in, `w` times."""
        if self._model is not None:
            self._model.update(self._row(x), bool(y), float(w))
            return
        self._waiting.append(({str(name): _plain(value) for name, value in x.items()}, bool(y), float(w)))
        self._weight += w
        self._positive += w * bool(y)
        if len(self._waiting) == FIRST:
            self._begin()

    def predict_proba_one(self, x: Mapping[Any, Any]) -> dict[bool, float]:
        """Probability of either label."""
        chance = self._positive / self._weight if self._model is None else self._model.predict(self._row(x))
        return {False: 1.0 - chance, True: chance}

    def to_bytes(self) -> bytes:
        """The whole state as msgpack."""
        state = ClassifierState(
            self.remembers,
            self._names,
            self._categorical,
            self._waiting,
            self._weight,
            self._positive,
            None if self._model is None else self._model.to_bytes(),
        )
        return msgspec.msgpack.encode(state)

    @classmethod
    def from_bytes(cls, data: bytes) -> F4Classifier:
        """The classifier that wrote `data`, to the bit; raises msgspec.DecodeError or ValueError for other bytes."""
        state = msgspec.msgpack.decode(data, type=ClassifierState)
        classifier = cls(state.remembers)
        classifier._names, classifier._categorical = state.names, state.categorical
        classifier._waiting = state.waiting
        classifier._weight, classifier._positive = state.weight, state.positive
        classifier._model = None if state.model is None else F4.from_bytes(state.model)
        return classifier

    def _begin(self) -> None:
        rows = [row for row, _, _ in self._waiting]
        self._names = tuple(sorted({name for row in rows for name in row}))
        self._categorical = tuple(
            place for place, name in enumerate(self._names) if any(isinstance(row.get(name), str) for row in rows)
        )
        self._model = F4(len(self._names), self._categorical, remembers=self.remembers)
        for row, label, weight in self._waiting:
            self._model.update(self._row(row), label, weight)
        self._waiting = []

    def _row(self, x: Mapping[Any, Any]) -> Floats:
        given = x if all(isinstance(name, str) for name in x) else {str(name): value for name, value in x.items()}
        row = np.full(len(self._names), np.nan)
        for place, name in enumerate(self._names):
            value = _plain(given.get(name))
            if value is not None:
                row[place] = encode(value, place in self._categorical)
        return row


def encode(value: float | str, categorical: bool) -> float:
    """A value as a float of its column: a code for categories, NaN for a text where numbers are expected."""
    if categorical:
        return float(zlib.crc32(str(value).encode()))
    return float("nan") if isinstance(value, str) else value


def _plain(value: Any) -> float | str | None:
    if value is None or isinstance(value, str):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)
