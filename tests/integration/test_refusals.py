"""What the broker refuses: a record that nobody will take is passed, and what is forbidden is waited for, and named."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from redis.asyncio import Redis

from schemas.reasons import SOURCE_HEADER
from stream.broker import TopicSpec, ensure_topics, probe
from stream.broker.topics import open_admin
from stream.delivery.entries import REFUSED, name_topics
from stream.embedded import Guard, Servers, start_kafka
from stream.produce import Record as Outgoing
from stream.produce import produce
from stream.state.keys import name_key, tag_events
from tests.integration.workers import PARTITIONS, PINNED, Job, Worker, find_copies
from tests.unit.reference import Record, make_lineup
from tests.unit.test_batch_invariance import ask, compose_log, eager

pytestmark = pytest.mark.timeout(180)

RECORDS = 6_000
LINEUP = make_lineup("conversion", "click", version=PINNED)


async def test_a_letter_that_a_compacted_topic_does_not_take_is_parked_and_all_others_pass(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    """Would have caught: an outbox that one record without a key holds for ever."""
    if not (await probe(servers.kafka_bootstrap)).compaction:
        pytest.skip("this broker takes records without a key everywhere")
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event"))
    letters = job.settings.topics.dead_letters
    try:
        # given dead letters that go to a compacted topic, some of them without a key
        await ensure_topics(servers.kafka_bootstrap, [TopicSpec(name=letters, partitions=1, cleanup="compact")])
        await job.create_topics()
        await job.pin(LINEUP)
        log = compose_log(2_000)
        for number in (300, 301, 900, 1_500):
            log[number] = Record(0, log[number].timestamp, b"{", None)
        await job.send(log)

        # when a worker comes, then it parks those, and sends all others
        worker = job.start_worker()
        await job.wait_until(len(log))
        await job.wait_drained()
        references = await job.refer(LINEUP)
        entries = [entry for reference in references for entry in reference.entries]
        decided = {dict(e.headers)[SOURCE_HEADER]: e.key for e in entries if e.target == "dead_letters"}
        parked = [
            fields
            for partition in range(PARTITIONS)
            for _, fields in await redis.xrange(name_key("parked", tag_events(partition)))
        ]
        assert [(fields[b"key"], fields[b"error"]) for fields in parked] == [(b"", REFUSED.encode())] * 4
        found = {dict(record.headers)[SOURCE_HEADER] for record in await job.read(letters)}
        assert found == {source for source, key in decided.items() if key}
        assert found
        await worker.wait_ready()
        assert worker.stop() == 0
    finally:
        job.end()


class Rights:
    """A broker on which everybody may do everything to a topic that has no rules."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def deny_writes(self, topic: str) -> None:
        self._change("--add", topic)

    def allow_again(self, topic: str) -> None:
        self._change("--remove", topic, "--force")

    async def take_dates_ahead(self, topics: Sequence[str]) -> None:
        """Have topics take what is dated up to a day ahead."""
        change = {"message.timestamp.after.max.ms": str(24 * 3_600_000)}
        async with open_admin(self.bootstrap, None) as admin:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, change) for topic in topics])

    def _change(self, how: str, topic: str, *more: str) -> None:
        script = Path(os.environ["KAFKA_HOME"]) / "bin" / "kafka-acls.sh"
        rule = ["--allow-principal", "User:*", "--operation", "Read", "--operation", "Describe", "--topic", topic]
        command = [str(script), "--bootstrap-server", self.bootstrap, how, *rule, *more]
        subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def rights(guard: Guard) -> Iterator[Rights]:
    if not os.environ.get("KAFKA_HOME"):
        pytest.skip("the embedded broker knows no rights")
    options = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with start_kafka(Path(os.environ["KAFKA_HOME"]), guard.make_folder(), options=options, guard=guard) as server:
        yield Rights(f"127.0.0.1:{server.port}")


@pytest.fixture
async def make_job(
    rights: Rights, redis: Redis, redis_url: str, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[Callable[[str], Job]]:
    jobs: list[Job] = []

    def make(guarantee: str) -> Job:
        options = eager(clock="event", output_guarantee=guarantee, send_scores=True, outbox={"max_trigger_age": 0})
        jobs.append(Job(Servers(rights.bootstrap, redis_url, None), redis, topic_prefix, tmp_path, options))
        return jobs[-1]

    yield make
    for job in jobs:
        job.end()


async def wait_for_cause(worker: Worker, cause: str) -> None:
    deadline = time.monotonic() + 30
    while cause not in await asyncio.to_thread(worker.causes):
        assert time.monotonic() < deadline, worker.log.read_text()[-3_000:]
        await asyncio.sleep(0.05)


async def count_elsewhere(job: Job, topic: str) -> list[int]:
    """Records in the output topics but for `topic`."""
    return [len(await job.read(name)) for name in name_topics(job.settings).values() if name != topic]


async def wait_still(job: Job, topic: str, seconds: float = 60.0) -> list[int]:
    """Wait until nothing has come into the other output topics for a few tries; returns what is in them."""
    deadline, found = time.monotonic() + seconds, [-1]
    while (now := await count_elsewhere(job, topic)) != found:
        assert time.monotonic() < deadline
        found = now
        await asyncio.sleep(6.0)
    return found


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
async def test_a_topic_that_may_not_be_written_is_waited_for_named_and_told_once(
    make_job: Callable[[str], Job], rights: Rights, guarantee: str
) -> None:
    """Would have caught: a right that is missing, shown as a broker that does not answer, and logged at each try; what
    goes elsewhere, sent again with each of them."""
    job = make_job(guarantee)
    await job.create_topics()
    await job.pin(LINEUP)
    topic = job.settings.topics.recommendations
    worker = job.start_worker()
    await worker.wait_ready()

    # when the right to write triggers goes
    await asyncio.to_thread(rights.deny_writes, topic)
    await job.send(compose_log(RECORDS, people=RECORDS))
    await wait_for_cause(worker, "forbidden")
    await job.wait_until(RECORDS)
    elsewhere = await wait_still(job, topic)
    for _ in range(80):
        assert "forbidden" in await asyncio.to_thread(worker.causes)
        assert await asyncio.to_thread(worker.is_live)
        await asyncio.sleep(0.1)
    assert await count_elsewhere(job, topic) == elsewhere
    told = [line for line in worker.log.read_text().splitlines() if "waits for forbidden" in line]
    assert 0 < len(told) <= PARTITIONS, told

    # then all goes out once it is there again
    await asyncio.to_thread(rights.allow_again, topic)
    await job.wait_drained(60.0)
    await worker.wait_ready()
    references = await job.refer(LINEUP)
    await job.compare(references)
    entries = [entry for reference in references for entry in reference.entries]
    for target, name in name_topics(job.settings).items():
        copies = len(await job.read(name)) - sum(entry.target == target for entry in entries)
        assert not copies or guarantee == "at_least_once", await find_copies(job, name)
    assert worker.stop() == 0


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
async def test_what_is_dated_by_a_clock_that_the_broker_finds_wrong_waits_and_is_not_parked(
    make_job: Callable[[str], Job], rights: Rights, guarantee: str
) -> None:
    """Would have caught: every entry parked, because a clock is two hours ahead and the broker takes one."""
    # given a clock that is ahead
    job = make_job(guarantee)
    await job.create_topics()
    await job.pin(LINEUP)
    worker = job.start_worker("ahead")
    await worker.wait_ready()

    # when something is to be sent, then it waits, told and named
    await job.send(compose_log(RECORDS, people=RECORDS))
    await wait_for_cause(worker, "clock")
    await job.wait_until(RECORDS)
    assert sum(await count_elsewhere(job, "")) == 0
    assert await asyncio.to_thread(worker.is_live)
    told = [line for line in worker.log.read_text().splitlines() if "waits for clock" in line]
    assert 0 < len(told) <= PARTITIONS, told

    # and goes out, all of it, once the broker takes it
    await rights.take_dates_ahead(list(name_topics(job.settings).values()))
    await job.wait_drained(60.0)
    await worker.wait_ready()
    references = await job.refer(LINEUP)
    await job.compare(references)
    for target, name in name_topics(job.settings).items():
        decided = sum(entry.target == target for reference in references for entry in reference.entries)
        assert len(await job.read(name)) == decided
    assert worker.stop() == 0


async def test_a_ledger_that_may_not_pass_requests_on_is_held_and_named_all_the_while(
    make_job: Callable[[str], Job], rights: Rights
) -> None:
    """Would have caught: readiness that says yes between two tries."""
    job = make_job("at_least_once")
    await job.create_topics()
    worker = job.start_worker()
    await worker.wait_ready()
    topics = job.settings.topics
    await asyncio.to_thread(rights.deny_writes, topics.events)
    value, _ = ask("ann", {"personalisation": True}, None)
    await produce([Outgoing(b"ann", value, [])], job.settings.kafka.bootstrap, topics.privacy)
    await wait_for_cause(worker, "forbidden")
    for _ in range(120):
        assert "forbidden" in await asyncio.to_thread(worker.causes)
        await asyncio.sleep(0.1)
    assert worker.log.read_text().count("the broker forbids it") == 1
    await asyncio.to_thread(rights.allow_again, topics.events)
    await job.wait_until(1)
    await worker.wait_ready()
    assert worker.stop() == 0
