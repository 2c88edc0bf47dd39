"""What is kept once for all partitions: how many there are and how people are spread over them."""

from __future__ import annotations

from typing import Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from stream.delivery.errors import PartitionsChanged, Refused
from stream.delivery.fence import Fence
from stream.partition import Partitioner
from stream.settings import BadSettings
from stream.state.client import ask_servers, call
from stream.state.keys import ROOT, Tag, name_key
from stream.state.scripts import Script

_clear: Final = Script("stream.state", "clear.lua")

REBUILT = ("outbox", "due", "counts", "profile", "pending", "attempts", "crashes", "replayed")
"""Kinds of keys that the log makes again. What people allowed or asked to be forgotten outlives a lost fence."""


async def check_partitions(redis: Redis, partitions: int, partitioner: Partitioner) -> None:
    """Write down the partition count at the first start, compare it at every other.

    Raises `PartitionsChanged`: people would be looked for under the wrong partition, and their history lost from sight.
    """
    await call(redis, "HSETNX", ROOT, "partitions", partitions)
    await call(redis, "HSETNX", ROOT, "partitioner", partitioner)
    known, spread = await call(redis, "HMGET", ROOT, "partitions", "partitioner")
    if int(known) != partitions or spread.decode() != partitioner:
        raise PartitionsChanged(
            f"the events topic has {partitions} partitions ({partitioner}), the state in Redis was written with "
            f"{int(known)} ({spread.decode()}). Go back to those, or rebuild: point nudge at an empty Redis database "
            "and let it read the log again from its start"
        )


async def check_eviction(redis: Redis) -> None:
    """Raise `BadSettings` where Redis may evict: state that vanishes can't be told from state that never was."""
    try:
        replies = await ask_servers(redis, "CONFIG GET", "maxmemory-policy")
    except ResponseError:
        # Managed servers keep their configuration to themselves; then it can't be checked.
        return
    for reply in replies:
        policy = reply.get("maxmemory-policy", "noeviction")
        if policy != "noeviction":
            raise BadSettings(
                f"redis: its maxmemory-policy is {policy}; set it to noeviction, or state vanishes unseen"
            )


async def read_partitions(redis: Redis) -> tuple[int, Partitioner] | None:
    """Partition count and partitioner that the state was written with; None before the first start."""
    known, spread = await call(redis, "HMGET", ROOT, "partitions", "partitioner")
    return None if known is None else (int(known), spread.decode())


async def clear_partition(redis: Redis, tag: Tag, held: Fence, most: int = 1_000) -> int:
    """Delete what a partition without a fence left behind, or all of it would count twice; return how many keys.

    At most about `most` keys go at once, each time under the token of `held`, a fence that is marked as `clearing`.
    Raises `Refused` as soon as that is not so any more.
    """
    count, cursor = 0, 0
    while True:
        cursor, found = await call(redis, "SCAN", cursor, "MATCH", name_key("*", tag) + "*", "COUNT", most)
        chosen = [key for key in found if _is_rebuilt(key, tag)]
        if chosen:
            deleted = await _clear(redis, [name_key("fence", tag), *chosen], [held.owner])
            if deleted < 0:
                raise Refused(held.owner, held.next, None, None, "the partition is another's to clear")
            count += deleted
        if cursor == 0:
            return count


def _is_rebuilt(key: bytes, tag: Tag) -> bool:
    """Whether the log makes this key again. Ids of people are free text, and may hold what looks like a tag."""
    kind, _, rest = key.partition(b":")
    return rest.split(b":", 1)[0] == tag.encode() and kind.decode() in REBUILT
