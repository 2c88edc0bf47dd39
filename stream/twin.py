"""The worker's twin: an event log through the very same stages, offline, with the learners beside them.

Lines come in, in the order of the log; people, windows and scorers live in memory, where a worker has Redis. The clock
is the events' own. Examples are learned as they are decided, and new scorers come into use at the end of the batch in
which so many more were learned: what an event is scored with has never seen it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

import msgspec

from models.lifecycle.learners import LearnerSet
from models.lifecycle.registry import Champions
from models.lifecycle.snapshot import Snapshot
from models.outcomes.features import CATEGORICAL, NAMES, SCHEMA
from models.outcomes.windows import Window
from schemas.example import Example, Interaction
from schemas.privacy import KIND_HEADER, PrivacyRequest
from schemas.reasons import Rejected
from schemas.wire import Incoming, decode_record, decode_request
from stream.desk import Desk
from stream.partition import find_partition
from stream.settings import Settings
from stream.stages.batch import NOWHERE, Batch, Clock, Dossier, Entry
from stream.stages.pipeline import Stages

AT_ONCE: Final = 50
"""Lines to take at once. What is decided does not hang on it, but from when on new scorers are used does."""
UNDATED: Final = -1
"""Timestamp of a record that has none of its own."""
REQUEST: Final = ((KIND_HEADER, b"privacy"),)
"""Headers of a privacy request among events."""

_decode = msgspec.json.Decoder(Example | Interaction).decode


@dataclass(slots=True)
class Line:
    """A line of the log as the record that it would be, `offset` its place in its partition."""

    offset: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    key: bytes | None = None
    timestamp: int = UNDATED


class Shard:
    """One partition in memory: its people, its clock, and which windows are open."""

    def __init__(self, number: int, topic: str) -> None:
        self.number = number
        self.topic = topic
        self.next = 0
        """Offset of the next line."""
        self.people: dict[str, Dossier] = {}
        self._clock = Clock()
        self._emitted = NOWHERE
        self._open: list[tuple[int, str, str]] = []

    def begin(self, lines: Sequence[Line]) -> Batch:
        """A batch of the next lines; it is to be decoded before it is loaded."""
        clock = Clock(self._clock.now, self._clock.watermark)
        return Batch(self.number, self.topic, lines, clock, emitted=self._emitted)

    def load(self, batch: Batch) -> None:
        """Fill the decoded batch's people, and the windows that may fall due in it in (deadline, id) order."""
        for item in batch.items:
            self._take(batch, item.user_id)
        while self._open and self._open[0][0] < batch.clock.watermark:
            deadline, identity, user = heapq.heappop(self._open)
            window = self._take(batch, user).windows.get(identity)
            # What was closed, cancelled, opened anew or told twice leaves its old entries in the heap.
            if window is not None and window.deadline == deadline and window not in batch.due[-1:]:
                batch.due.append(window)

    def accept(self, batch: Batch) -> None:
        """Take the batch's people and windows back, as after a commit."""
        self._clock = batch.clock
        if batch.entries:
            self._emitted = batch.entries[-1].position
        self.people.update(batch.people)
        for user in batch.touched:
            dossier = batch.people[user]
            if dossier.person is not None and dossier.person.version == 0:
                dossier.person = None
        left = [window for window in batch.due if window.id not in batch.closed]
        for window in (*batch.kept.values(), *left):
            heapq.heappush(self._open, (window.deadline, window.id, window.user_id))

    def windows(self) -> list[Window]:
        """The windows that are open."""
        return [window for dossier in self.people.values() for window in dossier.windows.values()]

    def _take(self, batch: Batch, user: str) -> Dossier:
        if user not in batch.people:
            batch.people[user] = self.people.get(user) or Dossier()
        return batch.people[user]


class Twin:
    """Plays a log to the stages and the learners.

    `counts` is what the stages counted, as the worker's metrics show it; `examples` the records that the learners took,
    `swaps` the scorers that came into use.
    """

    def __init__(
        self,
        settings: Settings,
        executor: Executor,
        *,
        partitions: int = 1,
        every: int = 500,
        desk: Desk | None = None,
    ) -> None:
        """Play under `settings`, whose clock is to be `event`, over so many partitions as the topic would have.

        Texts are scored at `desk`, in `executor`; without one they are not. Scorers are swapped in when `every` more
        examples were learned.
        """
        self.settings = settings
        self.learners = LearnerSet(NAMES, SCHEMA, CATEGORICAL)
        # A worker's learner lets them in when it first publishes.
        self.learners.decide(-1, 1.0, settings.models.entrants)
        self.champions = Champions(SCHEMA)
        self.shards = [Shard(number, settings.topics.events) for number in range(partitions)]
        self.counts: Counter[str] = Counter()
        self.lines = self.examples = self.swaps = 0
        self.newest = 0
        """Time of the newest example, epoch milliseconds."""
        self._stages = Stages(settings, partitions, desk, executor)
        self._every = every
        self._due = every

    async def take(self, lines: Sequence[bytes], *, requests: bool = False) -> list[Entry]:
        """Apply some lines, `AT_ONCE` but for the last, as one batch a partition; what a worker would have sent out.

        Lines are events, native or Segment, or privacy requests where `requests` says so. Whatever is in them, nothing
        is raised: what can't be used is among the entries, as a dead letter.
        """
        self.lines += len(lines)
        parts: list[list[Line]] = [[] for _ in self.shards]
        for value in lines:
            shard = self._find_shard(value, requests)
            parts[shard.number].append(Line(shard.next, value, REQUEST if requests else ()))
            shard.next += 1
        entries: list[Entry] = []
        for shard, part in zip(self.shards, parts, strict=True):
            if part:
                entries += await self._apply(shard, part)
        self._learn(entries)
        return entries

    def snapshots(self) -> list[Snapshot]:
        """One a model, as the learn agent would publish them now."""
        return self.learners.snapshots(self.examples - 1, self.newest)

    def _find_shard(self, value: bytes, requests: bool) -> Shard:
        if len(self.shards) == 1:
            return self.shards[0]
        try:
            user = decode_request(value).user_id if requests else self._find_user(value)
        except Rejected:
            # Whose it is nobody knows, and any partition finds out why.
            return self.shards[0]
        return self.shards[find_partition(user, len(self.shards), self.settings.partitioner)]

    def _find_user(self, value: bytes) -> str:
        options = self.settings
        decoded = decode_record(value, max_bytes=options.batch.max_event_bytes, categories=options.consent.categories)
        if isinstance(decoded, PrivacyRequest):
            return decoded.user_id
        return (decoded.event if isinstance(decoded, Incoming) else decoded).user_id

    async def _apply(self, shard: Shard, lines: Sequence[Line]) -> list[Entry]:
        batch = shard.begin(lines)
        self._stages.decode(batch)
        shard.load(batch)
        await self._stages.run(batch, self.champions.current)
        shard.accept(batch)
        self.counts.update(batch.counts)
        return batch.entries

    def _learn(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.target != "examples":
                continue
            record = _decode(entry.value)
            self.learners.learn(record)
            self.examples += 1
            self.newest = max(self.newest, record.exposed_at if isinstance(record, Example) else record.ts)
        if self.examples >= self._due:
            self._due = self.examples + self._every
            for snapshot in self.snapshots():
                self.swaps += self.champions.swap(snapshot)
