"""What operators chose over what the learner and the evidence say: versions pinned, contestants promoted.

A pin holds a model's version until it is taken away. A promotion says whose scorer is published; it changes nothing
that is learned, and from which version on which held is written down, so that any version can be learned again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from redis.asyncio import Redis

from stream.state.client import call
from stream.state.keys import Tag, name_key
from stream.state.scripts import Argument


async def list_pins(redis: Redis, tag: Tag) -> dict[str, int]:
    """Pinned version by model, of those that are pinned."""
    found: dict[bytes, bytes] = await call(redis, "HGETALL", name_key("pins", tag))
    return {model.decode(): int(version) for model, version in found.items()}


async def list_promoted(redis: Redis, tag: Tag) -> dict[str, str]:
    """Promoted contestant by model, of those that have one."""
    found: dict[bytes, bytes] = await call(redis, "HGETALL", name_key("promoted", tag))
    return {model.decode(): contestant.decode() for model, contestant in found.items()}


async def list_imported(redis: Redis, tag: Tag, model: str) -> set[int]:
    """Versions of a model that were brought in from elsewhere: what is learned here does not rest on them."""
    return {int(version) for version in await call(redis, "SMEMBERS", name_key("imported", tag, model))}


async def find_promoted(redis: Redis, tag: Tag, model: str, version: int) -> str:
    """The contestant that was promoted when `version` was published; empty where the evidence decided."""
    key = name_key("promotions", tag, model)
    found: list[bytes] = await call(redis, "ZREVRANGEBYSCORE", key, version, "-inf", "LIMIT", 0, 1)
    return found[0].decode().partition(" ")[2] if found else ""


async def describe_promotions(
    redis: Redis, tag: Tag, version: int, models: Iterable[str], promoted: Mapping[str, str]
) -> list[tuple[Argument, ...]]:
    """Commands that write down who was `promoted` when `version` of `models` was published, where that is news."""
    commands: list[tuple[Argument, ...]] = []
    for model in models:
        contestant = promoted.get(model, "")
        if await find_promoted(redis, tag, model, version) != contestant:
            key = name_key("promotions", tag, model)
            # Learned again, a version is published anew: what was written down for it then is no longer so.
            commands += [("ZREMRANGEBYSCORE", key, version, version), ("ZADD", key, version, f"{version} {contestant}")]
    return commands
