"""The items agent: catalogue upserts into Redis, through Faust's own consumer: the catalogue can be read again."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec
from redis.asyncio import Redis

from schemas.item import Item

log = logging.getLogger(__name__)


_decode = msgspec.json.Decoder(Item).decode


async def upsert_items(redis: Redis, values: Iterable[bytes]) -> int:
    """Write the items to `item:<item id>`, each whole; return how many could not be read."""
    broken = 0
    async with redis.pipeline(transaction=False) as pipe:
        for value in values:
            try:
                item = _decode(value)
            except (ValueError, RecursionError, TypeError) as error:
                broken += 1
                log.warning("catalogue item not read: %s", type(error).__name__)
                continue
            key = f"item:{item.item_id}"
            pipe.delete(key)
            if item.available:
                fields = {name: str(value) for name, value in msgspec.to_builtins(item).items() if name != "available"}
                pipe.hset(key, mapping=fields)
        await pipe.execute()
    return broken
