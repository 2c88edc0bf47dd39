"""The learn agent: examples in, signed snapshots out. A model learns here and nowhere else.

The fence of an examples partition moves only when a snapshot is published, in the same breath; so after a crash the
learner resumes from the snapshot and reads again exactly the examples that it does not include. Where the snapshot is
gone, all examples that are still in the log are learned again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from redis.asyncio import Redis

from models.lifecycle.learners import LearnerSet
from models.lifecycle.sampling import choose_rate
from models.lifecycle.snapshot import Snapshot, SnapshotRefused, seal
from models.outcomes.features import CATEGORICAL, NAMES, SCHEMA
from schemas.example import Example, Interaction
from stream.delivery.errors import StateLost
from stream.delivery.fence import Fence, advance_fence, hash_record, rank
from stream.metrics import Metrics
from stream.settings import Settings
from stream.stages.batch import Record
from stream.state.choices import describe_promotions, list_promoted
from stream.state.keys import tag_source
from stream.state.snapshots import describe_publication, list_versions, read_snapshot

log = logging.getLogger(__name__)

SHARE: Final = 0.04
"""Share of one core that publications may take: the larger the models, the rarer they are."""

AT_ONCE: Final = 16
"""Examples learned before others have the event loop: some milliseconds' worth."""
ENOUGH: Final = 500
"""Examples by which the pace of learning is known."""

_decode = msgspec.json.Decoder(Example | Interaction).decode


def learn_value(learners: LearnerSet, value: bytes | None) -> int:
    """Have `learners` take in one value of the examples topic; the event time (epoch ms) that it is of.

    Raises `msgspec.DecodeError`, and nothing was learned, where it is no example.
    """
    example = _decode(value or b"")
    learners.learn(example)
    return example.exposed_at if isinstance(example, Example) else example.ts


@dataclass(frozen=True)
class Learning:
    """What all learn sessions of a worker share; `key` signs, `find_lag` tells examples of a partition not yet read."""

    settings: Settings
    redis: Redis
    key: bytes
    metrics: Metrics
    find_lag: Callable[[int], int]

    def open(self, partition: int, fence: Fence) -> LearnSession:
        """Session for an examples partition just acquired."""
        return LearnSession(self, partition, fence)


class LearnSession:
    """Learns one partition of the examples under one owner token."""

    def __init__(self, learning: Learning, partition: int, fence: Fence) -> None:
        self.learning = learning
        self.partition = partition
        self.fence = fence
        self.tag = tag_source("examples", partition)
        self.learners = LearnerSet(NAMES, SCHEMA, CATEGORICAL)
        self.last: Record | None = None
        self._following = fence.next
        self._sealing: asyncio.Future[list[tuple[str, int, bytes]]] | None = None
        self.published_at = time.monotonic()
        self.spent = 0.0
        """CPU seconds that the last publication took."""
        self._taken, self._busy = 0, 0.0
        """Examples learned and the seconds that they took, others' turns included, since the pace was last known."""
        self.created_at = fence.clock

    async def open(self) -> int:
        """Restore the learners as they were when the fence was moved to where it stands.

        Raises `StateLost` where that is not kept, or was written by a release with other models or features.
        """
        if self.fence.last_hash:
            snapshots = await self._read_snapshots()
            try:
                # Some models are made again by learning their rows: nobody waits for that.
                self.learners = await asyncio.to_thread(LearnerSet.restore, snapshots, NAMES, SCHEMA, CATEGORICAL)
            except SnapshotRefused as error:
                self.learning.metrics.relearns.add(1)
                raise StateLost(str(error)) from error
        return self.fence.next

    async def _read_snapshots(self) -> list[Snapshot]:
        learning = self.learning
        version = rank(self.fence.generation, self.fence.next - 1)
        newest = await list_versions(learning.redis, self.tag)
        names = [name for name, its in newest.items() if its == version]
        found = [await read_snapshot(learning.redis, self.tag, name, version, learning.key) for name in names]
        snapshots = [snapshot for snapshot in found if snapshot is not None]
        if not snapshots or len(snapshots) < len(names):
            learning.metrics.relearns.add(1)
            missing = {name for name, snapshot in zip(names, found, strict=True) if snapshot is None} or {"any model"}
            raise StateLost(f"no snapshot {version} of {', '.join(sorted(missing))}, up to which examples were learned")
        return snapshots

    async def close(self) -> None:
        """What was learned since the last snapshot is learned again by the next owner."""

    async def wait_for_room(self) -> None:
        """Learning never waits."""

    async def handle(self, records: Sequence[Record]) -> None:
        """Learn the records, and publish when it is time."""
        if self._sealing is not None:
            # An agent that was cancelled leaves its thread at work on the learners.
            await asyncio.wait([self._sealing])
        began = time.monotonic()
        # It is offered the whole batch again: what was learned of it is not learned twice.
        for number, record in enumerate(records):
            if record.offset >= self._following:
                self._learn(record)
                self._following = record.offset + 1
                self._taken += 1
                if number % AT_ONCE == AT_ONCE - 1:
                    # Heartbeats and the score agent's batches do not wait for a whole batch of examples.
                    await asyncio.sleep(0)
        self._busy += time.monotonic() - began
        if records[-1].offset >= self.fence.next:
            self.last = records[-1]
        await self._publish_if_due()

    async def idle(self) -> None:
        """Publish what is left over when no more comes."""
        await self._publish_if_due()

    def _learn(self, record: Record) -> None:
        try:
            self.created_at = max(self.created_at, learn_value(self.learners, record.value))
        except msgspec.DecodeError as error:
            log.error("%s: offset %d is no example: %s", self.tag, record.offset, error)

    async def _publish_if_due(self) -> None:
        interval = max(self.learning.settings.models.snapshot_interval / 1000, self.spent / SHARE)
        if self.last is not None and time.monotonic() - self.published_at >= interval:
            await self._publish(self.last)

    async def _publish(self, last: Record) -> None:
        learning = self.learning
        version = rank(self.fence.generation, last.offset)
        self.learners.decide(version, self._choose_rate(), learning.settings.models.entrants)
        promoted = await list_promoted(learning.redis, self.tag)
        self._sealing = asyncio.ensure_future(asyncio.to_thread(self._seal, version, promoted))
        sealed = await asyncio.shield(self._sealing)
        if not sealed:
            # A fence that has moved promises a snapshot.
            self.published_at = time.monotonic()
            return
        now = int(time.time() * 1000)
        models = learning.settings.models
        commands = await describe_publication(learning.redis, self.tag, sealed, now, models.keep, models.pinned)
        names = [name for name, _, _ in sealed]
        commands += await describe_promotions(learning.redis, self.tag, version, names, promoted)
        to = msgspec.structs.replace(
            self.fence, next=last.offset + 1, last_hash=hash_record(last), clock=self.created_at
        )
        await advance_fence(learning.redis, self.tag, self.fence, to, commands)
        self.fence, self.last, self.published_at = to, None, time.monotonic()

    def _choose_rate(self) -> float:
        """At which rate to learn negatives from here on: at a lower one while what is waiting would take too long."""
        lag, rate = self.learning.find_lag(self.partition), self.learners.rate
        if lag and self._taken < ENOUGH:
            return rate
        delay = lag * self._busy / max(self._taken, 1)
        self._taken, self._busy = 0, 0.0
        chosen = choose_rate(rate, delay, self.learning.settings.models.sample_after / 1000)
        if chosen != rate:
            log.warning("%s: %.0f s behind: a share of %g of the negatives is learned now", self.tag, delay, chosen)
        return chosen

    def _seal(self, version: int, promoted: Mapping[str, str]) -> list[tuple[str, int, bytes]]:
        began = time.thread_time()
        snapshots = self.learners.snapshots(version, self.created_at, promoted)
        sealed = [(snapshot.model, version, seal(snapshot, self.learning.key)) for snapshot in snapshots]
        self.spent = time.thread_time() - began
        return sealed
