"""The catalogue in Redis: each item whole, taken out when it is gone, and nothing that a value holds stops the rest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from stream.agents.items import upsert_items


def item(item_id: str = "i1", **fields: Any) -> bytes:
    return msgspec.json.encode({"item_id": item_id} | fields)


DEEP = b'{"item_id": "i1", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


async def kept(redis: Redis, item_id: str = "i1") -> dict[Any, Any]:
    return dict(await redis.hgetall(f"item:{item_id}"))


async def test_an_item_is_kept_whole_as_text(redis: Redis) -> None:
    assert await upsert_items(redis, [item(title="Tässe", category="cups", price=9.5, currency="EUR")]) == 0
    assert await kept(redis) == {
        b"item_id": b"i1",
        b"title": "Tässe".encode(),
        b"category": b"cups",
        b"price": b"9.5",
        b"currency": b"EUR",
    }


async def test_an_upsert_replaces_what_was_there(redis: Redis) -> None:
    await upsert_items(redis, [item(title="old", price=1.0), item(title="new")])
    assert await kept(redis) == {b"item_id": b"i1", b"title": b"new"}


async def test_an_item_that_is_gone_is_taken_out(redis: Redis) -> None:
    await upsert_items(redis, [item(), item("i2"), item(available=False)])
    assert await kept(redis) == {}
    assert await kept(redis, "i2")


@pytest.mark.parametrize(
    "broken",
    [b"", b"{", b"[]", b"null", b'{"item_id": 5}', b'{"item_id": "\xff"}', b"\xff", None, DEEP],
    ids=lambda value: "deep" if value and len(value) > 99 else repr(value),
)
async def test_what_can_not_be_read_is_counted_and_passed(redis: Redis, broken: Any) -> None:
    assert await upsert_items(redis, [item("a"), broken, item("b")]) == 1
    assert await kept(redis, "a")
    assert await kept(redis, "b")
    assert await redis.dbsize() == 2


async def test_no_items_are_no_work(redis: Redis) -> None:
    assert await upsert_items(redis, []) == 0
