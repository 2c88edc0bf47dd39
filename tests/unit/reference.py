"""The pipeline in memory: records of one partition in, entries and people out, without Kafka, Redis or threads.

`Reference` does what a worker does to a partition, one batch after the other, and keeps the people in a dict where a
worker has Redis. It knows every open window, so that the windows due in a batch are exactly those of all people in
(deadline, id) order, whatever a worker's cache holds.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import repeat
from types import MappingProxyType
from typing import Any

from models.lifecycle.registry import Lineup
from models.outcomes.features import CATEGORICAL, NAMES, SCHEMA
from models.outcomes.scorer import Coefficients, LinearScorer
from models.outcomes.windows import Window
from models.recommend.learner import RecommendLearner
from models.sentiment.transformer import Sentiment
from schemas.event import Role
from schemas.example import Interaction
from stream.desk import Desk, TextScorer
from stream.settings import Settings
from stream.stages.batch import NOWHERE, Batch, Clock, Dossier, Entry
from stream.stages.batch import Record as AnyRecord
from stream.stages.pipeline import Stages
from stream.state.profiles import decode_person, encode_image, take_image


@dataclass(slots=True)
class Record:
    """A Kafka record as far as the stages look at one."""

    offset: int
    timestamp: int
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class Inline(Executor):
    """Runs what it is given at once, in the thread that gave it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class Reference:
    """What a single worker makes of one partition. `models` and `clock` may be set between two feeds.

    `forgetful` puts every person through the codec after every batch, as a worker without a cache would.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        partition: int = 0,
        partitions: int = 1,
        scorer: TextScorer | None = None,
        models: Lineup | None = None,
        forgetful: bool = False,
    ) -> None:
        self.settings = settings
        self.partition = partition
        self.stages = Stages(settings, partitions, Desk(scorer) if scorer is not None else None, Inline())
        self.models = models or Lineup()
        self.forgetful = forgetful
        self.people: dict[str, Dossier] = {}
        self.clock = Clock()
        self.emitted = NOWHERE
        self.entries: list[Entry] = []
        self.counts: Counter[str] = Counter()
        self.replayed: set[str] = set()
        self.latest: Batch | None = None
        """The batch applied last."""
        self._open: list[tuple[int, str, str]] = []

    async def feed(self, records: Sequence[AnyRecord], size: int | Iterable[int] = 500) -> None:
        """Apply the records in batches of `size`; of several sizes, the last counts for all that is left."""
        for chunk in _split(records, size):
            await self._apply(chunk)

    def run(self, records: Sequence[AnyRecord], size: int | Iterable[int] = 500) -> Reference:
        """`feed`, where there is no event loop; returns itself."""
        asyncio.run(self.feed(records, size))
        return self

    def profiles(self) -> dict[str, list[bytes | str]]:
        """The people with a profile, as they are written."""
        return {user: encode_image(take_image(of.person)) for user, of in self.people.items() if of.person is not None}

    def windows(self) -> dict[str, Window]:
        """All open windows by id."""
        return {name: window for dossier in self.people.values() for name, window in dossier.windows.items()}

    async def _apply(self, records: Sequence[AnyRecord]) -> None:
        clock = Clock(self.clock.now, self.clock.watermark)
        batch = Batch(self.partition, self.settings.topics.events, records, clock, emitted=self.emitted)
        self.stages.decode(batch)
        self._load(batch)
        await self.stages.run(batch, self.models)
        self._accept(batch)

    def _load(self, batch: Batch) -> None:
        batch.replayed = self.replayed & {item.origin for item in batch.items}
        for item in batch.items:
            about = item.event or item.request
            assert about is not None
            self._take_out(batch, about.user_id)
        while self._open and self._open[0][0] < batch.clock.watermark:
            deadline, identity, user = heapq.heappop(self._open)
            window = self._take_out(batch, user).windows.get(identity)
            # A window that was closed, cancelled, opened anew or told twice leaves its old entries in the heap.
            if window is not None and window.deadline == deadline and window not in batch.due[-1:]:
                batch.due.append(window)

    def _take_out(self, batch: Batch, user: str) -> Dossier:
        if user not in batch.people:
            batch.people[user] = self.people.get(user, Dossier())
        return batch.people[user]

    def _accept(self, batch: Batch) -> None:
        self.clock = batch.clock
        if batch.entries:
            self.emitted = batch.entries[-1].position
        self.entries += batch.entries
        self.counts.update(batch.counts)
        self.replayed.update(batch.replays)
        self.people.update(batch.people)
        for user in batch.touched:
            if (person := batch.people[user].person) is not None and person.version == 0:
                batch.people[user].person = None
        self.latest = batch
        left = [window for window in batch.due if window.id not in batch.closed]
        for window in (*batch.kept.values(), *left):
            heapq.heappush(self._open, (window.deadline, window.id, window.user_id))
        if self.forgetful:
            for dossier in batch.people.values():
                dossier.person = decode_person(_as_stored(dossier)) if dossier.person else None


def _as_stored(dossier: Dossier) -> list[bytes]:
    assert dossier.person is not None
    return [part.encode() if isinstance(part, str) else part for part in encode_image(take_image(dossier.person))]


def _split(records: Sequence[AnyRecord], size: int | Iterable[int]) -> Iterator[Sequence[AnyRecord]]:
    at = 0
    last = 0
    sizes = repeat(size) if isinstance(size, int) else iter(size)
    while at < len(records):
        last = next(sizes, last) or 1
        yield records[at : at + last]
        at += last


class WordScorer:
    """Scores a text by counting `good` and `bad`; four digits, as the real scorers give."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.failures = self.steps = self.level = 0
        self.error: str | None = None

    @property
    def versions(self) -> dict[str, str]:
        return {"words": "words-1"}

    def load(self) -> bool:
        return True

    def score_many(self, texts: Sequence[str], langs: Sequence[str | None] | None = None) -> list[Sentiment]:
        self.steps += 1
        self.answered["words"] += len(texts)
        return [self._score(text) for text in texts]

    def _score(self, text: str) -> Sentiment:
        good, bad = text.count("good"), text.count("bad")
        score = round((good - bad) / (good + bad + 1), 4)
        label = "positive" if score > 0 else "negative" if score < 0 else "neutral"
        return Sentiment(score=score, confidence=0.5, label=label, source="words", model="words-1")


def make_scorer(outcome: str = "conversion", bias: float = -0.5) -> LinearScorer:
    """A logistic regression on the real feature layout with arbitrary, fixed weights; codes weigh nothing."""
    count = len(NAMES)
    return LinearScorer(
        Coefficients(
            outcome=outcome,
            schema=SCHEMA,
            names=NAMES,
            means=tuple(0.1 * (number % 5) for number in range(count)),
            scales=tuple(0.5 + 0.1 * (number % 3) for number in range(count)),
            weights=tuple(0.0 if number in CATEGORICAL else 0.3 * (-1) ** number for number in range(count)),
            bias=bias,
            clip=5.0,
        )
    )


def make_lineup(*outcomes: str, version: int = 7) -> Lineup:
    """A scorer for every outcome (`conversion` if none is named) and a recommender that knows items `i0` to `i29`."""
    learner = RecommendLearner()
    for number in range(300):
        item, before = f"i{number * 7 % 30}", (f"i{number * 3 % 30}",)
        role: Role = "conversion" if number % 3 == 0 else "view"
        learner.learn(
            Interaction(item_id=item, role=role, ts=number * 1_000, partition=0, offset=number, index=1, before=before)
        )
    scorers = {name: (make_scorer(name), version) for name in outcomes or ("conversion",)}
    return Lineup(MappingProxyType(scorers), (learner.recommender(), version))


def open_to_all(**overrides: Any) -> Settings:
    """Settings under which nobody need grant anything first."""
    return Settings(**({"consent": {"mode": "optional"}} | overrides))


def write_records(*values: bytes | None, at: int, every: int = 1_000, first: int = 0) -> list[Record]:
    """Records of `values`, one `every` milliseconds from `at`, at offsets from `first`."""
    return [Record(first + n, at + n * every, value) for n, value in enumerate(values)]
