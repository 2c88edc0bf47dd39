"""Where snapshots lie in Redis: published with the learner's fence, loaded by every score worker.

The newest few are kept, one an hour of the last day, and a pinned one; the rest can be learned again from the examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis.asyncio import Redis

from models.lifecycle.snapshot import Snapshot, SnapshotRefused, open_sealed
from stream.state.choices import list_pins
from stream.state.client import call
from stream.state.keys import Tag, name_key, tag_source
from stream.state.scripts import Argument

HOUR: Final = 3_600_000


async def describe_publication(
    redis: Redis, tag: Tag, sealed: Sequence[tuple[str, int, bytes]], at: int, keep: int, pinned: int | None = None
) -> list[tuple[Argument, ...]]:
    """Commands that publish `sealed` (model, version, bytes) at wall time `at` (ms) and forget what is not kept.

    The version `pinned`, and those that an operator pinned models at, are kept whatever their age: workers score with
    nothing else.
    """
    pins = await list_pins(redis, tag)
    commands: list[tuple[Argument, ...]] = []
    for model, version, data in sealed:
        known = await call(redis, "ZRANGE", name_key("snapshots", tag, model), 0, -1, "WITHSCORES")
        commands += [
            ("SET", name_key("snapshot", tag, model, version), data),
            ("ZADD", name_key("snapshots", tag, model), at, version),
            ("HSET", name_key("snapshots", tag), model, version),
        ]
        for old in choose_forgotten(_pair(known), keep):
            if old in (pinned, pins.get(model)):
                continue
            commands += [
                ("ZREM", name_key("snapshots", tag, model), old),
                ("DEL", name_key("snapshot", tag, model, old)),
            ]
    return commands


def choose_forgotten(known: Sequence[tuple[int, int]], keep: int) -> list[int]:
    """Versions to forget among `known`, (version, wall time in ms).

    Kept are the newest `keep`, and of the day before the newest one the first of every hour. The newest are those of
    the highest numbers: who published them may have had a wrong clock.

    >>> choose_forgotten([(1, 0), (2, 10), (3, HOUR), (4, HOUR + 1), (5, HOUR + 2)], keep=1)
    [2, 4]
    """
    ordered = sorted(known)
    hours: set[int] = set()
    forgotten = []
    for version, at in ordered[: max(len(ordered) - keep, 0)]:
        if at // HOUR in hours or at < ordered[-1][1] - 24 * HOUR:
            forgotten.append(version)
        hours.add(at // HOUR)
    return forgotten


def _pair(flat: Sequence[bytes]) -> list[tuple[int, int]]:
    return [(int(name), int(float(score))) for name, score in zip(flat[::2], flat[1::2], strict=True)]


async def list_versions(redis: Redis, tag: Tag) -> dict[str, int]:
    """Newest version of every model that is learned on one examples partition."""
    found: dict[bytes, bytes] = await call(redis, "HGETALL", name_key("snapshots", tag))
    return {name.decode(): int(version) for name, version in found.items()}


async def list_newest(redis: Redis, partitions: int) -> dict[str, tuple[Tag, int]]:
    """Newest version of every model: name -> (tag of the examples partition it is learned on, version)."""
    found: dict[str, tuple[Tag, int]] = {}
    for partition in range(partitions):
        tag = tag_source("examples", partition)
        found |= {model: (tag, version) for model, version in (await list_versions(redis, tag)).items()}
    return found


async def list_kept(redis: Redis, tag: Tag, model: str) -> dict[int, int]:
    """When (wall time, ms) each version of a model that is kept was published, by version, the lowest first."""
    return dict(sorted(_pair(await call(redis, "ZRANGE", name_key("snapshots", tag, model), 0, -1, "WITHSCORES"))))


async def read_sealed(redis: Redis, tag: Tag, model: str, version: int) -> bytes | None:
    """The bytes of a snapshot as they were published, whoever signed them; None if it is not kept."""
    data: bytes | None = await call(redis, "GET", name_key("snapshot", tag, model, version))
    return data


async def read_snapshot(redis: Redis, tag: Tag, model: str, version: int, key: bytes) -> Snapshot | None:
    """A snapshot by its version; None if it is not kept. Raises `SnapshotRefused` if it is not signed with `key`."""
    data = await read_sealed(redis, tag, model, version)
    if data is None:
        return None
    snapshot = open_sealed(data, key)
    if (snapshot.model, snapshot.version) != (model, version):
        raise SnapshotRefused(f"the snapshot stored as {model} {version} is of {snapshot.model} {snapshot.version}")
    return snapshot
