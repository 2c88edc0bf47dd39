"""Co-visitation: which items are touched by the same person within a few steps of each other.

Pairs are counted in both directions, older ones less, and damped by how common the neighbour is, so that what
everybody buys is not everything's neighbour. Linden et al., "Amazon.com Recommendations: Item-to-Item Collaborative
Filtering", IEEE Internet Computing 2003; the damping is that of Deshpande and Karypis, "Item-Based Top-N
Recommendation Algorithms", ACM TOIS 2004.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, islice
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.recommend.decay import ForwardDecay
from models.recommend.popularity import SLACK, strongest
from schemas.example import Interaction

HALF_LIFE: Final = 60 * 86_400_000
"""Half-life of a pair, in milliseconds of event time (sixty days): what goes together changes slowly."""
ALPHA: Final = 0.5
"""Damping of common neighbours: 0 is none, 1 divides by their whole count; with 0.5 the result is a cosine."""
FADE: Final = 0.7
"""How much less each earlier item counts than the one touched after it."""
STEPS: Final = 5
"""How many of the items touched before are paired with an item."""
INDEX: Final = np.dtype("<u4")
WEIGHT: Final = np.dtype("<f8")


class Pairs(NamedTuple):
    """All pairs, flat: for item number i, `lengths[i]` entries of `neighbours` (item numbers) and `weights`."""

    items: tuple[str, ...]
    counts: NDArray[np.float64]
    lengths: NDArray[np.uint32]
    neighbours: NDArray[np.uint32]
    weights: NDArray[np.float64]


class CoVisitationState(msgspec.Struct, frozen=True):
    """What a `CoVisitation` is restored from; the arrays of `Pairs` as little-endian bytes."""

    bound: int
    neighbours_bound: int
    half_life: int
    landmark: int | None
    latest: int
    items: tuple[str, ...]
    counts: bytes
    lengths: bytes
    neighbours: bytes
    weights: bytes


class CoVisitation:
    """Decayed pair counts of at most `bound` items with `neighbours_bound` each (more between two cuts).

    >>> covisitation = CoVisitation()
    >>> touch = Interaction(item_id="cup", role="view", ts=0, partition=0, offset=0, index=0, before=("tea",))
    >>> covisitation.learn(touch)
    >>> covisitation.neighbours("tea")
    {'cup': 1.0}
    """

    def __init__(self, bound: int = 20_000, neighbours_bound: int = 30, half_life: int = HALF_LIFE) -> None:
        """Bounds on items and on neighbours of each; `half_life` in milliseconds."""
        self.bound = bound
        self.neighbours_bound = neighbours_bound
        # Item id -> number, in the order of the numbers; counts and rows are by number.
        self._numbers: dict[str, int] = {}
        self._counts: list[float] = []
        self._rows: list[defaultdict[int, float]] = []
        self._decay = ForwardDecay(half_life)

    def __len__(self) -> int:
        return len(self._rows)

    def learn(self, interaction: Interaction) -> None:
        """Count the item and its pairs with the newest touched before it; an item is never its own neighbour."""
        weight = self._decay.weight(interaction.ts)
        number = self._number(interaction.item_id)
        self._counts[number] += weight
        rows = self._rows
        row = rows[number]
        longest = 2 * self.neighbours_bound
        for item in interaction.before[:STEPS]:
            earlier = self._numbers.get(item)
            if earlier is None:
                earlier = self._number(item)
                # Known from `before` alone: it was touched, and about then.
                self._counts[earlier] = weight
            if earlier != number:
                row[earlier] += weight
                back = rows[earlier]
                back[number] += weight
                if len(back) > longest:
                    self._cut(back)
            weight *= FADE
        if len(row) > longest:
            self._cut(row)
        if len(rows) > self.bound * SLACK:
            self._forget()
        if (factor := self._decay.rebase()) is not None:
            self._scale(factor)

    def neighbours(self, item: str) -> dict[str, float]:
        """The pair counts of one item, in no particular order; empty for an unknown one."""
        number = self._numbers.get(item)
        if number is None:
            return {}
        items = tuple(self._numbers)
        return {items[other]: weight for other, weight in self._rows[number].items()}

    def pairs(self) -> Pairs:
        """All pairs, flat; a copy."""
        lengths = np.fromiter(map(len, self._rows), INDEX, len(self._rows))
        size = int(lengths.sum())
        return Pairs(
            tuple(self._numbers),
            np.array(self._counts, WEIGHT),
            lengths,
            np.fromiter(chain.from_iterable(self._rows), INDEX, size),
            np.fromiter(chain.from_iterable(row.values() for row in self._rows), WEIGHT, size),
        )

    def state(self) -> CoVisitationState:
        """A copy of the state."""
        pairs, decay = self.pairs(), self._decay
        return CoVisitationState(
            self.bound,
            self.neighbours_bound,
            decay.half_life,
            decay.landmark,
            decay.latest,
            pairs.items,
            *(array.tobytes() for array in pairs[1:]),
        )

    @classmethod
    def restore(cls, state: CoVisitationState) -> CoVisitation:
        """A co-visitation that goes on exactly where `state` was taken."""
        covisitation = cls(state.bound, state.neighbours_bound, state.half_life)
        covisitation._decay = ForwardDecay(state.half_life, state.landmark, state.latest)
        covisitation._numbers = {item: number for number, item in enumerate(state.items)}
        covisitation._counts = np.frombuffer(state.counts, WEIGHT).tolist()
        entries = zip(
            np.frombuffer(state.neighbours, INDEX).tolist(), np.frombuffer(state.weights, WEIGHT).tolist(), strict=True
        )
        for length in np.frombuffer(state.lengths, INDEX).tolist():
            covisitation._rows.append(defaultdict(float, islice(entries, length)))
        return covisitation

    def _number(self, item: str) -> int:
        number = self._numbers.setdefault(item, len(self._rows))
        if number == len(self._rows):
            self._rows.append(defaultdict(float))
            self._counts.append(0.0)
        return number

    def _cut(self, row: defaultdict[int, float]) -> None:
        """Leave the strongest neighbours; of equal ones at the edge, those that came first."""
        weakest = sorted(row.values())[-self.neighbours_bound]
        kept = [entry for entry in row.items() if entry[1] > weakest]
        equal = (entry for entry in row.items() if entry[1] == weakest)
        kept += islice(equal, self.neighbours_bound - len(kept))
        row.clear()
        row.update(kept)

    def _forget(self) -> None:
        """Leave the items with the highest counts, renumbered."""
        kept = strongest(dict(zip(self._numbers, self._counts, strict=True)), self.bound)
        renumbered = {self._numbers[item]: number for number, (item, _) in enumerate(kept)}
        rows = [self._rows[old] for old in renumbered]
        self._numbers = {item: number for number, (item, _) in enumerate(kept)}
        self._counts = [count for _, count in kept]
        self._rows = [
            defaultdict(float, ((renumbered[n], w) for n, w in row.items() if n in renumbered)) for row in rows
        ]

    def _scale(self, factor: float) -> None:
        self._counts = [count * factor for count in self._counts]
        self._rows = [defaultdict(float, ((n, w * factor) for n, w in row.items())) for row in self._rows]
