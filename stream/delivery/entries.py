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

REFUSED: Final = "the broker refused it for good"
"""Why an entry was parked, where it was not left out for its size."""

_headers: Final = msgspec.msgpack.Decoder(tuple[tuple[str, bytes | None], ...])
_pack: Final = msgspec.msgpack.Encoder().encode


def name_topics(settings: Settings) -> dict[Target, str]:
    """Topic that each kind of entry goes to."""
    topics = settings.topics
    return {
        "recommendations": topics.recommendations,
        "scored": topics.scored,
        "examples": topics.examples,
        "dead_letters": topics.dead_letters,
    }


def read_entry(identity: bytes, fields: dict[bytes, bytes]) -> Entry:
    """An entry as the streams `outbox` and `parked` hold it; its position is the id where no field names another."""
    offset, index = fields.get(b"position", identity).split(b"-")
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
    key, (offset, number) = name_key("parked", tag), entry.position
    place = f"{rank(generation, offset)}-{number}"
    fields = ("target", entry.target, "key", entry.key, "value", entry.value, "headers", _pack(entry.headers))
    rest = (*fields, "at", entry.at, "error", error)
    try:
        await call(redis, "XADD", key, place, *rest)
    except ResponseError as refusal:
        if "equal or smaller" not in str(refusal):
            # A Redis that is full, or a replica: the entry must not go before it lies here.
            raise
        if await _is_parked(redis, key, place, entry):
            return False
        # Ids grow, but a fence that was moved backwards leads to lower places; twice here is better than nowhere.
        await call(redis, "XADD", key, "*", "position", place, *rest)
    return True


async def _is_parked(redis: Redis, key: str, place: str, entry: Entry) -> bool:
    """Whether this entry lies in its place, and not what was decided there before with other settings."""
    for _, fields in await call(redis, "XRANGE", key, place, place):
        there = read_entry(place.encode(), fields)
        return (there.target, there.key, there.value) == (entry.target, entry.key, entry.value)
    return False
