"""Frozen trees: what score workers load where River's trees or boosted ones speak, without either library.

Rows of floats in, probabilities out, the same bits for a row whatever its batch, and the columns that moved each.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.outcomes.scorer import sigmoid
from schemas.trigger import Contribution

LEAF: Final = -1
SURE: Final = 0.001
"""A share nearer to 0 or 1 counts as this near, where log-odds are told."""
AT_ONCE: Final = 500

Floats = NDArray[np.float64]


class Tree(msgspec.Struct, frozen=True, array_like=True):
    """One entry a node, the root first: the column that is looked at (`LEAF`: none), the highest value that goes left,
    both children, and what is known at the node: log-odds to be added up, or a share of positives.
    """

    features: tuple[int, ...]
    thresholds: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    values: tuple[float, ...]


class Code(msgspec.Struct, frozen=True, array_like=True):
    """A column of codes: what each that is known stands for, and what any other does."""

    column: int
    known: dict[float, float]
    other: float


class TreesScoring(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="trees"):
    """Trees, one weight each. Their values are added up to log-odds (`link` sum), or are shares of which the mean is
    taken (mean), which is kept within `low` and `high`.
    """

    outcome: str
    schema: str
    names: tuple[str, ...]
    link: Literal["sum", "mean"]
    trees: tuple[Tree, ...]
    weights: tuple[float, ...]
    codes: tuple[Code, ...] = ()
    low: float = 0.0
    high: float = 1.0


class TreesScorer:
    """A frozen forest.

    >>> stump = Tree((0, LEAF, LEAF), (1.5, 0.0, 0.0), (1, 0, 0), (2, 0, 0), (0.5, 0.25, 0.75))
    >>> scorer = TreesScorer(TreesScoring(outcome="buy", schema="s", names=("a",), link="mean", trees=(stump,),
    ...     weights=(1.0,)))
    >>> scorer.score(np.array([[1.0], [2.0]])).tolist()
    [0.25, 0.75]
    >>> [(each.name, round(each.contribution, 3)) for each in scorer.contributions((2.0,), 1)]
    [('a', 1.099)]
    """

    def __init__(self, scoring: TreesScoring) -> None:
        """Score with `scoring`; raises ValueError where its parts do not fit each other."""
        self.scoring = scoring
        self.outcome, self.schema, self.names = scoring.outcome, scoring.schema, scoring.names
        sizes = [len(tree.features) for tree in scoring.trees]
        for tree, size in zip(scoring.trees, sizes, strict=True):
            if not size or {len(part) for part in (tree.thresholds, tree.left, tree.right, tree.values)} != {size}:
                raise ValueError("a tree must have one entry a node in each of its parts")
            if max(tree.features) >= len(scoring.names) or max((*tree.left, *tree.right)) >= size:
                raise ValueError("a tree looks at a column, or leads to a node, that is not there")
        self._roots = np.cumsum([0, *sizes[:-1]]) if sizes else np.zeros(0, np.int64)
        starts = np.repeat(self._roots, sizes)
        self._features = np.array([each for tree in scoring.trees for each in tree.features], np.int64)
        self._thresholds = np.array([each for tree in scoring.trees for each in tree.thresholds], np.float64)
        self._left = np.array([each for tree in scoring.trees for each in tree.left], np.int64) + starts
        self._right = np.array([each for tree in scoring.trees for each in tree.right], np.int64) + starts
        self._values = np.array([each for tree in scoring.trees for each in tree.values], np.float64)
        self._whole = math.fsum(scoring.weights)

    def score(self, rows: Floats) -> Floats:
        """Probabilities, shape (n,), of `rows`, shape (n, columns); raises ValueError for another width."""
        if rows.ndim != 2 or rows.shape[1] != len(self.names):
            raise ValueError(f"rows must have the shape (n, {len(self.names)}), not {rows.shape}")
        parts = [self._score(rows[at : at + AT_ONCE]) for at in range(0, len(rows), AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def score_one(self, row: Sequence[float]) -> float:
        """Probability of one row: equal to `score` to the bit."""
        return float(self._score(np.array([row], np.float64))[0])

    def contributions(self, row: Sequence[float], k: int) -> tuple[Contribution, ...]:
        """The `k` features that move the log-odds of `row` most, strongest first, ties in the order of the features.

        What each step down a tree changes counts for the column that it looked at (Saabas, 2014).
        """
        [encoded] = self._encode(np.array([row], np.float64)).tolist()
        moved = [0.0] * len(self.names)
        share = self._whole if self.scoring.link == "mean" else 1.0
        for tree, weight in zip(self.scoring.trees, self.scoring.weights, strict=True):
            node = 0
            while (column := tree.features[node]) != LEAF:
                child = tree.left[node] if encoded[column] <= tree.thresholds[node] else tree.right[node]
                step = self._log_odds(tree.values[child]) - self._log_odds(tree.values[node])
                moved[column] += weight / share * step
                node = child
        strongest = heapq.nsmallest(k, range(len(moved)), key=lambda column: -abs(moved[column]))
        return tuple(Contribution(name=self.names[i], value=float(row[i]), contribution=moved[i]) for i in strongest)

    def to_bytes(self) -> bytes:
        """The scoring as msgpack."""
        return msgspec.msgpack.encode(self.scoring)

    def _score(self, rows: Floats) -> Floats:
        encoded = self._encode(rows)
        nodes = np.tile(self._roots, (len(rows), 1))
        numbers = np.arange(len(rows))[:, None]
        while True:
            columns = self._features[nodes]
            inner = columns != LEAF
            if not inner.any():
                break
            left = encoded[numbers, np.maximum(columns, 0)] <= self._thresholds[nodes]
            nodes = np.where(inner, np.where(left, self._left[nodes], self._right[nodes]), nodes)
        values = self._values[nodes]
        total = np.zeros(len(rows))
        # Tree by tree: numpy's own sums pair their terms in an order that depends on shape and processor.
        for place, weight in enumerate(self.scoring.weights):
            total += values[:, place] * weight
        if self.scoring.link == "sum":
            return np.array([sigmoid(value) for value in total.tolist()], np.float64)
        mean = total / self._whole if self._whole else total
        return np.clip(mean, self.scoring.low, self.scoring.high)

    def _encode(self, rows: Floats) -> Floats:
        if not self.scoring.codes:
            return rows
        encoded = rows.copy()
        for code in self.scoring.codes:
            found = rows[:, code.column].tolist()
            encoded[:, code.column] = [code.known.get(value, code.other) for value in found]
        return encoded

    def _log_odds(self, value: float) -> float:
        if self.scoring.link == "sum":
            return value
        held = min(max(value, SURE), 1.0 - SURE)
        return math.log(held / (1.0 - held))
