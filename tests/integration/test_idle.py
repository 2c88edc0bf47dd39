"""A partition is quiet when its log was read to the end, and not when it can't be read."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from stream.embedded import Servers
from stream.produce import Record, produce
from stream.settings import AbandonedRule
from tests.integration.workers import PARTITIONS, PINNED, Job
from tests.unit.factories import event
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import eager

pytestmark = pytest.mark.timeout(150)

PEOPLE = [f"person-{number}" for number in range(40)]
LINEUP = make_lineup("conversion", "click", version=PINNED)


async def act(job: Job, people: list[str], kind: str) -> None:
    now = int(time.time() * 1000)
    drafts = [(user, event(user).of_type(kind).having(event_id=kind).at(now)) for user in people]
    records = [Record(user.encode(), draft.as_json(), []) for user, draft in drafts]
    await produce(records, job.settings.kafka.bootstrap, job.settings.topics.events)


async def test_nobody_is_asked_about_a_cart_whose_purchase_lies_unread_in_the_log(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path, broker_kind: str
) -> None:
    """Would have caught: a partition that can't be read, taken for one in which nothing happens."""
    if broker_kind == "embedded":
        pytest.skip("the embedded broker has no transactions")
    rules = (AbandonedRule(name="abandoned", after=5_000, cooldown=0),)
    options = eager(consent={"mode": "optional"}, idle_after=1_000, lateness=500, rules=rules, clock="log")
    job = Job(servers, redis, topic_prefix, tmp_path, options)
    topic = job.settings.topics.events
    await job.create_topics()
    await job.pin(LINEUP)
    try:
        await job.start_worker().wait_ready()
        await act(job, PEOPLE, "add_to_cart")
        await job.wait_until(len(PEOPLE))

        # When: a producer leaves its transaction open, behind which half of the people buy in time
        foreign = AIOKafkaProducer(bootstrap_servers=servers.kafka_bootstrap, transactional_id=topic)
        await foreign.start()
        await foreign.begin_transaction()
        for partition in range(PARTITIONS):
            await foreign.send_and_wait(topic, b"{}", partition=partition)
        await act(job, PEOPLE[:20], "purchase")
        await asyncio.sleep(9.0)
        assert not await job.triggers()
        await foreign.commit_transaction()
        await foreign.stop()

        # Then: they are not asked, and the others are, once the log is quiet
        await job.wait_until(len(PEOPLE) + 20 + PARTITIONS)
        for _ in range(100):
            if len(found := await job.triggers()) == 20:
                break
            await asyncio.sleep(0.1)
        assert {trigger.user_id for trigger in found} == set(PEOPLE[20:])
        references = await job.refer(LINEUP)
        decided = [msgspec.json.decode(e.value) for r in references for e in r.entries if e.target == "recommendations"]
        assert not {trigger["user_id"] for trigger in decided} & set(PEOPLE[:20])
    finally:
        job.end()
