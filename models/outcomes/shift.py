"""Shift: whether the rows that a model is asked about have changed, by the population stability index of every column.

One row in `EVERY` is kept, the newest `BLOCK` of these; each full block is compared with a baseline, the block with
which the watch began or the one that was found shifted last. The index is the Jeffreys divergence of two histograms, as
credit scoring watches its applicants with (N. Siddiqi, "Credit Risk Scorecards", 2006, ch. 6: below 0.1 is steady,
above 0.25 has shifted).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

EVERY: Final = 8
"""Of so many rows one is looked at."""
BLOCK: Final = 500
"""Rows looked at that are compared at once: two such blocks of one world differ by 0.04 or so."""
SHIFTED: Final = 0.25
"""Index above which a column has shifted."""
PARTS: Final = 10
"""Bins of a column of numbers, by quantiles of the baseline; codes told apart beside the rest."""
COMMON: Final = 0.05
"""Share of the rows from which on a single number has a bin of its own."""


class Column(msgspec.Struct, frozen=True, array_like=True):
    """A column's baseline: upper ends of its bins, or the codes told apart, and their counts; the last is the rest."""

    ends: tuple[float, ...]
    counts: tuple[int, ...]


class ShiftState(msgspec.Struct, frozen=True, kw_only=True):
    """What a `Shift` is restored from; rows as little-endian float64."""

    seen: int = 0
    rows: bytes = b""
    baseline: tuple[Column, ...] = ()
    psi: tuple[float, ...] = ()
    found: int = 0
    severity: float = 0.0


class Shift:
    """Watches the rows of one outcome.

    `psi` is each column's index in the newest full block, empty before there are two; `found` counts the blocks that
    had shifted, and `severity` is the highest index of the last of them.

    >>> watch = Shift(columns=1)
    >>> any(watch.add((float(n % 20),)) for n in range(3 * EVERY * BLOCK)), round(watch.psi[0], 2)
    (False, 0.0)
    >>> any(watch.add((float(n % 20 + 10),)) for n in range(EVERY * BLOCK)), watch.found
    (True, 1)
    """

    def __init__(self, columns: int, categorical: Collection[int] = (), moving: Collection[int] = ()) -> None:
        """Watch rows of `columns`; those in `categorical` are codes, and no move of those in `moving` is news."""
        self.found = 0
        self.severity = 0.0
        self.psi: tuple[float, ...] = ()
        self._categorical = frozenset(categorical)
        self._watched = [place for place in range(columns) if place not in moving]
        self._columns = columns
        self._seen = 0
        self._rows: deque[Sequence[float]] = deque(maxlen=BLOCK)
        self._baseline: tuple[Column, ...] = ()

    def add(self, row: Sequence[float]) -> bool:
        """Take one row in; whether with it a block ends that has shifted."""
        self._seen += 1
        if self._seen % EVERY:
            return False
        self._rows.append(row)
        return self._seen % (EVERY * BLOCK) == 0 and self._compare()

    @property
    def worst(self) -> float:
        """The highest index of the newest full block, of the columns whose moves are news; 0.0 before there is one."""
        return max([self.psi[place] for place in self._watched if self.psi], default=0.0)

    @property
    def shifted(self) -> list[int]:
        """Places of the columns that had shifted in the newest full block, those aside whose moves are no news."""
        return [place for place in self._watched if self.psi and self.psi[place] > SHIFTED]

    def rows(self) -> npt.NDArray[np.float64]:
        """The newest rows that were looked at, (at most `BLOCK`, columns)."""
        return np.array(self._rows, np.float64).reshape(-1, self._columns)

    def state(self) -> ShiftState:
        """Everything."""
        return ShiftState(
            seen=self._seen,
            rows=self.rows().astype("<f8").tobytes(),
            baseline=self._baseline,
            psi=self.psi,
            found=self.found,
            severity=self.severity,
        )

    def resume(self, state: ShiftState) -> None:
        """Go on as the watch that wrote `state`, to the bit; one of the same columns."""
        self._seen, self._baseline, self.psi = state.seen, state.baseline, state.psi
        self.found, self.severity = state.found, state.severity
        self._rows.clear()
        self._rows.extend(map(tuple, np.frombuffer(state.rows, "<f8").reshape(-1, self._columns).tolist()))

    def _compare(self) -> bool:
        rows = self.rows()
        if not self._baseline:
            self._begin(rows)
            return False
        counted = [self._count(place, known.ends, rows[:, place]) for place, known in enumerate(self._baseline)]
        self.psi = tuple(
            [measure_stability(known.counts, counts) for known, counts in zip(self._baseline, counted, strict=True)]
        )
        if self.worst <= SHIFTED:
            return False
        self.found += 1
        self.severity = self.worst
        self._begin(rows)
        return True

    def _begin(self, rows: npt.NDArray[np.float64]) -> None:
        ends = [self._divide(place, rows[:, place]) for place in range(self._columns)]
        self._baseline = tuple([Column(of, self._count(place, of, rows[:, place])) for place, of in enumerate(ends)])

    def _divide(self, place: int, values: npt.NDArray[np.float64]) -> tuple[float, ...]:
        if place in self._categorical:
            codes, counts = np.unique(values, return_counts=True)
            return tuple(sorted(codes[np.argsort(-counts, kind="stable")][: PARTS - 1].tolist()))
        ends = np.unique(np.quantile(values, np.arange(1, PARTS) / PARTS, method="lower"))
        common = [end for end in ends if np.mean(values == end) >= COMMON]
        return tuple(np.unique([*ends, *np.nextafter(common, -np.inf)]).tolist())

    def _count(self, place: int, ends: tuple[float, ...], values: npt.NDArray[np.float64]) -> tuple[int, ...]:
        bins = np.searchsorted(ends, values)
        if place in self._categorical:
            known = np.isin(values, ends)
            bins = np.where(known, bins, len(ends))
        return tuple(np.bincount(bins, minlength=len(ends) + 1).tolist())


def measure_stability(before: Sequence[int], after: Sequence[int]) -> float:
    """Population stability index of two histograms over the same bins, half a row added to each bin.

    >>> measure_stability((50, 50), (500, 500)), round(measure_stability((50, 50), (80, 20)), 2)
    (0.0, 0.41)
    """
    said, seen = np.asarray(before, float) + 0.5, np.asarray(after, float) + 0.5
    said, seen = said / said.sum(), seen / seen.sum()
    return float(np.sum((seen - said) * np.log(seen / said)))
