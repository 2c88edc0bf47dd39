"""A topic made anew under a running worker begins its offsets again, and nothing new is taken for a copy of the old."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from models.lifecycle.snapshot import Snapshot, open_sealed
from schemas.example import Example, Interaction
from schemas.privacy import PURPOSES
from stream.embedded import Servers
from stream.partition import find_partition
from stream.produce import Record as Outgoing
from stream.produce import produce
from stream.state.keys import name_key, tag_events, tag_source
from tests.integration.test_log_mismatch import make_topic_anew
from tests.integration.workers import KEY, PARTITIONS, Job
from tests.unit.factories import NOON, event
from tests.unit.reference import Record
from tests.unit.test_batch_invariance import eager

EXAMPLES = tag_source("examples", 0)
DAY = 86_400_000

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def job(servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Job]:
    """A job with a worker that begins anew at a log's start, and that nobody need consent to."""
    options = eager(
        clock="event",
        consent={"mode": "optional"},
        on_log_mismatch="earliest",
        models={"snapshot_interval": 200, "reload_interval": 100, "keep": 100},
    )
    job = Job(servers, redis, topic_prefix, tmp_path, options)
    await job.create_topics()
    await job.start_worker().wait_ready()
    yield job
    job.end()


def compose_visits(count: int, at: int) -> list[Record]:
    """Each person sees an advertisement, clicks on it and buys: examples of every outcome, whatever came before."""
    records = []
    for number in range(count):
        for step, kind in enumerate(("ad_impression", "ad_click", "purchase")):
            draft = event(f"u{number}", item_id=f"i{number % 9}", campaign_id="c", session_id=f"s{step}")
            moment = at + number * 1_000 + step
            value = draft.of_type(kind).known_as(f"{at}-{number}-{step}").at(moment).as_json()
            records.append(Record(len(records), moment, value, f"u{number}".encode()))
    return records


async def read_newest(job: Job) -> dict[str, Snapshot]:
    """The newest snapshot of every model."""
    found = {}
    for name, version in (await job.redis.hgetall(name_key("snapshots", EXAMPLES))).items():
        data = await job.redis.get(name_key("snapshot", EXAMPLES, name.decode(), version.decode()))
        if data is not None:
            found[name.decode()] = open_sealed(data, KEY.encode())
    return found


async def count_examples(job: Job, since: int = 0) -> Counter[str]:
    """Examples in the topic by outcome, second copies and the first `since` records aside."""
    records = (await job.read(job.settings.topics.examples))[since:]
    examples = [msgspec.json.decode(record.value, type=Example | Interaction) for record in records]
    once = {(e.partition, e.generation, e.offset, e.index): e for e in examples}
    return Counter(e.outcome for e in once.values() if isinstance(e, Example))


async def wait_learned(job: Job, wanted: Counter[str]) -> dict[str, Snapshot]:
    """The newest snapshots, once they include `wanted` examples."""
    deadline = time.monotonic() + 30
    found: dict[str, Snapshot] = {}
    while {name: found[name].metrics["examples"] for name in wanted if name in found} != wanted:
        assert time.monotonic() < deadline, {name: one.metrics for name, one in found.items()}
        await asyncio.sleep(0.1)
        found = await read_newest(job)
    return found


async def test_examples_of_an_events_topic_made_anew_are_learned(job: Job) -> None:
    await job.send(compose_visits(300, NOON))
    await job.wait_until(900)
    await job.wait_drained()
    before = await count_examples(job)
    await wait_learned(job, before)

    await make_topic_anew(job)
    await job.send(compose_visits(100, NOON + DAY))
    await job.wait_until(1_200)
    await job.wait_drained()

    both = await count_examples(job)
    assert all(both[name] > before[name] for name in before)
    models = await wait_learned(job, both)
    for name in both:
        assert {generation for generation, _, _ in models[name].positions.values()} == {1}
    assert await job.redis.hget(name_key("fence", tag_events(0)), "generation") == b"1"


async def test_versions_go_on_when_the_examples_topic_is_made_anew(job: Job) -> None:
    await job.send(compose_visits(300, NOON))
    await job.wait_until(900)
    await job.wait_drained()
    old = await wait_learned(job, await count_examples(job))

    await make_topic_anew(job, job.settings.topics.examples)
    await job.send(compose_visits(100, NOON + DAY))
    await job.wait_until(1_200)
    await job.wait_drained()

    wanted = await count_examples(job)
    assert wanted.keys() == old.keys() - {"recommend"}
    models = await wait_learned(job, wanted)
    assert all(model.version > old[name].version for name, model in models.items())
    assert "is older than" not in job.workers[0].log.read_text()


async def test_a_withdrawal_from_a_privacy_topic_made_anew_takes_effect(job: Job) -> None:
    tag = tag_events(find_partition("ann", PARTITIONS, "murmur2"))
    consent = name_key("consent", tag, "ann")
    await ask(job, *[True] * 3)
    await job.wait_until(3)
    assert await job.redis.hmget(consent, "marketing", "@0") == [b"1", b"2"]

    await make_topic_anew(job, job.settings.topics.privacy)
    await ask(job, False)
    await job.wait_until(4)

    assert await job.redis.hmget(consent, "marketing", "@0") == [b"0", b"1/0"]


async def test_a_withdrawal_takes_effect_when_redis_is_lost_after_the_privacy_topic_was_made_anew(
    job: Job, broker_kind: str
) -> None:
    """Would have caught: a generation that stands in Redis alone, beside places of it in the events topic."""
    if broker_kind == "embedded":
        pytest.skip("Tansu keeps no metadata of offsets")
    consent = name_key("consent", tag_events(find_partition("ann", PARTITIONS, "murmur2")), "ann")
    await ask(job, *[True] * 3)
    await job.wait_until(3)
    await make_topic_anew(job, job.settings.topics.privacy)
    await ask(job, False, True, at=NOON + DAY)
    await wait_decided(job, consent, b"1", b"1/1")
    assert job.workers[0].stop() == 0

    await job.redis.flushall()
    await job.start_worker().wait_ready()
    await wait_decided(job, consent, b"1", b"1/1")
    await ask(job, False, at=NOON + 2 * DAY)
    await wait_decided(job, consent, b"0", b"1/2")


async def test_examples_are_learned_when_redis_is_lost_after_the_events_topic_was_made_anew(
    job: Job, broker_kind: str
) -> None:
    if broker_kind == "embedded":
        pytest.skip("Tansu keeps no metadata of offsets")
    await job.send(compose_visits(300, NOON))
    await job.wait_until(900)
    await job.wait_drained()
    await make_topic_anew(job)
    await job.send(compose_visits(100, NOON + DAY))
    await job.wait_until(1_200)
    await job.wait_drained()
    before = await count_examples(job)
    await wait_learned(job, before)
    assert job.workers[0].stop() == 0

    await job.redis.flushall()
    await job.start_worker().wait_ready()
    await job.wait_until(300)
    await job.wait_drained()
    replayed = len(await job.read(job.settings.topics.examples))
    await job.send(compose_visits(50, NOON + 2 * DAY))
    await job.wait_until(450)
    await job.wait_drained()

    # What was lost is learned from the topic, and what came since on top; of the replay come copies alone.
    late = await count_examples(job, since=replayed)
    assert late.keys() == before.keys()
    await wait_learned(job, before + late)
    assert await job.redis.hget(name_key("fence", tag_events(0)), "generation") == b"1"


async def wait_decided(job: Job, consent: str, allowed: bytes, place: bytes) -> None:
    """Wait until a person's consent to marketing is `allowed`, by the request at `place` of the ledger."""
    deadline = time.monotonic() + 30
    while (found := await job.redis.hmget(consent, "marketing", "@0")) != [allowed, place]:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)


async def ask(job: Job, *allowed: bool, at: int = NOON) -> None:
    """Privacy requests of one person, each for every purpose."""
    values = [
        {"request_id": f"r{n}", "user_id": "ann", "ts": at + n, "consent": dict.fromkeys(PURPOSES, one)}
        for n, one in enumerate(allowed)
    ]
    records = [Outgoing(b"ann", msgspec.json.encode(value), []) for value in values]
    await produce(records, job.settings.kafka.bootstrap, job.settings.topics.privacy)
