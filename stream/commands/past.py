"""`nudge models at VERSION`: a past version learned again, to the bit as it was published.

A version is the offset of the last example that it includes. From the newest snapshot at or below it that is kept, each
model learns on from the examples topic up to that offset; models whose newest such snapshot is of one version go on
together. Nothing in Redis is changed.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from redis.asyncio import Redis

from models.lifecycle.learners import LearnerSet
from models.lifecycle.sampling import REMEMBERED, Decision
from models.lifecycle.snapshot import Snapshot, SnapshotRefused, seal
from models.outcomes.features import CATEGORICAL, NAMES, SCHEMA
from stream.agents.learn import learn_value
from stream.broker import read_all
from stream.commands import CommandError
from stream.commands.connections import open_consumer, open_redis
from stream.commands.kept import Kept, find_model, list_models, open_version, read_key
from stream.commands.output import print_json, print_table
from stream.commands.topic import find_partitions
from stream.commands.transfer import write_sealed
from stream.delivery.fence import GENERATION, Fence, rank, read_fence
from stream.settings import Settings
from stream.state.choices import find_promoted

COLUMNS: Final = ("model", "version", "from", "examples", "champion", "scoring", "learning")
DIGITS: Final = 16
"""Of the SHA-256 of what workers score with, and of what the learner resumes from."""


class Relearned(NamedTuple):
    """A version learned again: `base` is the version it began with, None for none; `examples` were read since."""

    snapshot: Snapshot
    base: int | None
    examples: int


def find_base(kept: Kept, version: int, first: int) -> int | None:
    """The newest version up to `version`, at or above `first`, that is kept and rests on the same learning.

    What was published before a lower version was is of a learner that has begun anew since; what was brought in from
    elsewhere is of another.
    """
    learned = {each: at for each, at in kept.versions.items() if first <= each <= version}
    found, latest = None, 0
    for each, at in sorted(learned.items()):
        if each not in kept.imported and at >= latest:
            found, latest = each, at
    return found


async def show_past(
    settings: Settings, version: int, model: str | None, out: Path | None, *, as_json: bool = False
) -> None:
    """Learn `version` of `model`, or of all models, again, print what it is, and write the one's sealed bytes to `out`.

    Raises `CommandError` where there is no such model, it has not learned so far, or its log no longer reaches back.
    """
    key = read_key(settings)
    async with open_redis(settings) as redis, open_consumer(settings) as consumer:
        models = [await find_model(redis, model)] if model is not None else [*(await list_models(redis)).values()]
        # To ask for the beginning of a log that is not there would wait for it.
        await find_partitions(settings, settings.topics.examples)
        past = Past(settings.topics.examples, redis, consumer, version, key)
        found = [one for group in _group(models).values() for one in await past.learn(group)]
    if not found:
        raise CommandError(f"{model or 'no model'}: had not begun to learn at version {version}; choose a later one")
    if out is not None:
        write_sealed(out, seal(found[0].snapshot, key))
    _print(sorted(found, key=lambda one: one.snapshot.model), as_json=as_json)


def _group(models: Iterable[Kept]) -> dict[int, list[Kept]]:
    found: dict[int, list[Kept]] = defaultdict(list)
    for kept in models:
        found[kept.partition].append(kept)
    return found


class Past:
    """Learns `version` again from the examples in `topic`; that of a log made anew is of another generation."""

    def __init__(self, topic: str, redis: Redis, consumer: AIOKafkaConsumer, version: int, key: bytes) -> None:
        self.topic = topic
        self.redis = redis
        self.consumer = consumer
        self.version = version
        self.key = key
        self.generation, self.offset = divmod(version, GENERATION)

    async def learn(self, models: Sequence[Kept]) -> list[Relearned]:
        """The version of each of `models`, all of one examples partition, that had begun by then."""
        place = TopicPartition(self.topic, models[0].partition)
        began = self._check_reach(await read_fence(self.redis, models[0].tag))
        bases: dict[int | None, list[Kept]] = defaultdict(list)
        for kept in models:
            bases[find_base(kept, self.version, rank(self.generation, began))].append(kept)
        found = []
        for base, group in bases.items():
            start = began if base is None else base % GENERATION + 1
            await self._check_log(place, start, group, base)
            found += await self._learn_on(place, start, group, base)
        return found

    def _check_reach(self, fence: Fence | None) -> int:
        """The first offset that was learned. Raises `CommandError` where the version was never got to."""
        if fence is None:
            raise CommandError("nothing has been learned on this Redis yet: start a worker on it, or correct redis.url")
        if fence.generation != self.generation:
            raise CommandError(
                f"version {self.version} is of generation {self.generation} of the examples log, which has been made "
                f"anew since (generation {fence.generation}): what it was learned from is gone"
            )
        if self.offset >= fence.next:
            newest = rank(fence.generation, fence.next - 1)
            raise CommandError(f"version {self.version} has not been learned yet: the newest is {newest}")
        if self.offset < fence.began:
            raise CommandError(
                f"version {self.version}: learning began at offset {fence.began}; choose a later version"
            )
        return fence.began

    async def _check_log(self, place: TopicPartition, start: int, group: Sequence[Kept], base: int | None) -> None:
        reaches = int((await self.consumer.beginning_offsets([place]))[place])
        if start <= self.offset and reaches > start:
            names = ", ".join(kept.model for kept in group)
            rests = "no snapshot at or below it is kept" if base is None else f"the newest kept below it is {base}"
            raise CommandError(
                f"{names}: version {self.version} can't be learned again: {rests}, and the log of {place.topic} begins "
                f"at offset {reaches}, after {start}; topics.retention_examples says how long it reaches back"
            )

    async def _learn_on(
        self, place: TopicPartition, start: int, group: Sequence[Kept], base: int | None
    ) -> list[Relearned]:
        held = [] if base is None else [await open_version(self.redis, kept, base, self.key) for kept in group]
        try:
            learners = LearnerSet.restore(held, NAMES, SCHEMA, CATEGORICAL)
        except SnapshotRefused as error:
            raise CommandError(f"{error}; it was learned by another release of nudge") from error
        sampling = await self._read_sampling(group[0], base)
        moment = max((snapshot.created_at for snapshot in held), default=0)
        read = 0
        if start <= self.offset:
            async with aclosing(read_all(self.consumer, [place], {place: start})) as records:
                async for record in records:
                    if record.offset > self.offset:
                        break
                    learners.follow(sampling, rank(self.generation, record.offset))
                    # What is no example was passed over when it was learned, too.
                    with suppress(msgspec.DecodeError):
                        moment = max(moment, learn_value(learners, record.value))
                    read += 1
        learners.follow(sampling, self.version + 1)
        promoted = {kept.model: await find_promoted(self.redis, kept.tag, kept.model, self.version) for kept in group}
        taken = learners.snapshots(self.version, moment, promoted)
        return [Relearned(snapshot, base, read) for snapshot in taken if snapshot.model in promoted]

    async def _read_sampling(self, kept: Kept, base: int | None) -> Sequence[Decision]:
        """What was decided of sampling by now. Raises `CommandError` where that does not reach back to `base`."""
        sampling = (await open_version(self.redis, kept, kept.latest, self.key)).sampling
        if len(sampling) == REMEMBERED and sampling[0].version > (-1 if base is None else base):
            raise CommandError(
                f"{kept.model}: version {self.version} can't be learned again: examples were sampled, and how is known "
                f"from version {sampling[0].version} on"
            )
        return sampling


def _print(found: Sequence[Relearned], *, as_json: bool) -> None:
    rows = [
        (
            one.snapshot.model,
            one.snapshot.version,
            one.base,
            one.examples,
            one.snapshot.champion or None,
            hashlib.sha256(one.snapshot.scoring).hexdigest()[:DIGITS],
            hashlib.sha256(one.snapshot.learning).hexdigest()[:DIGITS],
        )
        for one in found
    ]
    if as_json:
        print_json({"models": [dict(zip(COLUMNS, row, strict=True)) for row in rows]})
        return
    print_table(COLUMNS, rows)
