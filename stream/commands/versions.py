"""`nudge models pin | unpin | rollback | promote | demote`: an operator's word on what workers score with.

It is written to Redis and followed by whoever runs: every worker's loader goes to a pinned version and on from it
within its reload interval, the learner publishes a promoted contestant's scorer from its next publication on.
"""

from __future__ import annotations

from redis.asyncio import Redis

from models.lifecycle.registry import Champions
from models.lifecycle.snapshot import Snapshot, SnapshotRefused
from models.outcomes.features import SCHEMA
from stream.commands import CommandError
from stream.commands.connections import open_redis
from stream.commands.kept import Kept, find_model, open_version, read_key
from stream.commands.output import print_line
from stream.commands.quality import list_contestants
from stream.durations import spell_duration
from stream.settings import Settings
from stream.state.client import call
from stream.state.keys import name_key


def check_usable(snapshot: Snapshot) -> None:
    """Raise `CommandError` unless a worker of this release can score with `snapshot`."""
    try:
        usable = Champions(SCHEMA).swap(snapshot)
    except SnapshotRefused as error:
        raise CommandError(f"{error}; workers would refuse it") from error
    if not usable:
        matured = int(snapshot.metrics.get("matured", 0))
        raise CommandError(
            f"{snapshot.model}: version {snapshot.version} is cold ({matured} labels had matured): it scores nothing; "
            "choose a later one"
        )


async def pin_model(settings: Settings, model: str, version: int) -> None:
    """Have workers score with `version`, and nothing else, until it is unpinned.

    Raises `CommandError` where there is no such model, the version is not kept, or workers could not use it.
    """
    key = read_key(settings)
    async with open_redis(settings) as redis:
        await _pin(settings, redis, await find_model(redis, model), version, key)


async def roll_back(settings: Settings, model: str, version: int | None) -> None:
    """Pin `version`, or the kept one before the one in use, of those that were learned here.

    Raises as `pin_model`, and where nothing older is kept.
    """
    key = read_key(settings)
    async with open_redis(settings) as redis:
        kept = await find_model(redis, model)
        await _pin(settings, redis, kept, find_former(kept) if version is None else version, key)


def find_former(kept: Kept) -> int:
    """The newest version before the one in use that is kept. Raises `CommandError` where there is none."""
    older = [version for version in kept.versions if version < kept.used and version not in kept.imported]
    if not older:
        raise CommandError(
            f"{kept.model}: nothing older than version {kept.used} is kept; `nudge models at` learns a past version "
            "again, and `nudge models import` brings it in"
        )
    return max(older)


async def _pin(settings: Settings, redis: Redis, kept: Kept, version: int, key: bytes) -> None:
    check_usable(await open_version(redis, kept, kept.check_version(version), key))
    pins = name_key("pins", kept.tag)
    await call(redis, "HSET", pins, kept.model, version)
    # From here on nobody forgets it; somebody may have done so just before.
    if not await call(redis, "EXISTS", name_key("snapshot", kept.tag, kept.model, version)):
        before = ("HDEL", pins, kept.model) if kept.pinned is None else ("HSET", pins, kept.model, kept.pinned)
        await call(redis, *before)
        raise CommandError(f"{kept.model}: version {version} was forgotten meanwhile; nothing was changed")
    say_pinned(settings, kept.model, version)


def say_pinned(settings: Settings, model: str, version: int) -> None:
    """Print that it is done, and what stands against it."""
    soon = spell_duration(settings.models.reload_interval)
    print_line(f"{model} is pinned at version {version}; running workers score with it within {soon}.")
    if settings.models.pinned is not None:
        print_line(f"Where models.pinned is set, as here, workers score with version {settings.models.pinned} instead.")


async def unpin_model(settings: Settings, model: str) -> None:
    """Have workers go on to the newest version. Raises `CommandError` where nothing was pinned."""
    async with open_redis(settings) as redis:
        kept = await find_model(redis, model)
        if not await call(redis, "HDEL", name_key("pins", kept.tag), model):
            raise CommandError(f"{model} is not pinned; `nudge models list` shows what is")
    if kept.newest is None:
        print_line(f"{model} is not pinned any more; workers keep version {kept.pinned} until one is published.")
        return
    soon = spell_duration(settings.models.reload_interval)
    print_line(f"{model} is not pinned any more; running workers go on to version {kept.newest} within {soon}.")


async def promote_contestant(settings: Settings, model: str, contestant: str) -> None:
    """Have the scorer of `contestant` published, whatever the evidence says, which goes on being gathered.

    Raises `CommandError` where there is no such model or contestant.
    """
    key = read_key(settings)
    async with open_redis(settings) as redis:
        kept = await find_model(redis, model)
        found = list_contestants(await open_version(redis, kept, kept.latest, key))
        if contestant not in found:
            raise CommandError(f"{model} has no contestant {contestant!r}; it has {', '.join(found) or 'none'}")
        await call(redis, "HSET", name_key("promoted", kept.tag), model, contestant)
    print_line(f"{contestant} speaks for {model} from its next publication on; workers follow.")
    if kept.pinned is not None:
        print_line(f"{model} is pinned at version {kept.pinned}: that holds until `nudge models unpin {model}`.")


async def demote_contestant(settings: Settings, model: str) -> None:
    """Let the evidence decide again who speaks. Raises `CommandError` where nobody was promoted."""
    async with open_redis(settings) as redis:
        kept = await find_model(redis, model)
        if not await call(redis, "HDEL", name_key("promoted", kept.tag), model):
            raise CommandError(f"nobody is promoted for {model}; `nudge models list` shows who is")
    print_line(f"The evidence decides again who speaks for {model}, from its next publication on.")
