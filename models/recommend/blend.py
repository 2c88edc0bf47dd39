"""The recommender of a snapshot: from a person's last items to a few items with reasons.

Neighbours of the last items, weighted by how recent each of those is, filled up with what is popular now. Everything
is precomputed and frozen, so an answer depends on its arguments and the snapshot's version alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.recommend.covisitation import ALPHA, INDEX, CoVisitation, Pairs
from models.recommend.popularity import Popularity, strongest
from schemas.trigger import RecommendedItem

SEEDS: Final = 5
"""How many of the last items are looked at."""
FADE: Final = 0.7
"""How much less each older one of them counts."""
NEIGHBOURS: Final = 20
"""How many neighbours of an item a snapshot keeps."""
POPULAR: Final = 200
"""How many popular items a snapshot keeps to fill up with."""
SCORE: Final = np.dtype("<f4")

BOUGHT_WITH: Final = "often bought with "
LOOKED_AT_WITH: Final = "often looked at with "


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """The scoring form: items in the order of their ids; the neighbours of item i are entries `ends[i-1]:ends[i]`.

    `neighbours` (item numbers) and `scores` are little-endian arrays, strongest first; `popular` holds (item number,
    share of the most popular item's count), `bought` the numbers of the items that are mostly bought.
    """

    items: tuple[str, ...]
    ends: bytes
    neighbours: bytes
    scores: bytes
    popular: list[tuple[int, float]]
    bought: list[int]


class Recommender:
    """Recommends from a frozen snapshot.

    >>> from schemas.example import Interaction
    >>> popularity, covisitation = Popularity(), CoVisitation()
    >>> for item, before in (("tea", ()), ("cup", ("tea",)), ("bag", ())):
    ...     touch = Interaction(item_id=item, role="conversion", ts=0, partition=0, offset=0, index=0, before=before)
    ...     popularity.learn(touch)
    ...     covisitation.learn(touch)
    >>> recommender = Recommender(freeze(popularity, covisitation))
    >>> [(item.item_id, item.reason) for item in recommender.recommend(("tea",), {"tea"}.__contains__, 3)]
    [('cup', 'often bought with tea'), ('bag', 'popular now')]
    """

    def __init__(self, frozen: Frozen) -> None:
        """Recommend from `frozen`; raises ValueError where its parts do not fit together."""
        self.frozen = frozen
        self._items = frozen.items
        self._bought = frozenset(frozen.bought)
        ends = np.frombuffer(frozen.ends, INDEX).tolist()
        self._spans = dict(zip(frozen.items, pairwise([0, *ends]), strict=False))
        self._neighbours = np.frombuffer(frozen.neighbours, INDEX)
        # Negative, so that sorting in ascending order puts the best first and equal ones by number, so by item id.
        self._losses = -np.frombuffer(frozen.scores, SCORE).astype(np.float64)
        entries = ends[-1] if ends else 0
        if not (len(ends) == len(frozen.items) and entries == len(self._neighbours) == len(self._losses)):
            raise ValueError("a recommender's items, neighbours and scores differ in length")

    def recommend(
        self, last_items: tuple[str, ...], exclude: Callable[[str], bool], k: int
    ) -> tuple[RecommendedItem, ...]:
        """At most `k` items for a person whose `last_items` are given newest first; best first, ties by item id.

        `exclude(item_id)` is asked about every candidate, the last items among them: what it says yes to is never
        returned. A neighbour's score is the sum of its cosines with the last items, older ones fading; unknown last
        items count for nothing. A popular item that fills up scores its share of the weakest neighbour's score.
        """
        seeds = {item: row for item in last_items[:SEEDS] if (row := self._find_row(item))}
        losses = _blend(seeds.values())
        found: list[RecommendedItem] = []
        for number in sorted(sorted(losses), key=losses.__getitem__):
            if len(found) == k:
                return tuple(found)
            item = self._items[number]
            if not exclude(item):
                reason = self._reason(number, seeds)
                found.append(RecommendedItem(item_id=item, score=-losses[number], reason=reason))
        weakest = found[-1].score if found else 1.0
        for number, share in self.frozen.popular:
            if len(found) == k:
                break
            item = self._items[number]
            if number not in losses and not exclude(item):
                found.append(RecommendedItem(item_id=item, score=share * weakest, reason="popular now"))
        return tuple(found)

    def to_bytes(self) -> bytes:
        """The scoring form as msgpack."""
        return msgspec.msgpack.encode(self.frozen)

    @classmethod
    def from_bytes(cls, data: bytes) -> Recommender:
        """The recommender that wrote `data`; raises msgspec.DecodeError or ValueError for anything else."""
        return cls(msgspec.msgpack.decode(data, type=Frozen))

    def _find_row(self, item: str) -> dict[int, float]:
        """The neighbours of an item with their losses; made when asked for, because few of them ever are."""
        start, end = self._spans.get(item, (0, 0))
        return dict(zip(self._neighbours[start:end].tolist(), self._losses[start:end].tolist(), strict=True))

    def _reason(self, number: int, seeds: Mapping[str, dict[int, float]]) -> str:
        """Names the seed that spoke for the item most."""
        best, recency, named = 0.0, 1.0, ""
        for seed, row in seeds.items():
            loss = row.get(number, 0.0) * recency
            recency *= FADE
            if loss < best:
                best, named = loss, seed
        return f"{BOUGHT_WITH if number in self._bought else LOOKED_AT_WITH}{named}"


def find_companion(reason: str) -> str | None:
    """The item that a reason names besides the one that it is given for; None where it names none.

    >>> find_companion("often bought with tea"), find_companion("popular now")
    ('tea', None)
    """
    for opening in (BOUGHT_WITH, LOOKED_AT_WITH):
        if reason.startswith(opening):
            return reason.removeprefix(opening)
    return None


def _blend(rows: Iterable[dict[int, float]]) -> dict[int, float]:
    """Sum of the rows by item number, each counting less than the one before it."""
    losses: dict[int, float] = {}
    recency = 1.0
    for row in rows:
        for number, loss in row.items():
            if number in losses:
                losses[number] += loss * recency
            else:
                losses[number] = loss * recency
        recency *= FADE
    return losses


def freeze(popularity: Popularity, covisitation: CoVisitation) -> Frozen:
    """The scoring form of what is known now: the strongest neighbours of every item, and the most popular items."""
    popular = strongest(popularity.shares(), POPULAR)
    pairs = covisitation.pairs()
    items = sorted({*pairs.items, *(item for item, _ in popular)})
    number = {item: n for n, item in enumerate(items)}
    rows, neighbours, scores = _strongest_pairs(pairs, np.array([number[item] for item in pairs.items], np.int64))
    return Frozen(
        items=tuple(items),
        ends=np.cumsum(np.bincount(rows, minlength=len(items))).astype(INDEX).tobytes(),
        neighbours=neighbours.astype(INDEX).tobytes(),
        scores=scores.astype(SCORE).tobytes(),
        popular=[(number[item], share) for item, share in popular],
        bought=[n for n, item in enumerate(items) if popularity.mostly_bought(item)],
    )


def _strongest_pairs(pairs: Pairs, number: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Rows, neighbours (both as new item numbers) and scores of the pairs to keep, row by row, strongest first."""
    damped = np.maximum(pairs.counts, np.finfo(np.float64).tiny) ** ALPHA
    width = max(int(pairs.lengths.max(initial=0)), NEIGHBOURS)
    # One line an item, filled up with zeros, so that all lines are cut in one call.
    held = np.arange(width) < pairs.lengths[:, None]
    scores: NDArray[Any] = np.zeros(held.shape)
    neighbours: NDArray[Any] = np.zeros(held.shape, np.int64)
    scores[held] = pairs.weights / np.repeat(damped, pairs.lengths) / damped[pairs.neighbours]
    neighbours[held] = number[pairs.neighbours]
    best = np.argpartition(scores, width - NEIGHBOURS, axis=1)[:, width - NEIGHBOURS :]
    scores, neighbours = (np.take_along_axis(of, best, axis=1).ravel() for of in (scores, neighbours))
    rows = np.repeat(number, NEIGHBOURS)
    order = np.lexsort((neighbours, -scores, rows))
    order = order[scores[order] > 0.0]
    return rows[order], neighbours[order], scores[order]
