"""The desk at which texts are scored: batches of texts come in, one at a time and in a thread of their own.

It moves the scorer between its levels, only between batches and where no level is fixed; it counts who answered, and
shows the watchdog that it moves.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from models.sentiment.levels import LOWEST, Throttle
from models.sentiment.transformer import Sentiment

log = logging.getLogger(__name__)


class TextScorer(Protocol):
    """Whatever scores texts, `models.sentiment.Cascade` above all; called in one thread, `load` aside."""

    answered: Counter[str]
    """Texts by who answered: "cache", "student", "transformer"."""
    failures: int
    """Texts that somebody cheaper answered than should have."""
    error: str | None
    """Why, in words that hold nothing of a text."""
    steps: int
    """Moves while texts are scored."""
    level: int
    """From 0, the best, to `LOWEST`, the cheapest."""

    def load(self) -> bool:
        """Whether all that may answer is there; blocks while it is loaded, the first time."""

    def score_many(self, texts: Sequence[str], langs: Sequence[str | None] | None = None) -> list[Sentiment]:
        """One result a text, in their order; `langs` are the codes that came with the texts."""


class Scored(NamedTuple):
    """What is known of the texts of one batch, which were scored at one level."""

    sentiments: list[Sentiment]
    answered: Counter[str]
    failures: int
    level: int


class Desk:
    """Scores the texts of a batch. `deadline` (seconds) is what they may take where the level is automatic, else None.

    With automatic levels the cheapest scorer answers alone until `open` has loaded the others, so that nobody waits
    for them; at a fixed level texts wait, or their scores would hang on how fast that was.
    """

    def __init__(
        self, scorer: TextScorer, deadline: float | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.scorer = scorer
        self.clock = clock
        self.working = False
        self._throttle = Throttle(deadline) if deadline is not None else None
        self._opened = False
        self._told: str | None = None
        if self._throttle is not None:
            scorer.level = LOWEST

    @property
    def level(self) -> int:
        """Level of the batch under way, else of the last one."""
        return self.scorer.level

    @property
    def steps(self) -> int:
        """Moves while there is work."""
        return self.scorer.steps

    def open(self) -> None:
        """Load what may answer; blocks for about a second, and may be called in any thread."""
        self.scorer.load()
        self._tell()
        self._opened = True

    def score(self, texts: Sequence[str], langs: Sequence[str | None], asked: float) -> Scored:
        """Score the texts of one batch, which was handed over at `asked` on the desk's clock."""
        self.working = True
        try:
            began = self.clock()
            # One answer for the whole batch: what loads may be done in the middle of it.
            throttle = self._throttle if self._opened else None
            if throttle is not None:
                self.scorer.level = throttle.brace(len(texts), began - asked)
            answered, failures = self.scorer.answered.copy(), self.scorer.failures
            found = self.scorer.score_many(texts, langs)
            level = self.scorer.level
            if throttle is not None:
                throttle.relate(len(texts), began - asked, self.clock() - began)
            self._tell()
            return Scored(found, self.scorer.answered - answered, self.scorer.failures - failures, level)
        finally:
            self.working = False

    def _tell(self) -> None:
        """Log why a cheaper scorer answers, once for each reason."""
        if self.scorer.error is not None and self.scorer.error != self._told:
            self._told = self.scorer.error
            log.warning("%s; the student answers in its place", self._told)
