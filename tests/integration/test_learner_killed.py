"""A learner that is killed again and again ends with the models of one that never was."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

import msgspec
import pytest
from aiokafka import ConsumerRecord
from redis.asyncio import Redis

from models.lifecycle.learners import LearnerSet
from models.lifecycle.snapshot import Snapshot
from models.outcomes.features import CATEGORICAL, NAMES, SCHEMA
from schemas.example import Example, Interaction
from stream.agents.learn import learn_value
from stream.broker import probe
from stream.delivery.fence import rank
from stream.embedded import Servers
from stream.state.keys import name_key
from tests.integration.test_log_generation import EXAMPLES, read_newest
from tests.integration.workers import Job
from tests.unit.test_batch_invariance import compose_log, eager

KILLS = 20
FEWER = 3
"""Where a worker that comes again waits until the session of the one before it has run out."""
EVENTS = 10_500
OPTIONS = eager(clock="event", consent={"mode": "optional"}, models={"snapshot_interval": 100, "keep": 10_000})

pytestmark = pytest.mark.timeout(420)


async def read_place(redis: Redis) -> int:
    """Offset of the next example that no snapshot includes."""
    return int(await redis.hget(name_key("fence", EXAMPLES), "next") or 0)  # type: ignore[misc]


async def wait_beyond(redis: Redis, place: int, seconds: float = 60.0) -> int:
    """Wait until snapshots include more than the examples before `place`; how far they reach."""
    deadline = time.monotonic() + seconds
    while (found := await read_place(redis)) <= place:
        assert time.monotonic() < deadline, f"learning stands at {found}"
        await asyncio.sleep(0.02)
    return found


def learn_undisturbed(records: list[ConsumerRecord]) -> list[Snapshot]:
    """What one learner makes of all the examples, each once, as one publication."""
    learners, once = LearnerSet(NAMES, SCHEMA, CATEGORICAL), {}
    for record in records:
        example = msgspec.json.decode(record.value, type=Example | Interaction)
        once.setdefault((example.partition, example.offset, example.index), record.value)
    created_at = max([learn_value(learners, value) for value in once.values()])
    assert (learners.refused, learners.repeated) == (0, 0)
    return learners.snapshots(rank(0, records[-1].offset), created_at)


async def test_a_learner_that_is_killed_again_and_again_learns_each_example_once(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    """Would have caught: examples learned twice that were in a snapshot, or sent twice by the outbox; some passed over
    by a learner that goes on at Kafka's offset; a model that is restored to nearly what it was."""
    kills = KILLS if (await probe(servers.kafka_bootstrap)).static_membership else FEWER
    chance, place = random.Random(7), 0
    log = compose_log(EVENTS, people=1_000)
    part = EVENTS // (kills + 1)
    job = Job(servers, redis, topic_prefix, tmp_path, OPTIONS)
    try:
        await job.create_topics()
        for kill in range(kills):
            # Given: a learner that has published since the last kill, and goes on learning
            doomed = job.start_worker()
            await job.send(log[kill * part : (kill + 1) * part])
            place = await wait_beyond(redis, place)
            await asyncio.sleep(chance.uniform(0.0, 0.3))
            # When: it dies at any moment
            doomed.kill()
            assert await asyncio.to_thread(doomed.process.wait, 10) == -signal.SIGKILL
        survivor = job.start_worker()
        await job.send(log[kills * part :])
        await job.wait_until(len(log))
        await job.wait_drained()
        examples = await job.read(job.settings.topics.examples)
        await wait_beyond(redis, examples[-1].offset)

        # Then: the models are those of one that was never disturbed, to the bit
        found = await read_newest(job)
        wanted = {snapshot.model: snapshot for snapshot in learn_undisturbed(examples)}
        assert found.keys() == wanted.keys() == {"conversion", "click", "recommend"}
        for name, snapshot in wanted.items():
            assert found[name] == snapshot, name
        assert wanted["click"].scoring, "too little was learned for anybody to speak"
        assert survivor.stop() == 0
    finally:
        job.end()
