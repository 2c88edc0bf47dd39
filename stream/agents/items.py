"""The items agent: catalogue upserts into Redis, through Faust's own consumer: the catalogue can be read again."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta
from redis.asyncio import Redis

from schemas.event import Identifier, Name

log = logging.getLogger(__name__)


class CatalogueItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item as the catalogue topic holds it, keyed by `item_id`. `available=False` takes it out."""

    item_id: Identifier
    title: Annotated[str, Meta(max_length=512)] | None = None
    category: Name | None = None
    price: float | None = None
    currency: Annotated[str, Meta(min_length=3, max_length=3)] | None = None
    available: bool = True


_decode = msgspec.json.Decoder(CatalogueItem).decode


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
