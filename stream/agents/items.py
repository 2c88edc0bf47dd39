"""The items agent: catalogue upserts into Redis, through Faust's own consumer: the catalogue can be read again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

import msgspec
from redis.asyncio import Redis

from schemas.item import Item

log = logging.getLogger(__name__)

Record = tuple[bytes | None, bytes | None]
"""Key and value of a catalogue record; without a value it takes out the item that the key names."""

_decode = msgspec.json.Decoder(Item).decode


async def upsert_items(redis: Redis, records: Iterable[Record]) -> Counter[str]:
    """Write the items to `item:<item id>`, each whole, and take out those that are gone; how many were
    `kept`, `removed` and `rejected`.

    What can't be read stays in its topic, and is passed with a word about the field that is wrong.
    """
    results: Counter[str] = Counter()
    async with redis.pipeline(transaction=False) as pipe:
        for key, value in records:
            if value is None:
                results["rejected" if key is None else "removed"] += 1
                pipe.delete(b"item:" + (key or b""))
                continue
            try:
                item = _decode(value)
            except (ValueError, RecursionError, TypeError) as error:
                results["rejected"] += 1
                # The contract's own words name the field and what it must be, not what it was.
                reason = error if isinstance(error, msgspec.ValidationError) else type(error).__name__
                log.warning("catalogue item not read: %s", reason)
                continue
            name = f"item:{item.item_id}"
            pipe.delete(name)
            results["kept" if item.available else "removed"] += 1
            if item.available:
                fields = {name: str(value) for name, value in msgspec.to_builtins(item).items() if name != "available"}
                pipe.hset(name, mapping=fields)
        await pipe.execute()
    return results
