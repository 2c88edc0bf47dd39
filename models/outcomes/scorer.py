"""The scorer of one outcome: rows of features in, probabilities out, the same bits for a row whatever its batch.

What a score worker loads from a snapshot. Features are standardised and clipped, weighed, and summed in one fixed
order, each step elementwise, so that no row's result depends on its neighbours or on the processor's matrix routines.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from schemas.trigger import Contribution


class Coefficients(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="linear"):
    """A linear model as plain numbers, one entry a feature in the order of `names`.

    A feature x counts as `weight * clip((x - mean) * scale)` log-odds, where `clip` bounds by -clip and clip;
    `scale` is 0 for a feature that never varied.
    """

    outcome: str
    schema: str
    names: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    clip: float


class LinearScorer:
    """A frozen logistic regression.

    >>> import numpy as np
    >>> scorer = LinearScorer(Coefficients(outcome="buy", schema="s", names=("a", "b"), means=(1.0, 0.0),
    ...     scales=(0.5, 1.0), weights=(2.0, -1.0), bias=0.0, clip=5.0))
    >>> scorer.score(np.array([[3.0, 2.0], [1.0, 0.0]])).tolist()
    [0.5, 0.5]
    >>> [(share.name, share.contribution) for share in scorer.contributions((3.0, 1.0), 2)]
    [('a', 2.0), ('b', -1.0)]
    """

    def __init__(self, coefficients: Coefficients) -> None:
        """Score with `coefficients`; raises ValueError where their lengths differ."""
        of = coefficients
        if not len(of.names) == len(of.means) == len(of.scales) == len(of.weights):
            raise ValueError("names, means, scales and weights of a scorer must have one entry a feature")
        self.coefficients = of
        self._means, self._scales, self._weights = (np.array(v, np.float64) for v in (of.means, of.scales, of.weights))
        self._columns = tuple(zip(of.means, of.scales, of.weights, strict=True))

    @property
    def outcome(self) -> str:
        """Name of the outcome."""
        return self.coefficients.outcome

    @property
    def schema(self) -> str:
        """Hash of the feature layout that the rows must have."""
        return self.coefficients.schema

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that the rows must have."""
        return self.coefficients.names

    def score(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities, shape (n,), of `rows`, shape (n, features); raises ValueError for another width."""
        if rows.ndim != 2 or rows.shape[1] != len(self._columns):
            raise ValueError(f"rows must have the shape (n, {len(self._columns)}), not {rows.shape}")
        shares = self._shares(rows)
        log_odds = np.full(len(rows), self.coefficients.bias)
        # Column by column: numpy's own sums pair their terms in an order that depends on shape and processor.
        for column in range(shares.shape[0]):
            log_odds += shares[column]
        # math.exp, not numpy's: its vectorised exp may round a value differently from one lane to the next.
        return np.array([sigmoid(value) for value in log_odds.tolist()], np.float64)

    def score_one(self, row: Sequence[float]) -> float:
        """Probability of one row: the same arithmetic in plain Python, equal to `score` to the bit."""
        log_odds = self.coefficients.bias
        for share in self._row_shares(row):
            log_odds += share
        return sigmoid(log_odds)

    def contributions(self, row: Sequence[float], k: int) -> tuple[Contribution, ...]:
        """The `k` features that move the log-odds of `row` most, strongest first, ties in the order of the features."""
        shares = self._row_shares(row)
        strongest = heapq.nsmallest(k, range(len(shares)), key=lambda column: -abs(shares[column]))
        names = self.coefficients.names
        return tuple(Contribution(name=names[i], value=float(row[i]), contribution=shares[i]) for i in strongest)

    def to_bytes(self) -> bytes:
        """The coefficients as msgpack."""
        return msgspec.msgpack.encode(self.coefficients)

    @classmethod
    def from_bytes(cls, data: bytes) -> LinearScorer:
        """The scorer that wrote `data`; raises msgspec.DecodeError for anything else."""
        return cls(msgspec.msgpack.decode(data, type=Coefficients))

    def _shares(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        clip = self.coefficients.clip
        shares = (rows - self._means) * self._scales
        np.minimum(np.maximum(shares, -clip, out=shares), clip, out=shares)
        shares *= self._weights
        return np.ascontiguousarray(shares.T)

    def _row_shares(self, row: Sequence[float]) -> list[float]:
        clip = self.coefficients.clip
        return [
            min(max((float(x) - mean) * scale, -clip), clip) * weight
            for x, (mean, scale, weight) in zip(row, self._columns, strict=True)
        ]


def sigmoid(log_odds: float) -> float:
    """The probability of `log_odds`, without overflow at either end.

    >>> sigmoid(0.0), sigmoid(-1e6), sigmoid(1e6)
    (0.5, 0.0, 1.0)
    """
    if log_odds >= 0.0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    odds = math.exp(log_odds)
    return odds / (1.0 + odds)
