"""What is found out about a broker holds on that broker; topics are created once, whoever asks."""

import asyncio
import logging
import socket
import time

import pytest

from stream.broker import (
    BrokerError,
    Capabilities,
    TopicSpec,
    TopicState,
    describe_topics,
    ensure_topics,
    probe,
)
from stream.embedded import free_port

NOTHING = Capabilities(
    idempotence=False,
    transactions=False,
    compaction=False,
    end_offsets=False,
    log_append_time=False,
    static_membership=False,
)
EVERYTHING = Capabilities(**dict.fromkeys(Capabilities.__struct_fields__, True))
KNOWN = {"embedded": NOTHING, "kafka": EVERYTHING, "docker": EVERYTHING}


async def test_the_probe_tells_what_the_broker_can_do(
    broker_kind: str, kafka_bootstrap: str, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = await probe(kafka_bootstrap, topic=f"{topic_prefix}probe")
    assert found == KNOWN.get(broker_kind, found)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_second_probe_is_quick_and_says_the_same(kafka_bootstrap: str, topic_prefix: str) -> None:
    first = await probe(kafka_bootstrap, topic=f"{topic_prefix}probe")
    started = time.monotonic()
    assert await probe(kafka_bootstrap, topic=f"{topic_prefix}probe") == first
    assert time.monotonic() - started < 5  # well under a second on an idle machine


async def test_workers_that_probe_at_once_see_the_same(kafka_bootstrap: str, topic_prefix: str) -> None:
    topic = f"{topic_prefix}probe"
    alone = await probe(kafka_bootstrap, topic=topic)
    assert set(await asyncio.gather(*(probe(kafka_bootstrap, topic=topic) for _ in range(5)))) == {alone}


async def test_the_probe_does_not_wait_for_a_mute_server() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        started = time.monotonic()
        with pytest.raises(BrokerError, match="no Kafka broker answers"):
            await probe(f"127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.5)
        assert time.monotonic() - started < 5


async def test_no_broker_is_named_as_the_reason() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(BrokerError, match=f"no Kafka broker answers at {address}"):
        await ensure_topics(address, [])


async def test_missing_topics_are_created_as_specified(kafka_bootstrap: str, topic_prefix: str) -> None:
    events, items = f"{topic_prefix}events", f"{topic_prefix}items"
    specs = [
        TopicSpec(name=events, partitions=6, retention_ms=86_400_000, timestamp_type="LogAppendTime"),
        TopicSpec(name=items, partitions=2, cleanup="compact"),
    ]
    assert await ensure_topics(kafka_bootstrap, specs) == {events: 6, items: 2}
    assert await describe_topics(kafka_bootstrap, [events, items]) == {
        events: TopicState(partitions=6, cleanup="delete", retention_ms=86_400_000, timestamp_type="LogAppendTime"),
        items: TopicState(partitions=2, cleanup="compact", retention_ms=-1, timestamp_type="CreateTime"),
    }


async def test_an_existing_topic_is_left_as_it_is(kafka_bootstrap: str, topic_prefix: str) -> None:
    name = f"{topic_prefix}events"
    await ensure_topics(kafka_bootstrap, [TopicSpec(name=name, partitions=3, retention_ms=1000)])
    wanted = TopicSpec(name=name, partitions=8, retention_ms=2000)
    assert await ensure_topics(kafka_bootstrap, [wanted]) == {name: 3}
    assert (await describe_topics(kafka_bootstrap, [name]))[name].retention_ms == 1000


async def test_workers_may_create_the_same_topics_at_once(kafka_bootstrap: str, topic_prefix: str) -> None:
    specs = [TopicSpec(name=f"{topic_prefix}{n}", partitions=n) for n in range(1, 5)]
    counts = await asyncio.gather(*(ensure_topics(kafka_bootstrap, specs) for _ in range(6)))
    assert counts == [{spec.name: spec.partitions for spec in specs}] * 6


async def test_describing_a_missing_topic_does_not_create_it(kafka_bootstrap: str, topic_prefix: str) -> None:
    name = f"{topic_prefix}missing"
    assert await describe_topics(kafka_bootstrap, [name]) == {}
    await asyncio.sleep(0.2)  # automatic creation would follow the request
    assert await describe_topics(kafka_bootstrap, [name]) == {}


async def test_a_refused_topic_is_named(kafka_bootstrap: str, broker_kind: str) -> None:
    if broker_kind == "embedded":
        pytest.skip("Tansu accepts any name")
    with pytest.raises(BrokerError, match="topic not/allowed was not created"):
        await ensure_topics(kafka_bootstrap, [TopicSpec(name="not/allowed", partitions=1)])
