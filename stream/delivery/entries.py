"""Entries outside of a batch: where they go, and how they lie in the streams `outbox` and `parked` in Redis."""

from __future__ import annotations

from typing import Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from stream.delivery.fence import rank
from stream.settings import Settings
from stream.stages.batch import Entry, Position, Target
from stream.state.client import call
from stream.state.keys import Tag, name_key

_headers: Final = msgspec.msgpack.Decoder(tuple[tuple[str, bytes | None], ...])
_pack: Final = msgspec.msgpack.Encoder().encode


def name_topics(settings: Settings) -> dict[Target, str]:
    """Topic that each kind of entry goes to."""
    topics = settings.topics
    return {
        "recommendations": topics.recommendations,
        "examples": topics.examples,
        "dead_letters": topics.dead_letters,
    }


def read_entry(identity: bytes, fields: dict[bytes, bytes]) -> Entry:
    """An entry as the streams `outbox` and `parked` hold it."""
    offset, index = identity.split(b"-")
    packed = fields[b"headers"]
    return Entry(
        Position(int(offset), int(index)),
        fields[b"target"].decode(),  # type: ignore[arg-type]
        fields[b"key"],
        fields[b"value"],
        _headers.decode(packed) if packed else (),
        int(fields[b"at"]),
    )


async def park_entry(redis: Redis, tag: Tag, generation: int, entry: Entry, error: str) -> bool:
    """Put an entry aside that can't be sent, and why; False if it lies there already. Raises `RedisError`."""
    fields = ("target", entry.target, "key", entry.key, "value", entry.value, "headers", _pack(entry.headers))
    offset, number = entry.position
    place = f"{rank(generation, offset)}-{number}"
    try:
        await call(redis, "XADD", name_key("parked", tag), place, *fields, "at", entry.at, "error", error)
    except ResponseError as refusal:
        if "equal or smaller" not in str(refusal):
            # A Redis that is full, or a replica: the entry must not go before it lies here.
            raise
        return False
    return True
