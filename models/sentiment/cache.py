"""A bounded memory of scores, least recently used first out, that holds no text and nothing to guess one from.

Keys are digests under a key drawn for each cache and kept in it alone: whoever reads a memory dump's keys cannot try
texts against them without it.
"""

import hashlib
import os
from collections import OrderedDict
from typing import Final

from models.sentiment.transformer import Sentiment

CAPACITY: Final = 50_000
"""Cached scores by default; some 300 bytes each."""


class ScoreCache:
    """`hits` and `misses` count what `get` found and did not. For one thread."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        """Keep at most `capacity` scores; 0 keeps none. Raises `ValueError` below that."""
        if capacity < 0:
            raise ValueError(f"capacity: found {capacity}, expected at least 0")
        self.hits = 0
        self.misses = 0
        self._capacity = capacity
        self._secret = os.urandom(32)
        self._scores: OrderedDict[bytes, Sentiment] = OrderedDict()

    def __len__(self) -> int:
        return len(self._scores)

    @property
    def hit_ratio(self) -> float:
        """Share of `get`s that found a score, 0.0 before the first."""
        return self.hits / max(1, self.hits + self.misses)

    def key(self, line: str, maker: str) -> bytes:
        """Return the key of a normalised text as scored by `maker`: the level, route and versions, in words."""
        return hashlib.blake2b(f"{maker}\n{line}".encode(), digest_size=16, key=self._secret).digest()

    def get(self, key: bytes) -> Sentiment | None:
        """Return the score kept under `key`, and keep it longer."""
        found = self._scores.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._scores.move_to_end(key)
        return found

    def put(self, key: bytes, scored: Sentiment) -> None:
        """Keep a score; the one that was longest unused goes when there is no room."""
        self._scores[key] = scored
        self._scores.move_to_end(key)
        if len(self._scores) > self._capacity:
            self._scores.popitem(last=False)
