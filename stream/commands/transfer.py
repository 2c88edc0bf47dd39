"""`nudge models export | import`: sealed snapshots as files, to be kept, or brought from one place to another.

A file holds the bytes as they were published, signature first. What comes in is used only if it is signed with this
installation's key; it becomes a kept version and is pinned, for the learner here knows nothing of it.
"""

from __future__ import annotations

import time
from pathlib import Path

from redis.asyncio import Redis

from models.lifecycle.snapshot import Snapshot, SnapshotRefused, open_sealed
from stream.commands import CommandError
from stream.commands.connections import open_redis
from stream.commands.kept import find_home, find_model, open_version, read_key
from stream.commands.output import print_line
from stream.commands.versions import check_usable, say_pinned
from stream.settings import Settings
from stream.state.keys import Tag, name_key
from stream.state.snapshots import read_sealed


async def export_version(settings: Settings, model: str, file: Path, version: int | None) -> None:
    """Write the sealed bytes of `version`, or of the one in use, to `file`.

    Raises `CommandError` where there is no such model or version, it is not signed with this installation's key, or
    the file can't be written.
    """
    key = read_key(settings)
    async with open_redis(settings) as redis:
        kept = await find_model(redis, model)
        version = kept.used if version is None else version
        await open_version(redis, kept, version, key)
        sealed = await read_sealed(redis, kept.tag, model, version)
    if sealed is None:
        raise CommandError(f"{model}: version {version} was forgotten meanwhile; ask again")
    write_sealed(file, sealed)
    print_line(f"{model} {version}: {len(sealed)} bytes written to {file}")


def write_sealed(file: Path, sealed: bytes) -> None:
    """Write a sealed snapshot. Raises `CommandError` where that can't be."""
    try:
        file.write_bytes(sealed)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror or error}; choose a file that can be written") from error


async def import_file(settings: Settings, file: Path) -> None:
    """Keep the snapshot in `file` as a version of its model, and pin it.

    Raises `CommandError`, and nothing is changed, where the file can't be read, is not signed with this installation's
    key, is of no use to workers, or another snapshot is kept under its version.
    """
    key = read_key(settings)
    sealed, snapshot = open_file(file, key)
    check_usable(snapshot)
    async with open_redis(settings) as redis:
        tag = await find_home(redis, snapshot.model)
        known = await read_sealed(redis, tag, snapshot.model, snapshot.version)
        if known not in (None, sealed):
            raise CommandError(
                f"{file}: another snapshot is kept as version {snapshot.version} of {snapshot.model}; nothing was "
                "changed"
            )
        await _store(redis, tag, snapshot, None if known else sealed)
    say_pinned(settings, snapshot.model, snapshot.version)


def open_file(file: Path, key: bytes) -> tuple[bytes, Snapshot]:
    """A file's bytes and the snapshot in them. Raises `CommandError` where it can't be read, or is not signed."""
    try:
        sealed = file.read_bytes()
        return sealed, open_sealed(sealed, key)
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror or error}") from error
    except SnapshotRefused as error:
        raise CommandError(f"{file}: {error}; export it again where it was published, with the same key") from error


async def _store(redis: Redis, tag: Tag, snapshot: Snapshot, sealed: bytes | None) -> None:
    model, version = snapshot.model, snapshot.version
    async with redis.pipeline(transaction=True) as pipe:
        if sealed is not None:
            pipe.execute_command("SET", name_key("snapshot", tag, model, version), sealed)
            pipe.execute_command("ZADD", name_key("snapshots", tag, model), int(time.time() * 1000), version)
            pipe.execute_command("SADD", name_key("imported", tag, model), version)
        pipe.execute_command("HSET", name_key("pins", tag), model, version)
        await pipe.execute()
