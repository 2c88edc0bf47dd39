"""Texts in, `Sentiment`s out, by the cheapest scorer that can answer: cache, then transformer, else word table.

Synchronous and CPU-bound: one worker thread calls it, off the event loop. It never raises on a text; what the
transformer could not answer comes from the lexicon and is counted. No text is kept, only a keyed digest of it.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from models.sentiment.lexicon import Lexicon
from models.sentiment.text import normalise
from models.sentiment.transformer import Sentiment, Transformer, WeightsError

CAPACITY: Final = 50_000
"""Cached scores by default; some 300 bytes each."""


class Cascade:
    """A bounded cache before the transformer, the lexicon behind it.

    The transformer is loaded by the first `load` or `score_many`, once, whoever comes first; others wait for it, so
    that no score depends on how fast the model loaded. If it cannot be loaded, that stands until the process ends.

    `hits` and `misses` count texts answered from the cache and not; `failures` texts that the transformer should
    have answered and the lexicon did; `error` says why the model is not there, None while all is well.
    """

    def __init__(self, folder: Path | None = None, capacity: int = CAPACITY) -> None:
        """Take weights from `folder` (default: what ships) and keep at most `capacity` scores.

        Raises `ValueError` for a capacity below one, `WeightsError` when nudge's own word table cannot be read.
        """
        if capacity < 1:
            raise ValueError(f"capacity: found {capacity}, expected at least 1")
        self.hits = 0
        self.misses = 0
        self.failures = 0
        self.error: str | None = None
        self._folder = folder
        self._capacity = capacity
        self._lexicon = Lexicon.load()
        self._transformer: Transformer | None = None
        self._tried = False
        self._loading = threading.Lock()
        self._scoring = threading.Lock()
        self._cache: OrderedDict[bytes, Sentiment] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of scores in the cache."""
        return len(self._cache)

    @property
    def model(self) -> str | None:
        """Version of what answers: the transformer, or the lexicon if that could not be loaded; None before `load`."""
        if not self._tried:
            return None
        return self._transformer.version if self._transformer is not None else self._lexicon.version

    @property
    def loaded(self) -> bool:
        """Whether the transformer is there."""
        return self._transformer is not None

    def load(self) -> bool:
        """Load the transformer unless that was tried; return whether it is there. Blocks for about a second."""
        with self._loading:
            if not self._tried:
                try:
                    self._transformer = Transformer.load(self._folder)
                except WeightsError as error:
                    self.error = str(error)
                self._tried = True
        return self.loaded

    def score_many(self, texts: Sequence[str]) -> list[Sentiment]:
        """Return one `Sentiment` per text, in order; each depends on its own text alone. One call runs at a time."""
        self.load()
        with self._scoring:
            return [self._score(normalise(text)) for text in texts]

    def _score(self, line: str) -> Sentiment:
        if self._transformer is None:
            self.misses += 1
            return self._fall_back(line)
        key = _key(line, self._transformer.version)
        cached = self._cache.get(key)
        if cached is not None:
            self.hits += 1
            self._cache.move_to_end(key)
            return cached
        self.misses += 1
        try:
            scored = self._transformer.score_normal(line)
        except Exception as error:  # ONNX Runtime's share no base class; one costs a text, not a batch
            self.error = f"the transformer failed on a text: {type(error).__name__}"
            return self._fall_back(line)
        self._keep(key, scored)
        return scored

    def _fall_back(self, line: str) -> Sentiment:
        self.failures += 1
        return self._lexicon.score_normal(line)

    def _keep(self, key: bytes, scored: Sentiment) -> None:
        self._cache[key] = msgspec.structs.replace(scored, source="cache")
        if len(self._cache) > self._capacity:
            self._cache.popitem(last=False)


def _key(line: str, version: str) -> bytes:
    return hashlib.blake2b(line.encode(), digest_size=16, key=version.encode()).digest()
