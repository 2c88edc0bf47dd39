"""Recent popularity: how often each item was touched lately, older touches counting less."""

from __future__ import annotations

from typing import Final

import msgspec

from models.recommend.decay import ForwardDecay
from schemas.example import Interaction

HALF_LIFE: Final = 7 * 86_400_000
"""Half-life of a touch, in milliseconds of event time (seven days)."""
SLACK: Final = 1.25
"""How far a bounded collection may outgrow its bound before it is cut back, so that cutting is rare."""


class PopularityState(msgspec.Struct, frozen=True):
    """What a `Popularity` is restored from. `counts` keeps its order: it decides nothing but the state's own bytes."""

    bound: int
    half_life: int
    landmark: int | None
    latest: int
    counts: dict[str, float]
    bought: dict[str, float]


class Popularity:
    """Decayed counts of at most `bound` items (a quarter more between two cuts), the least popular forgotten first.

    >>> popularity = Popularity()
    >>> for item, ts in (("cup", 0), ("bag", 0), ("cup", 1)):
    ...     popularity.learn(Interaction(item_id=item, role="view", ts=ts, partition=0, offset=0, index=0))
    >>> {item: round(share, 2) for item, share in popularity.shares().items()}
    {'cup': 1.0, 'bag': 0.5}
    """

    def __init__(self, bound: int = 20_000, half_life: int = HALF_LIFE) -> None:
        """Keep `bound` items; `half_life` in milliseconds."""
        self.bound = bound
        self.counts: dict[str, float] = {}
        self.bought: dict[str, float] = {}
        self._decay = ForwardDecay(half_life)

    def learn(self, interaction: Interaction) -> None:
        """Count one touch at the interaction's own time; a late one counts for less."""
        weight = self._decay.weight(interaction.ts)
        counts = self.counts
        item = interaction.item_id
        counts[item] = counts.get(item, 0.0) + weight
        if interaction.role == "conversion":
            self.bought[item] = self.bought.get(item, 0.0) + weight
        if len(counts) > self.bound * SLACK:
            self._forget()
        if (factor := self._decay.rebase()) is not None:
            self.counts = {item: count * factor for item, count in self.counts.items()}
            self.bought = {item: count * factor for item, count in self.bought.items()}

    def mostly_bought(self, item: str) -> bool:
        """Whether at least half of an item's touches were conversions."""
        return self.bought.get(item, 0.0) >= 0.5 * self.counts.get(item, 1.0)

    def shares(self) -> dict[str, float]:
        """Every item's count relative to the most popular one's, which is 1."""
        top = max(self.counts.values(), default=1.0)
        return {item: count / top for item, count in self.counts.items()}

    def state(self) -> PopularityState:
        """The state; it shares the counts with this object, so encode it before the next `learn`."""
        decay = self._decay
        return PopularityState(self.bound, decay.half_life, decay.landmark, decay.latest, self.counts, self.bought)

    @classmethod
    def restore(cls, state: PopularityState) -> Popularity:
        """A popularity that goes on exactly where `state` was taken."""
        popularity = cls(state.bound, state.half_life)
        popularity.counts = state.counts
        popularity.bought = state.bought
        popularity._decay = ForwardDecay(state.half_life, state.landmark, state.latest)
        return popularity

    def _forget(self) -> None:
        self.counts = dict(strongest(self.counts, self.bound))
        self.bought = {item: count for item, count in self.bought.items() if item in self.counts}


def strongest(counts: dict[str, float], k: int) -> list[tuple[str, float]]:
    """The `k` largest counts in descending order, equal ones by item id.

    >>> strongest({"b": 1.0, "c": 2.0, "a": 1.0}, 2)
    [('c', 2.0), ('a', 1.0)]
    """
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:k]
