"""Texts in, a `Sentiment` for each out, by the cheapest scorer that is sure: cache, then student, then transformer.

English texts of which the student is less sure than the level asks go to the transformer; all others are the student's.
At one level a score depends on its text and its language alone, never on what shared its batch, and says who made it.
Synchronous, never raises on a text, keeps no text: one worker thread calls it, off the event loop.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from models.sentiment.cache import CAPACITY, ScoreCache
from models.sentiment.language import is_english
from models.sentiment.levels import LEVELS, LOWEST
from models.sentiment.student import AT_ONCE, Student
from models.sentiment.student import SOURCE as STUDENT
from models.sentiment.text import normalise
from models.sentiment.transformer import Sentiment, Transformer, WeightsError

CACHE: Final = "cache"
TRANSFORMER: Final = "transformer"


class _Asked(NamedTuple):
    """A text that the cache does not know, and whether the transformer may be asked."""

    key: bytes
    line: str
    english: bool


class Cascade:
    """The student for all texts, the transformer for the English ones that it is unsure of, a cache before both.

    The transformer is loaded by the first `load` or by the first batch above the lowest level, once; others wait for
    it. If it cannot be loaded, the student answers until the process ends.

    `answered` counts texts by "cache", "student" and "transformer"; `failures` those that the transformer should have
    answered and the student did; `error` says why, None while all is well. `steps` moves while a batch is scored.
    """

    def __init__(
        self, folder: Path | None = None, student: Path | None = None, capacity: int = CAPACITY, level: int = 0
    ) -> None:
        """Take the transformer's weights from `folder` and the student's from `student` (defaults: what ships).

        Raises `ValueError` for a capacity below zero or an unknown level, `WeightsError` when there is no student.
        """
        self.answered: Counter[str] = Counter()
        self.failures = 0
        self.steps = 0
        self.error: str | None = None
        self.cache = ScoreCache(capacity)
        self._folder = folder
        self._student = Student.load(student)
        self._transformer: Transformer | None = None
        self._tried = False
        self._loading = threading.Lock()
        self._scoring = threading.Lock()
        self._level = _checked(level)

    def __len__(self) -> int:
        """Return the number of scores in the cache."""
        return len(self.cache)

    @property
    def level(self) -> int:
        """Level of the next batch."""
        return self._level

    @level.setter
    def level(self, level: int) -> None:
        """Score at another level from the next batch on. Raises `ValueError` unless it is in 0..`LOWEST`."""
        self._level = _checked(level)

    @property
    def loaded(self) -> bool:
        """Whether the transformer is there."""
        return self._transformer is not None

    @property
    def versions(self) -> dict[str, str]:
        """Version of each that may answer, by its source; the transformer's first if it is there."""
        found = {} if self._transformer is None else {TRANSFORMER: self._transformer.version}
        return found | {STUDENT: self._student.version}

    @property
    def model(self) -> str:
        """The versions in one word."""
        return "+".join(self.versions.values())

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

    def score_many(self, texts: Sequence[str], langs: Sequence[str | None] | None = None) -> list[Sentiment]:
        """Return one `Sentiment` per text, in order. One call runs at a time, all of it at one level.

        `langs` are the codes that came with the texts, None for each without; its language is then looked for.
        """
        with self._scoring:
            level = self._level
            if level < LOWEST:
                self.load()
            return self._score(texts, langs or [None] * len(texts), level)

    def _score(self, texts: Sequence[str], langs: Sequence[str | None], level: int) -> list[Sentiment]:
        maker = f"{level} {self.model}"
        known: dict[bytes, Sentiment] = {}
        asked: dict[bytes, _Asked] = {}
        keys = []
        for text, lang in zip(texts, langs, strict=True):
            line = normalise(text)
            # Who may answer, not the code itself: "en" and "en-GB" are one.
            route = is_english(line, lang) if lang and level < LOWEST else ""
            key = self.cache.key(line, f"{maker} {route}")
            keys.append(key)
            if key in asked:
                continue
            if key not in known and (cached := self.cache.get(key)) is not None:
                known[key] = cached
            elif key not in known:
                asked[key] = _Asked(key, line, level < LOWEST and is_english(line, lang))
        fresh = self._answer(list(asked.values()), level)
        self.answered.update(found.source for found in fresh.values())
        self.answered[CACHE] += len(texts) - len(fresh)
        return [known.get(key) or fresh[key] for key in keys]

    def _answer(self, asked: list[_Asked], level: int) -> dict[bytes, Sentiment]:
        found: dict[bytes, Sentiment] = {}
        for start in range(0, len(asked), AT_ONCE):
            self.steps += 1
            chunk = asked[start : start + AT_ONCE]
            for one, guess in zip(chunk, self._student.score_normal([one.line for one in chunk]), strict=True):
                found[one.key] = self._settle(one, guess, level)
        return found

    def _settle(self, one: _Asked, guess: Sentiment, level: int) -> Sentiment:
        """Return the student's guess or the transformer's better one; kept unless the transformer owes it."""
        unsure = one.english and bool(one.line) and guess.confidence < self._student.thresholds[level]
        better = self._ask_transformer(one.line) if unsure else None
        found = msgspec.structs.replace(better or guess, level=level)
        if better is not None or not unsure:
            self.cache.put(one.key, found)
        return found

    def _ask_transformer(self, line: str) -> Sentiment | None:
        """Return None, counted, when the transformer is not there or fails."""
        self.steps += 1
        if self._transformer is not None:
            try:
                return self._transformer.score_normal(line)
            except Exception as error:  # ONNX Runtime's share no base class; one costs a text, not a batch
                self.error = f"the transformer failed on a text: {type(error).__name__}"
        self.failures += 1
        return None


def _checked(level: int) -> int:
    if not 0 <= level < LEVELS:
        raise ValueError(f"level: found {level}, expected 0 to {LOWEST}")
    return level
