"""Quantile bins and crosses: a row of floats in, the slots of a weight table out.

Fitted once, on the rows of a warm-up, and fixed from then on: the bins belong to the weights that were learned on them.
A row has the same slots whether it comes alone or in a batch. Columns named as categorical hold codes, not quantities;
NaN means missing and has a bin of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import combinations
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Slots = NDArray[np.int64]
Hashes = NDArray[np.uint64]

BITS: Final = 16
"""The hashed part of a table has two to this power slots."""
HASHED: Final = 1 << BITS
FINE: Final = 32
COARSE: Final = 8
"""Bins of a feature by itself, and of a feature in a cross."""
MISSING: Final = FINE
CROSSED: Final = 8
"""Every two of this many strongest features are crossed."""
CLIP: Final = 5.0
"""Linear terms are bounded at this many standard deviations of the warm-up."""

_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_FINISH: Final = np.uint64(0xBF58476D1CE4E5B9)
_FOLD: Final = np.uint64(29)
_SHIFT: Final = np.uint64(64 - BITS)


class Layout(msgspec.Struct, frozen=True, array_like=True):
    """What bins are made from again: one entry a column, `edges` None for a categorical one.

    `scales` is 0 for a column without a linear term; `strongest` are the columns that are crossed, in their order.
    """

    edges: tuple[tuple[float, ...] | None, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    strongest: tuple[int, ...]


class Bins:
    """The slots of a row: one a column, one a cross, one a linear term, and one for the bias at the end.

    >>> import numpy as np
    >>> rows = np.array([[1.0, 7.0], [2.0, 8.0], [3.0, 7.0], [4.0, 8.0]])
    >>> bins = Bins(fit(rows, np.array([0.0, 0.0, 1.0, 1.0]), np.ones(4), categorical=(1,)))
    >>> slots, values = bins.encode(rows[2])
    >>> len(slots), values.ravel().round(2).tolist()
    (5, [1.0, 1.0, 1.0, 0.45, 1.0])
    """

    def __init__(self, layout: Layout) -> None:
        """Bins as `layout` says."""
        self.layout = layout
        self.columns = len(layout.edges)
        self.size = HASHED + self.columns + 1
        """Slots of a table for these bins."""
        self._numeric = [j for j, edges in enumerate(layout.edges) if edges is not None]
        self._edges = [edges for edges in layout.edges if edges is not None]
        self._categorical = np.array([j for j, edges in enumerate(layout.edges) if edges is None], np.int64)
        codes = _codes(self._numeric, self._edges)
        self._flat = codes.reshape(-1, 2)
        self._cuts = [np.array(edges, np.float64) for edges in self._edges]
        self._sides = np.ascontiguousarray(codes.swapaxes(1, 2))
        self._offsets = np.arange(len(self._numeric)) * (FINE + 1)
        self._salts = _mix(np.arange(self.columns, dtype=np.uint64)[self._categorical] + np.uint64(1 << 20))
        pairs = list(combinations(layout.strongest, 2))
        self._left, self._right = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
        self._order = np.argsort(np.concatenate([np.array(self._numeric, np.int64), self._categorical]))
        self._linear = np.array([j for j in self._numeric if layout.scales[j] > 0.0], np.int64)
        self._means = np.array(layout.means)[self._linear]
        self._scales = np.array(layout.scales)[self._linear]
        self.width = self.columns + len(pairs) + len(self._linear) + 1
        """Slots of a row."""
        self._slots = np.empty(self.width, np.int64)
        self._slots[self.columns + len(pairs) : -1] = HASHED + self._linear
        self._slots[-1] = HASHED + self.columns
        self._values = np.ones((self.width, 1))

    def encode(self, row: Floats) -> tuple[Slots, Floats]:
        """Slots, shape (width,), and what each counts, shape (width, 1), of `row`, shape (columns,)."""
        listed = row.tolist()
        tokens = [
            bisect_right(edges, x) if (x := listed[j]) == x else MISSING
            for j, edges in zip(self._numeric, self._edges, strict=True)
        ]
        coded = self._flat[self._offsets + tokens] if tokens else np.empty((0, 2), np.uint64)
        if len(self._categorical):
            codes = _code(row[self._categorical], self._salts)
            coded = np.concatenate([coded, np.stack([codes, codes], axis=-1)])[self._order]
        slots, values = self._slots.copy(), self._values.copy()
        crossed = self.columns + len(self._left)
        slots[: self.columns] = coded[:, 0] >> _SHIFT
        coarse = coded[:, 1]
        slots[self.columns : crossed] = _mix(coarse[self._left] * _MULTIPLIER + coarse[self._right]) >> _SHIFT
        values[crossed:-1, 0] = self._terms(row[self._linear])
        return slots, values

    def encode_batch(self, rows: Floats) -> tuple[Slots, Floats]:
        """Slots, shape (n, width), and what each counts, shape (n, width, 1), of `rows`, shape (n, columns)."""
        # A column of all rows after the other: what follows takes a slot of all of them after the other too.
        columns = np.ascontiguousarray(rows.T)
        fine, coarse = np.empty((2, self.columns, len(rows)), np.uint64)
        for j, edges, (codes, crossing) in zip(self._numeric, self._cuts, self._sides, strict=True):
            tokens = np.searchsorted(edges, columns[j], side="right")
            tokens[np.isnan(columns[j])] = MISSING
            codes.take(tokens, out=fine[j], mode="clip")
            if j in self.layout.strongest:
                crossing.take(tokens, out=coarse[j], mode="clip")
        for j, salt in zip(self._categorical, self._salts, strict=True):
            fine[j] = coarse[j] = _code(columns[j], salt)
        slots = np.repeat(self._slots[:, None], len(rows), axis=1)
        values = np.ones((self.width, len(rows)))
        crossed = self.columns + len(self._left)
        slots[: self.columns] = fine >> _SHIFT
        slots[self.columns : crossed] = _mix(coarse[self._left] * _MULTIPLIER + coarse[self._right]) >> _SHIFT
        values[crossed:-1] = self._terms(columns[self._linear].T).T
        return slots.T, values.T[:, :, None]

    def owners(self) -> tuple[tuple[int, ...], ...]:
        """For each slot of a row the columns that it speaks of: none for the bias, two for a cross."""
        own = [(j,) for j in range(self.columns)]
        crosses = list(combinations(self.layout.strongest, 2))
        return (*own, *crosses, *((int(j),) for j in self._linear), ())

    def _terms(self, values: Floats) -> Floats:
        terms: Floats = (values - self._means) * self._scales
        terms[np.isnan(terms)] = 0.0
        np.minimum(np.maximum(terms, -CLIP, out=terms), CLIP, out=terms)
        return terms


def fit(rows: Floats, labels: Floats, weights: Floats, categorical: Sequence[int] = ()) -> Layout:
    """Bins for rows like these, shape (n, columns), whose labels (0 or 1) and weights have the shape (n,).

    Edges are quantiles of a column's *unique* values, so that a value as frequent as zero does not take all bins.
    """
    columns = range(rows.shape[1])
    known = [rows[:, j][np.isfinite(rows[:, j])] for j in columns]
    edges = tuple(None if j in categorical else _edges(known[j]) for j in columns)
    spread = [0.0 if j in categorical or not len(known[j]) else float(known[j].std()) for j in columns]
    layout = Layout(
        edges=edges,
        means=tuple(float(values.mean()) if len(values) else 0.0 for values in known),
        scales=tuple(1.0 / of if of > 1e-12 else 0.0 for of in spread),
        strongest=(),
    )
    bins = Bins(layout)
    slots, _ = bins.encode_batch(rows)
    gains = [_information(slots[:, j], labels, weights) for j in columns]
    strongest = sorted(sorted(columns, key=lambda j: (-gains[j], j))[:CROSSED])
    return msgspec.structs.replace(layout, strongest=tuple(strongest))


def _edges(values: Floats) -> tuple[float, ...]:
    unique = np.unique(values)
    if not len(unique):
        return ()
    inner = (unique[1:] + unique[:-1]) / 2.0
    if len(inner) > FINE - 3:
        inner = np.quantile(unique, np.arange(1, FINE - 2) / (FINE - 2))
    # What lies outside of all that was seen has bins of its own: a column may begin to vary only later.
    outer = [unique[0], np.nextafter(unique[-1], np.inf)]
    return tuple(np.unique(np.concatenate([inner, outer])).tolist())


def _codes(numeric: Sequence[int], edges: Sequence[Sequence[float]]) -> Hashes:
    """Hash of each bin, fine and coarse, shape (numeric columns, FINE + 1, 2); the last is of a missing value."""
    tokens = np.arange(FINE + 1)
    codes = np.empty((len(numeric), FINE + 1, 2), np.uint64)
    for place, (j, of) in enumerate(zip(numeric, edges, strict=True)):
        bins = len(of) + 1
        # A column of few values, such as a count, keeps them apart.
        coarse = tokens if bins <= 2 * COARSE else tokens * COARSE // bins
        coarse[MISSING:] = MISSING
        for side, each in enumerate((tokens, coarse)):
            codes[place, :, side] = _mix(each.astype(np.uint64) + np.uint64(((2 * j + side) << 8) + (1 << 32)))
    return codes


def _code(values: Floats, salts: Hashes) -> Hashes:
    """Hash of each of some codes, by its column's salt."""
    # Adding zero turns -0.0 into 0.0; every NaN is made the same one.
    clean = np.where(np.isnan(values), np.nan, values + 0.0)
    return _mix(clean.view(np.uint64) ^ salts)


def _mix(codes: Hashes) -> Hashes:
    mixed = codes * _MULTIPLIER
    mixed ^= mixed >> _FOLD
    mixed *= _FINISH
    mixed ^= mixed >> _FOLD
    mixed *= _MULTIPLIER
    return mixed


def _information(slots: Slots, labels: Floats, weights: Floats) -> float:
    """Mutual information of a column's bins with the label, less what chance alone would give (Miller, 1955)."""
    _, place = np.unique(slots, return_inverse=True)
    rows: Floats = np.bincount(place, weights).astype(np.float64)
    positives: Floats = np.bincount(place, weights * labels).astype(np.float64)
    total = rows.sum()
    if total <= 0.0:
        return 0.0
    rate = min(max(positives.sum() / total, 1e-9), 1.0 - 1e-9)
    gain = _divergence(positives, rows * rate) + _divergence(rows - positives, rows * (1.0 - rate))
    return float(gain / total - (len(rows) - 1) / (2.0 * total))


def _divergence(seen: Floats, expected: Floats) -> float:
    some = seen > 0.0
    return float((seen[some] * np.log(seen[some] / expected[some])).sum())
