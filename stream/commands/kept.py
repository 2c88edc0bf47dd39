"""The models as commands find them in Redis: which there are, which versions are kept, and what each snapshot says.

Nothing here asks the broker, so that an operator has a hand on the models while it is away.
"""

from __future__ import annotations

from typing import NamedTuple

from redis.asyncio import Redis

from models.lifecycle.snapshot import KEY_BYTES, Snapshot, SnapshotRefused
from stream.commands import CommandError
from stream.settings import BadSettings, Settings
from stream.state.choices import list_imported, list_pins, list_promoted
from stream.state.client import call
from stream.state.keys import Tag, name_key, tag_source
from stream.state.snapshots import list_kept, list_versions, read_snapshot


class Kept(NamedTuple):
    """What is kept of a model: `versions` maps each to the wall time (ms) of its publication, the lowest first.

    `partition` is that of the examples topic which it is learned on.
    `newest` is what the learner published last, None for a model that was only brought in from elsewhere, as the
    versions in `imported` were.
    """

    model: str
    partition: int
    newest: int | None
    versions: dict[int, int]
    imported: set[int]
    pinned: int | None
    promoted: str | None

    @property
    def tag(self) -> Tag:
        """Hash tag of its keys."""
        return tag_source("examples", self.partition)

    @property
    def used(self) -> int:
        """The version that workers score with: the one that is pinned, else the newest."""
        return self.latest if self.pinned is None else self.pinned

    @property
    def latest(self) -> int:
        """The version that was published last; of a model that was only brought in, the highest."""
        return max(self.versions, default=-1) if self.newest is None else self.newest

    def check_version(self, version: int) -> int:
        """`version`; raises `CommandError` where it is not kept."""
        if version not in self.versions:
            kept = ", ".join(map(str, self.versions)) or "none"
            raise CommandError(
                f"{self.model}: version {version} is not kept (kept: {kept}); `nudge models at {version}` learns a "
                "past one again"
            )
        return version


def read_key(settings: Settings) -> bytes:
    """The key that snapshots are signed with. Raises `BadSettings` where there is none, or too short a one."""
    key = settings.models.snapshot_key
    if key is None or len(key.get_secret_value().encode()) < KEY_BYTES:
        raise BadSettings(
            f"models.snapshot_key: missing, or of less than {KEY_BYTES} bytes; set NUDGE_MODELS_SNAPSHOT_KEY to the "
            "workers' own"
        )
    return key.get_secret_value().encode()


async def count_learned(redis: Redis) -> int:
    """How many examples partitions somebody learns; one in any case."""
    count = 1
    while await call(redis, "EXISTS", name_key("fence", tag_source("examples", count))):
        count += 1
    return count


async def list_models(redis: Redis) -> dict[str, Kept]:
    """What is kept of every model, by name. Raises `CommandError` where there is none yet."""
    found: dict[str, Kept] = {}
    for partition in range(await count_learned(redis)):
        found |= await _list_learned(redis, partition)
    if not found:
        raise CommandError("no model has been published to this Redis yet: start a worker on it, or correct redis.url")
    return dict(sorted(found.items()))


async def _list_learned(redis: Redis, partition: int) -> dict[str, Kept]:
    tag = tag_source("examples", partition)
    newest, pins = await list_versions(redis, tag), await list_pins(redis, tag)
    promoted = await list_promoted(redis, tag)
    return {
        model: Kept(
            model=model,
            partition=partition,
            newest=newest.get(model),
            versions=await list_kept(redis, tag, model),
            imported=await list_imported(redis, tag, model),
            pinned=pins.get(model),
            promoted=promoted.get(model),
        )
        for model in newest | pins
    }


async def find_home(redis: Redis, model: str) -> Tag:
    """Hash tag of the keys of a model; of one that nobody knows yet, that of the first examples partition."""
    for partition in range(await count_learned(redis)):
        tag = tag_source("examples", partition)
        if model in await list_versions(redis, tag) | await list_pins(redis, tag):
            return tag
    return tag_source("examples", 0)


async def find_model(redis: Redis, model: str) -> Kept:
    """What is kept of one model. Raises `CommandError` where there is none of that name."""
    found = await list_models(redis)
    if model not in found:
        raise CommandError(f"there is no model {model!r}; there are {', '.join(found)}")
    return found[model]


async def open_version(redis: Redis, kept: Kept, version: int, key: bytes) -> Snapshot:
    """A snapshot that is kept. Raises `CommandError` where it is not, or is not signed with `key`."""
    try:
        snapshot = await read_snapshot(redis, kept.tag, kept.model, version, key)
    except SnapshotRefused as error:
        raise CommandError(
            f"{kept.model}: version {version}: {error}; is models.snapshot_key that of the workers?"
        ) from error
    if snapshot is None:
        kept.check_version(version)
        raise CommandError(f"{kept.model}: version {version} is listed, and its bytes are gone from Redis; ask again")
    return snapshot
