"""`nudge models list`: the models that learn, one row each, from what Redis keeps of them.

A row is what a model's newest snapshot says of what was served up to it, and what operators chose over it.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from stream.commands.connections import open_redis
from stream.commands.kept import Kept, list_models, open_version, read_key
from stream.commands.output import print_json, print_table, round_metric
from stream.settings import Settings

COLUMNS: Final = (
    "model", "newest", "champion", "age", "matured", "log-loss", "base", "calibration", "kept", "pinned", "promoted",
)  # fmt: skip


class ModelStatus(msgspec.Struct, frozen=True):
    """One model; None for what is not defined, or not so far.

    `newest` is the version published last, at wall time `published_at` (epoch ms), `age` milliseconds ago; the
    metrics are those of what was served up to it. `kept` counts versions. `pinned` is the version that workers score
    with instead, `promoted` the contestant that an operator made the champion.
    """

    model: str
    kind: str
    newest: int | None
    champion: str | None
    published_at: int | None
    age: int | None
    matured: int | None
    log_loss: float | None
    base_log_loss: float | None
    calibration_ratio: float | None
    kept: int
    pinned: int | None
    promoted: str | None


async def read_model(redis: Redis, kept: Kept, key: bytes, now: int, pinned: int | None) -> ModelStatus:
    """Status of one model at wall time `now` (ms); `pinned` is the setting's, which wins.

    Raises `CommandError` where its snapshot is not signed with `key`.
    """
    snapshot = await open_version(redis, kept, kept.latest, key)
    published, matured = kept.versions.get(kept.latest), snapshot.metrics.get("matured")
    return ModelStatus(
        model=kept.model,
        kind=snapshot.kind,
        newest=kept.newest,
        champion=snapshot.champion or None,
        published_at=published,
        age=None if published is None else max(now - published, 0),
        matured=None if matured is None else int(matured),
        log_loss=snapshot.metrics.get("log_loss"),
        base_log_loss=snapshot.metrics.get("base_log_loss"),
        calibration_ratio=snapshot.metrics.get("calibration_ratio"),
        kept=len(kept.versions),
        pinned=kept.pinned if pinned is None else pinned,
        promoted=kept.promoted,
    )


async def show_models(settings: Settings, *, as_json: bool = False) -> None:
    """Print every model. Raises as `list_models`, `read_model`."""
    key, now, pinned = read_key(settings), int(time.time() * 1000), settings.models.pinned
    async with open_redis(settings) as redis:
        found = [await read_model(redis, kept, key, now, pinned) for kept in (await list_models(redis)).values()]
    if as_json:
        print_json({"models": msgspec.to_builtins(found)})
        return
    print_table(COLUMNS, [_row(status) for status in found])


def _row(status: ModelStatus) -> tuple[Any, ...]:
    return (
        status.model,
        status.newest,
        status.champion,
        write_age(status.age),
        status.matured,
        round_metric(status.log_loss),
        round_metric(status.base_log_loss),
        round_metric(status.calibration_ratio),
        status.kept,
        status.pinned,
        status.promoted,
    )


def write_age(millis: int | None) -> str:
    """A time span in its two largest units; empty for none.

    >>> write_age(93_784_000), write_age(59_900), write_age(None)
    ('1d 2h', '59s', '')
    """
    if millis is None:
        return ""
    seconds = millis // 1_000
    parts = (seconds // 86_400, "d"), (seconds // 3_600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")
    first = next((place for place, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count}{unit}" for count, unit in parts[first : first + 2])
