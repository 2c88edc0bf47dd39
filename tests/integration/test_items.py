"""The catalogue in Redis: each item whole, taken out when it is gone, and nothing that a value holds stops the rest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from stream.agents.items import upsert_items
from stream.embedded import Servers
from stream.produce import Record, produce
from tests.integration.workers import Job
from tests.unit.test_batch_invariance import eager


def item(item_id: str = "i1", **fields: Any) -> bytes:
    return msgspec.json.encode({"item_id": item_id} | fields)


DEEP = b'{"item_id": "i1", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


async def upsert(redis: Redis, *values: Any) -> dict[str, int]:
    return dict(await upsert_items(redis, [(b"i1", value) for value in values]))


async def kept(redis: Redis, item_id: str = "i1") -> dict[Any, Any]:
    return dict(await redis.hgetall(f"item:{item_id}"))


async def test_an_item_is_kept_whole_as_text(redis: Redis) -> None:
    assert await upsert(redis, item(title="Tässe", category="cups", price=9.5, currency="EUR")) == {"kept": 1}
    assert await kept(redis) == {
        b"item_id": b"i1",
        b"title": "Tässe".encode(),
        b"category": b"cups",
        b"price": b"9.5",
        b"currency": b"EUR",
    }


async def test_an_upsert_replaces_what_was_there(redis: Redis) -> None:
    assert await upsert(redis, item(title="old", price=1.0), item(title="new")) == {"kept": 2}
    assert await kept(redis) == {b"item_id": b"i1", b"title": b"new"}


async def test_an_item_that_is_gone_is_taken_out(redis: Redis) -> None:
    assert await upsert(redis, item(), item("i2"), item(available=False)) == {"kept": 2, "removed": 1}
    assert await kept(redis) == {}
    assert await kept(redis, "i2")


async def test_a_record_without_a_value_takes_out_the_item_of_its_key(redis: Redis) -> None:
    assert await upsert(redis, item(), item("i2"), None) == {"kept": 2, "removed": 1}
    assert await kept(redis) == {}
    assert await kept(redis, "i2")
    assert dict(await upsert_items(redis, [(None, None)])) == {"rejected": 1}


@pytest.mark.parametrize(
    "broken",
    [b"", b"{", b"[]", b"null", b'{"item_id": 5}', b'{"item_id": "\xff"}', b"\xff", DEEP],
    ids=lambda value: "deep" if value and len(value) > 99 else repr(value),
)
async def test_what_can_not_be_read_is_counted_and_passed(redis: Redis, broken: Any) -> None:
    assert await upsert(redis, item("a"), broken, item("b")) == {"kept": 2, "rejected": 1}
    assert await kept(redis, "a")
    assert await kept(redis, "b")
    assert await redis.dbsize() == 2


async def test_no_items_are_no_work(redis: Redis) -> None:
    assert await upsert(redis) == {}


async def test_a_worker_keeps_the_catalogue_that_lies_in_its_topic(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event"))
    await job.create_topics()
    records = [(b"i1", item()), (b"i2", item("i2", title="two")), (b"x", b"{"), (b"i1", None)]
    await produce([Record(*each) for each in records], servers.kafka_bootstrap, job.settings.topics.items)
    try:
        worker = job.start_worker()
        await worker.wait_ready()
        for _ in range(200):
            if 'nudge_catalogue_records_total{result="removed"} 1.0' in await asyncio.to_thread(worker.metrics):
                break
            await asyncio.sleep(0.1)
        assert await kept(redis) == {}
        assert await kept(redis, "i2") == {b"item_id": b"i2", b"title": b"two"}
        exposed = await asyncio.to_thread(worker.metrics)
        assert 'nudge_catalogue_records_total{result="rejected"} 1.0' in exposed
    finally:
        job.end()
