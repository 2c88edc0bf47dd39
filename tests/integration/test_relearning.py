"""A missing snapshot makes the learner learn again from what there is, and say so; it never starts in the middle."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from pathlib import Path

import pytest
from redis.asyncio import Redis

from models.lifecycle.registry import Champions
from models.lifecycle.snapshot import Snapshot, seal
from models.outcomes.features import SCHEMA
from stream.agents.models import ModelLoader
from stream.embedded import Servers
from stream.metrics import Metrics
from stream.settings import Settings
from stream.state.keys import name_key
from tests.integration.test_log_generation import EXAMPLES, compose_visits, read_newest
from tests.integration.workers import KEY, Job, Worker
from tests.unit.factories import NOON
from tests.unit.reference import make_scorer
from tests.unit.test_batch_invariance import eager

pytestmark = pytest.mark.timeout(180)

MODELS = ("click", "conversion", "recommend")
OPTIONS = eager(clock="event", consent={"mode": "optional"}, models={"snapshot_interval": 200, "keep": 100})


async def wait_version(job: Job, version: int) -> dict[str, Snapshot]:
    """The newest snapshots, once there is one of each model, of `version`."""
    deadline = time.monotonic() + 30
    found = await read_newest(job)
    while {name: one.version for name, one in found.items()} != dict.fromkeys(MODELS, version):
        assert time.monotonic() < deadline, {name: one.version for name, one in found.items()}
        await asyncio.sleep(0.1)
        found = await read_newest(job)
    return found


def count_relearns(worker: Worker) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("nudge_relearns_total ")))


@pytest.mark.parametrize("lost", [MODELS[-1:], MODELS])
async def test_a_missing_snapshot_is_learned_again_from_the_examples_that_are_there(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    job = Job(servers, redis, topic_prefix, tmp_path, OPTIONS)
    try:
        # Given: a worker that has learned all there is, and left
        await job.create_topics()
        worker = job.start_worker()
        await job.send(compose_visits(200, NOON))
        await job.wait_until(600)
        await job.wait_drained()
        last = max(record.offset for record in await job.read(job.settings.topics.examples))
        learned = await wait_version(job, last)
        assert count_relearns(worker) == 0
        assert worker.stop() == 0

        # When: snapshots get lost, and a worker comes
        for name in lost:
            await redis.delete(name_key("snapshot", EXAMPLES, name, last))
        worker = job.start_worker()
        await worker.wait_ready()

        # Then: it says so, and ends with what was there, to the bit
        again = await wait_version(job, last)
        for name, snapshot in learned.items():
            assert again[name].learning == snapshot.learning
            assert again[name].positions == snapshot.positions
        assert count_relearns(worker) == 1
        assert f"no snapshot {last} of {', '.join(lost)}" in worker.log.read_text()
    finally:
        job.end()


async def publish(redis: Redis, version: int) -> None:
    scorer = make_scorer()
    snapshot = Snapshot(
        model="conversion",
        kind="outcome",
        version=version,
        schema=SCHEMA,
        created_at=0,
        positions={},
        metrics={},
        scoring=scorer.to_bytes(),
        learning=b"",
    )
    await redis.set(name_key("snapshot", EXAMPLES, "conversion", version), seal(snapshot, KEY.encode()))
    await redis.hset(name_key("snapshots", EXAMPLES), "conversion", str(version))


async def test_a_pinned_model_is_used_until_it_is_unpinned_wherever_that_leads(redis: Redis) -> None:
    champions = Champions(SCHEMA)
    loader = ModelLoader(Settings(), redis, champions, KEY.encode(), 1, Metrics())
    await publish(redis, 20)
    for version in (3, 5, 8):
        await publish(redis, version)
    used = []
    # The newest is 8; 20 is kept from before it was all learned again.
    for pin in (None, 5, 20, 3, None, 20, None, 20, 8, None):
        await redis.delete(name_key("pins", EXAMPLES))
        if pin is not None:
            await redis.hset(name_key("pins", EXAMPLES), "conversion", str(pin))
        await loader.load()
        held = champions.outcome("conversion")
        assert held is not None
        used.append(held[1])
    assert used == [8, 5, 20, 3, 8, 20, 8, 20, 8, 8]


async def test_the_version_in_the_settings_wins_over_a_pin(redis: Redis) -> None:
    champions = Champions(SCHEMA)
    settings = Settings(models={"pinned": 5})
    loader = ModelLoader(settings, redis, champions, KEY.encode(), 1, Metrics())
    for version in (3, 5, 8):
        await publish(redis, version)
    await redis.hset(name_key("pins", EXAMPLES), "conversion", "3")
    await loader.load()
    held = champions.outcome("conversion")
    assert held is not None
    assert held[1] == 5


async def test_a_pin_at_what_is_not_there_or_not_signed_leaves_what_is_in_use(redis: Redis) -> None:
    champions = Champions(SCHEMA)
    loader = ModelLoader(Settings(), redis, champions, KEY.encode(), 1, Metrics())
    await publish(redis, 8)
    for pin, foreign in ((4, None), (9, b"x" * 64), (None, None)):
        if foreign is not None:
            await redis.set(name_key("snapshot", EXAMPLES, "conversion", pin), foreign)
        if pin is None:
            await redis.delete(name_key("pins", EXAMPLES))
        else:
            await loader.load()
            await redis.hset(name_key("pins", EXAMPLES), "conversion", str(pin))
        await loader.load()
        held = champions.outcome("conversion")
        assert held is not None
        assert held[1] == 8
    # Nothing of it is left: it goes on as if there had been no pin.
    assert (loader.seen, loader.pinned) == ({"conversion": 8}, set())


async def test_a_model_in_use_stays_until_the_one_that_is_learned_again_has_passed_it(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    champions = Champions(SCHEMA)
    loader = ModelLoader(Settings(), redis, champions, KEY.encode(), 1, Metrics())
    used = []
    for version in (8, 3, 5, 8, 9, 4):
        await publish(redis, version)
        await loader.load()
        held = champions.outcome("conversion")
        assert held is not None
        used.append(held[1])
    assert used == [8, 8, 8, 8, 9, 9]
    said = [record.getMessage() for record in caplog.records if record.name == "stream.agents.models"]
    assert said == [
        "conversion is learned again, now at version 3; 8 stays in use until that is passed",
        "conversion is learned again, now at version 4; 9 stays in use until that is passed",
    ]
