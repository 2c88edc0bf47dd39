"""Texts that take longer than the group waits for a member hold up their own partition, and nothing else.

And the scorer that ships, in a worker: at a fixed level its scores are those of a replay, under load it takes what is
cheaper, and nobody waits for it to be loaded.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from redis.asyncio import Redis

from models.sentiment import Cascade
from stream.embedded import Servers
from stream.partition import find_partition
from stream.produce import Record, produce
from stream.settings import Sentiment
from stream.state.keys import name_key, tag_events
from tests.integration.workers import PARTITIONS, PINNED, Job, Worker
from tests.unit.factories import event
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import REVIEWS, eager

pytestmark = pytest.mark.timeout(180)

LINEUP = make_lineup("conversion", "click", version=PINNED)
TEXTS = 500
OTHERS = 3_000
SLOW = "person-0"
"""Whoever writes all the texts."""
TEXT = 9 * "the parcel came late and the box was torn, but what was inside of it works well enough so far; "


def count_rebalances(worker: Worker) -> float:
    found = re.search(r"^nudge_rebalances_total (\S+)", worker.metrics(), re.M)
    assert found is not None
    return float(found[1])


def count_long_lags(worker: Worker, bound: str) -> float:
    """How often the event loop came more than `bound` seconds late."""
    counts = dict(re.findall(r'^nudge_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', worker.metrics(), re.M))
    return float(counts["+Inf"]) - float(counts[bound])


async def read_next(redis: Redis, partition: int) -> int:
    return int(await redis.hget(name_key("fence", tag_events(partition)), "next") or 0)


async def test_a_batch_of_texts_that_outlasts_the_session_costs_no_membership_and_holds_nobody_else_up(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    """Would have caught: a transformer on the event loop, behind which heartbeats, polls and commits wait."""
    options = eager(consent={"mode": "optional"}, clock="event")
    job = Job(servers, redis, topic_prefix, tmp_path, options)
    job.settings = job.settings.model_copy(update={"sentiment": Sentiment(level="0")})
    slow = find_partition(SLOW, PARTITIONS, "murmur2")
    await job.create_topics()
    try:
        worker = job.start_worker()
        await worker.wait_ready()
        before = count_rebalances(worker)

        # When one batch has texts for longer than the session of 3 s, and the other partitions have plenty to do
        reviews = [event(SLOW).of_type("review").having(event_id=f"t{n}", content=f"{n}: {TEXT}") for n in range(TEXTS)]
        people = [f"person-{n}" for n in range(1, OTHERS)]
        drafts = [
            (user, event(user).having(event_id="v"))
            for user in people
            if find_partition(user, PARTITIONS, "murmur2") != slow
        ]
        topic, bootstrap = job.settings.topics.events, job.settings.kafka.bootstrap
        began = time.monotonic()
        await produce([Record(SLOW.encode(), draft.as_json()) for draft in reviews], bootstrap, topic)
        await produce([Record(user.encode(), draft.as_json()) for user, draft in drafts], bootstrap, topic)

        # Then the others are done while the texts are not
        await job.wait_until(len(drafts), 30.0)
        assert await read_next(redis, slow) < TEXTS

        # and the worker is still the same member when the texts are done, which was longer than its session
        await job.wait_until(len(drafts) + TEXTS)
        assert time.monotonic() - began > job.settings.kafka.session_timeout / 1000
        assert count_rebalances(worker) == before
        assert await worker.partitions() == set(range(PARTITIONS))
        assert count_long_lags(worker, "2.5") == 0
        assert worker.stop() == 0
        assert worker.errors() == []
    finally:
        job.end()


async def read_sources(worker: Worker, texts: int, seconds: float = 30.0) -> dict[tuple[str, str], int]:
    """Texts by (level, who answered), when all are told of: they count in Redis a moment before."""
    deadline = time.monotonic() + seconds
    while True:
        page = await asyncio.to_thread(worker.metrics)
        rows = re.findall(r'^nudge_sentiment_source_total\{level="(\d)",source="(\w+)"\} (\S+)', page, re.M)
        found = {(level, source): int(float(count)) for level, source, count in rows}
        if sum(found.values()) == texts:
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)


def prepare(servers: Servers, redis: Redis, prefix: str, folder: Path, scorer: Sentiment, **more: Any) -> Job:
    job = Job(servers, redis, prefix, folder, eager(consent={"mode": "optional"}, clock="event", **more))
    job.settings = job.settings.model_copy(update={"sentiment": scorer})
    return job


async def send_texts(job: Job, texts: Sequence[tuple[str, str | None]], user: str = "person") -> None:
    """Send texts, from many people unless `user` is one, each with its language or none."""
    drafts = [
        event(user if user == SLOW else f"{user}-{n % 50}").of_type("review").known_as(f"t{n}").saying(text, lang)
        for n, (text, lang) in enumerate(texts)
    ]
    records = [Record(draft.fields["user_id"].encode(), draft.as_json()) for draft in drafts]
    await produce(records, job.settings.kafka.bootstrap, job.settings.topics.events)


@pytest.mark.parametrize("level", ["2", "4"])
async def test_at_a_fixed_level_a_worker_scores_as_a_replay_does(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path, level: Literal["2", "4"]
) -> None:
    job = prepare(servers, redis, topic_prefix, tmp_path, Sentiment(level=level), send_scores=True)
    texts = [(f"{REVIEWS[n % len(REVIEWS)]} ({n})", "en" if n % 7 == 0 else None) for n in range(200)]
    await job.create_topics()
    await job.pin(LINEUP)
    try:
        worker = job.start_worker()
        await send_texts(job, texts)
        await job.wait_until(len(texts))
        sources = await read_sources(worker, len(texts))
        assert worker.stop() == 0
        await job.wait_drained()

        cascade = Cascade(level=int(level))
        await job.compare(await job.refer(LINEUP, cascade))
        assert sources == {(level, source): count for source, count in cascade.answered.items() if count}
        assert ("2", "transformer") in sources or level == "4"
    finally:
        job.end()


async def test_under_load_the_level_falls_and_every_text_says_where_it_was_scored(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    texts = 1_000
    job = prepare(servers, redis, topic_prefix, tmp_path, Sentiment(deadline=20), batch={"max_records": 10})
    await job.create_topics()
    try:
        worker = job.start_worker()
        await worker.wait_ready()
        await wait_loaded(worker)
        log = [(f"{n}: {TEXT}", "en") for n in range(texts)]
        await send_texts(job, log[:1])
        await job.wait_until(1)
        await send_texts(job, log[1:], "other")
        await job.wait_until(texts)

        sources = await read_sources(worker, texts)
        # It goes up again after some calm batches, and finds the load where it was.
        assert sum(count for (level, _), count in sources.items() if level != "0") > texts / 2
        assert sum(count for (level, _), count in sources.items() if level == "4") > texts / 4
        assert {source for (level, source) in sources if level == "4"} == {"student"}
        assert "transformer" in {source for _, source in sources}
        level = re.search(r"^nudge_sentiment_level (\S+)", worker.metrics(), re.M)
        assert level is not None
        assert float(level[1]) > 0
        assert worker.stop() == 0
    finally:
        job.end()


async def wait_loaded(worker: Worker, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while 'nudge_sentiment_model{source="transformer"' not in worker.metrics():
        assert time.monotonic() < deadline, "the transformer is not there"
        await asyncio.sleep(0.05)


async def test_while_the_transformer_is_loaded_neither_start_nor_event_nor_text_nor_stop_waits_for_it(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    """The transformer of this worker is never loaded."""
    job = prepare(servers, redis, topic_prefix, tmp_path, Sentiment())
    await job.create_topics()
    try:
        worker = job.start_worker("unloaded")
        await worker.wait_ready()
        people = [event(f"person-{n}").having(event_id="v") for n in range(200)]
        views = [Record(draft.fields["user_id"].encode(), draft.as_json()) for draft in people]
        await produce(views, job.settings.kafka.bootstrap, job.settings.topics.events)
        await send_texts(job, [(f"{n}: {TEXT}", "en") for n in range(100)])
        await job.wait_until(300, 20.0)
        assert await read_sources(worker, 100) == {("4", "student"): 100}
        assert worker.stop() == 0
    finally:
        job.end()


async def test_at_a_fixed_level_events_without_text_do_not_wait_for_the_transformer(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    """The transformer of this worker is never loaded, and one partition waits for it."""
    job = prepare(servers, redis, topic_prefix, tmp_path, Sentiment(level="0"))
    slow = find_partition(SLOW, PARTITIONS, "murmur2")
    await job.create_topics()
    try:
        worker = job.start_worker("unloaded")
        await worker.wait_ready()
        await send_texts(job, [(TEXT, "en")], SLOW)
        drafts = [event(f"person-{n}").having(event_id="v") for n in range(1, 200)]
        others = [
            Record(draft.fields["user_id"].encode(), draft.as_json())
            for draft in drafts
            if find_partition(draft.fields["user_id"], PARTITIONS, "murmur2") != slow
        ]
        await produce(others, job.settings.kafka.bootstrap, job.settings.topics.events)
        await job.wait_until(len(others), 20.0)
        assert await read_next(redis, slow) == 0
    finally:
        job.end()
