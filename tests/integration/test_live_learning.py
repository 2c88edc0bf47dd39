"""With models that learn while they score, every stored probability can be computed again from what it names."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from models.lifecycle.snapshot import open_sealed
from models.outcomes.scorers import Scorer, open_scorer
from schemas.example import Example, Interaction
from stream.agents.learn import Learning
from stream.delivery.fence import acquire_fence
from stream.embedded import Servers
from stream.metrics import Metrics
from stream.partition import find_partitions
from stream.settings import ScoreRule, Settings
from stream.state.client import connect_redis
from stream.state.keys import name_key, tag_events, tag_source
from stream.state.snapshots import HOUR, choose_forgotten, describe_publication
from tests.integration.workers import KEY, PARTITIONS, Job, Worker
from tests.unit.factories import NOON
from tests.unit.reference import Record, Reference
from tests.unit.test_batch_invariance import compose_log, eager

RECORDS = 20_000
PARTS = 4

pytestmark = pytest.mark.timeout(240)


async def test_every_stored_probability_is_that_of_the_version_it_names(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    options = eager(
        clock="event",
        models={"snapshot_interval": 300, "reload_interval": 50, "keep": 10_000},
        rules=(ScoreRule(name="likely", at_least=0.02, cooldown=0),),
    )
    job = Job(servers, redis, topic_prefix, tmp_path, options)
    await job.create_topics()
    worker = job.start_worker()
    try:
        await worker.wait_ready()
        log, version = compose_log(RECORDS, people=5_000), 0
        for part in range(PARTS):
            await job.send(log[part * RECORDS // PARTS : (part + 1) * RECORDS // PARTS], rate=3_000)
            # However slow the machine is, each part is scored by newer models than the one before it.
            version = await wait_newer(worker, version)
        await job.wait_until(RECORDS)
        await job.wait_drained()
        assert worker.stop() == 0
        assert worker.errors() == []
        models = await read_models(redis)
        assert len(models) > 5
        assert await check_examples(job, models) > 1_000
        assert await check_triggers(job, models) > 200
        assert await check_profiles(job, models) > 1_000
    finally:
        job.end()


async def test_a_learner_that_fails_whenever_it_publishes_is_named_all_the_while(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    """Would have caught: a worker that is ready again each time that its learner begins anew, and never learns."""
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event", models={"snapshot_interval": 500}))
    await job.create_topics()
    worker = job.start_worker("unsealed")
    try:
        await worker.wait_ready()
        sending = asyncio.create_task(job.send(compose_log(4_000, people=500), rate=400))
        deadline = time.monotonic() + 60
        while "failure: " not in await asyncio.to_thread(worker.causes):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        for _ in range(40):
            assert "failure: " in await asyncio.to_thread(worker.causes)
            await asyncio.sleep(0.1)
        await sending
    finally:
        job.end()


async def wait_newer(worker: Worker, than: int, seconds: float = 60.0) -> int:
    """Wait until the worker scores with a later version of both models; returns the lower one."""
    deadline = time.monotonic() + seconds
    while True:
        told = re.findall(r'^nudge_model_version\{model="(?:conversion|click)"\} (\S+)', worker.metrics(), re.M)
        if len(told) == 2 and (newest := min(map(float, told))) > than:
            return int(newest)
        assert time.monotonic() < deadline, told
        await asyncio.sleep(0.05)


async def read_models(redis: Redis) -> dict[tuple[str, int], Scorer]:
    """Scorers by outcome and version, every one that was ever published; a cold model has none."""
    tag = tag_source("examples", 0)
    found = {}
    for outcome in ("conversion", "click"):
        for version in await redis.zrange(name_key("snapshots", tag, outcome), 0, -1):
            data = await redis.get(name_key("snapshot", tag, outcome, version.decode()))
            snapshot = open_sealed(data, KEY.encode())
            if snapshot.scoring:
                found[outcome, int(version)] = open_scorer(snapshot.scoring)
    return found


async def check_examples(job: Job, models: dict[tuple[str, int], Scorer]) -> int:
    checked = 0
    for record in await job.read(job.settings.topics.examples):
        example = msgspec.json.decode(record.value, type=Example | Interaction)
        if isinstance(example, Example) and example.model_version is not None:
            scorer = models[example.outcome, example.model_version]
            assert scorer.score_one(example.features) == example.prediction
            checked += 1
    return checked


async def check_triggers(job: Job, models: dict[tuple[str, int], Scorer]) -> int:
    """What a trigger says of its probability, and of what moved it, is what its row makes of it."""
    checked = 0
    rows = await freeze_again(job)
    for trigger in await job.triggers():
        for outcome, probability in trigger.scores.items():
            scorer = models[outcome, trigger.model_versions[outcome]]
            assert trigger.top_features
            told = (probability, trigger.top_features)
            again = rows[trigger.user_id, trigger.event_id]
            assert told in [(scorer.score_one(row), scorer.contributions(row, len(told[1]))) for row in again]
            checked += 1
    return checked


async def check_profiles(job: Job, models: dict[tuple[str, int], Scorer]) -> int:
    """A profile holds the probability of the person's last scored event."""
    checked = 0
    last = {user: rows[-1] for (user, _), rows in (await freeze_again(job)).items()}
    for user, row in last.items():
        [partition] = find_partitions([user], PARTITIONS, "murmur2")
        key = name_key("profile", tag_events(partition), user)
        probability, version = await job.redis.hmget(key, "conversion_probability", "conversion_version")
        if version is not None:
            assert models["conversion", int(version)].score_one(row) == float(probability)
            checked += 1
    return checked


async def freeze_again(job: Job) -> dict[tuple[str, str], list[tuple[float, ...]]]:
    """The frozen rows by user and event id, in the order of the log: they do not depend on any model.

    An id that comes again after its window makes a row of its own.
    """
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    records = await job.read(job.settings.topics.events)
    for partition in range(PARTITIONS):
        mine = sorted((r for r in records if r.partition == partition), key=lambda r: r.offset)
        reference = Reference(job.settings, partition=partition, partitions=PARTITIONS)
        await reference.feed(mine, len(mine))
        assert reference.latest is not None
        for item in reference.latest.items:
            if item.event is not None and item.row is not None:
                rows = found.pop((item.event.user_id, item.event.event_id), [])
                found[item.event.user_id, item.event.event_id] = [*rows, item.row]
    return found


async def test_a_batch_that_is_offered_again_is_learned_once(redis: Redis, redis_url: str) -> None:
    settings = Settings(redis={"url": redis_url}, models={"snapshot_interval": "1h"})
    async with connect_redis(settings) as client:
        tag = tag_source("examples", 0)
        learning = Learning(settings, client, KEY.encode(), Metrics(), lambda partition: 0)
        session = learning.open(0, await acquire_fence(client, tag, 0))
        touches = [
            Interaction(item_id="tea", role="view", ts=number, partition=0, offset=number, index=1)
            for number in range(10)
        ]
        records = [Record(number, NOON, msgspec.json.encode(touch)) for number, touch in enumerate(touches)]
        await session.handle(records[:6])
        await session.handle(records)
        assert (session.learners.learned, session.learners.repeated) == (10, 0)


async def test_a_pinned_version_is_never_forgotten(redis: Redis, redis_url: str) -> None:
    tag = tag_source("examples", 0)
    await redis.zadd(name_key("snapshots", tag, "conversion"), {"1": 0, "2": 0, "3": 0, "4": 0})
    async with connect_redis(Settings(redis={"url": redis_url})) as client:
        commands = await describe_publication(client, tag, [("conversion", 5, b"")], 10**12, keep=1, pinned=2)
    assert {command[2] for command in commands if command[0] == "ZREM"} == {3}


async def test_versions_that_operators_pinned_are_never_forgotten(redis: Redis, redis_url: str) -> None:
    """Each model has its own pin, and none holds a version of another model."""
    tag = tag_source("examples", 0)
    for model in ("click", "conversion"):
        await redis.zadd(name_key("snapshots", tag, model), {"1": 0, "2": 0, "3": 0, "4": 0})
    await redis.hset(name_key("pins", tag), mapping={"click": 2, "conversion": 3})
    sealed = [("click", 5, b""), ("conversion", 5, b"")]
    async with connect_redis(Settings(redis={"url": redis_url})) as client:
        commands = await describe_publication(client, tag, sealed, 10**12, keep=1, pinned=None)
    forgotten = {command[1:] for command in commands if command[0] == "ZREM"}
    # The first of the hour and the newest are kept anyway.
    assert forgotten == {(name_key("snapshots", tag, "click"), 3), (name_key("snapshots", tag, "conversion"), 2)}


def test_what_a_learner_whose_clock_is_behind_publishes_is_kept() -> None:
    """Would have caught: versions kept by when they seem to have been published."""
    known = [(version, 10**12) for version in range(1, 20)]
    behind = [(version, 10**12 - 7 * HOUR) for version in (20, 21)]
    assert not {20, 21} & {*choose_forgotten([*known, *behind], keep=16)}
