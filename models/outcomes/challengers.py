"""The models that F4 is compared with, behind the same interface: River's regression and trees, and boosted trees.

All learn from rows of floats. River's models are kept as the rows they were taught and made again by teaching those
anew, so that what is restored is the same to the bit and nothing is ever unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from river import forest, linear_model, optim, preprocessing, tree
from river.tree.nodes.branch import NumericBinaryBranch

from models.outcomes.model import Sight
from models.outcomes.regression import CLIP, PRIOR, RATE
from models.outcomes.trees_scorer import LEAF, Code, Tree, TreesScorer, TreesScoring

KEPT: Final = 20_000
"""Rows after which a model of River begins anew, from the newer half of them."""
SMOOTH: Final = 10.0
"""Rows for which the base rate counts in the encoding of a category."""
LEAST: Final = 0.02
"""Part of the base rate, and of its rest, that every row is left with."""
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
        encoded, prior = self._encode(row), self._base()
        grown = self._list_trees()
        if grown:
            chance = sum(_find_share(_find_leaf(root, encoded), prior) * weight for root, weight in grown)
            chance /= math.fsum(weight for _, weight in grown)
        else:
            # River's models say nothing before the first row.
            chance = self._model.predict_proba_one(encoded).get(True, prior)
        # A tree that has seen one class only is too sure of itself.
        return Sight(min(max(chance, LEAST * prior), 1.0 - LEAST * (1.0 - prior)), ())

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

    def scorer(self, names: Sequence[str], *, outcome: str = "", schema: str = "") -> TreesScorer | None:
        """A frozen copy of the trees, for rows of the columns `names`; None where there are none."""
        grown, prior = self._list_trees(), self._base()
        if not grown:
            return None
        codes = [
            Code(place, {value: _smooth(found, prior) for value, found in counts.items()}, prior)
            for counts, place in zip(self._counts, self.categorical, strict=True)
        ]
        return TreesScorer(
            TreesScoring(
                outcome=outcome,
                schema=schema,
                names=tuple(names),
                link="mean",
                trees=tuple(_freeze(root, prior) for root, _ in grown),
                weights=tuple(weight for _, weight in grown),
                codes=tuple(codes),
                low=LEAST * prior,
                high=1.0 - LEAST * (1.0 - prior),
            )
        )

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
            encoded[place] = _smooth(counts.get(row[place], (0.0, 0.0)), base)
        return encoded

    def _list_trees(self) -> list[tuple[Any, float]]:
        """Roots and what each counts; none of a model without trees, or before the first row.

        What a tree says is the share of positives in a leaf of its: River's own answers are of naive Bayes in the
        leaves, or mixed with those of trees that are yet to replace another, and worse calibrated.
        """
        if self.kind == "hoeffding_adaptive_tree":
            return [] if self._model._root is None else [(self._model._root, 1.0)]
        if self.kind != "adaptive_random_forest":
            return []
        return [
            (each._root, metric.get() if metric.get() > 0.0 else 1.0)
            for each, metric in zip(self._model, self._model._metrics, strict=False)
            if each._root is not None
        ]


def _smooth(counts: Sequence[float], base: float) -> float:
    """Share of positives of a category, of which there were `counts` positives and rows."""
    positive, weight = counts
    return (positive + SMOOTH * base) / (weight + SMOOTH)


def _find_leaf(root: Any, row: dict[int, float]) -> Any:
    node = root
    while isinstance(node, NumericBinaryBranch):
        node = node.children[0 if row[node.feature] <= node.threshold else 1]
    return node


def _find_share(node: Any, prior: float) -> float:
    """Share of positives among the rows that came by a node."""
    whole = sum(node.stats.values()) if node.stats else 0.0
    return node.stats.get(True, 0.0) / whole if whole else prior


def _freeze(root: Any, prior: float) -> Tree:
    nodes, parts = [root], []
    for node in nodes:
        column, threshold, left, right = LEAF, 0.0, 0, 0
        if isinstance(node, NumericBinaryBranch):
            column, threshold, left, right = node.feature, node.threshold, len(nodes), len(nodes) + 1
            nodes += node.children
        parts.append((column, threshold, left, right, _find_share(node, prior)))
    return Tree(*zip(*parts, strict=True))


class Clipped(preprocessing.StandardScaler):  # type: ignore[misc]
    """Standardised features, bounded."""

    def transform_one(self, x: dict[Any, float]) -> dict[Any, float]:
        """The features in standard deviations, none beyond five."""
        return {name: min(max(value, -CLIP), CLIP) for name, value in super().transform_one(x).items()}


def _logistic() -> Any:
    return Clipped() | linear_model.LogisticRegression(optim.AdaGrad(RATE), intercept_init=PRIOR)


def _tree() -> Any:
    return tree.HoeffdingAdaptiveTreeClassifier(grace_period=100, delta=1e-2, leaf_prediction="mc", seed=SEED)


def _forest() -> Any:
    return forest.ARFClassifier(n_models=10, seed=SEED, leaf_prediction="mc")


KINDS: Final[dict[str, Callable[[], Any]]] = {
    "logistic_regression": _logistic,
    "hoeffding_adaptive_tree": _tree,
    "adaptive_random_forest": _forest,
}
"""River's models by name."""
