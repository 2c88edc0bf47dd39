"""The demo's summary: each counter from the place where its events end up, and the sums that must hold between them.

Acknowledgements count what went in, commits what was decided, the output topics what was sent, the learner's snapshot
what was learned. A stage that loses something therefore breaks a sum.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from models.lifecycle.snapshot import Snapshot
from schemas.reasons import REASON_HEADER, SOURCE_HEADER
from schemas.trigger import RecommendationTrigger
from stream.broker import read_all
from stream.commands.connections import open_consumer
from stream.commands.topic import find_partitions
from stream.demo.progress import Progress
from stream.settings import Settings
from stream.state.snapshots import list_newest, read_snapshot
from stream.view import LiveView

_decode_trigger: Final = msgspec.json.Decoder(RecommendationTrigger).decode


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo did. Durations are seconds, log-losses nats; a model's figures are None before its first labels.

    `consents` and `events_in` were acknowledged by the broker, the latter with broken records and duplicates.
    `events_scored`, `denied`, `duplicates`, `dead_letters`, `late`, `triggers_decided` and `examples_decided` were
    counted in commits, `profiles` are keys in Redis, `triggers` distinct ids and `trigger_records` records on their
    topic, `dead_letters_by_reason` the distinct records on theirs. `examples`, `matured` and the model's figures are
    what the newest signed snapshot says, `errors` lines of the worker's log. Latency is from produced to committed.
    """

    events_in: int
    consents: int
    events_scored: int
    denied: int
    dead_letters: int
    duplicates: int
    late: int
    profiles: int
    triggers: int
    trigger_records: int
    triggers_decided: int
    triggers_by_rule: dict[str, int]
    dead_letters_by_reason: dict[str, int]
    examples: int
    examples_decided: int
    matured: int
    model_version: int | None
    log_loss: float | None
    base_log_loss: float | None
    calibration_ratio: float | None
    sentiment: dict[str, int]
    events_per_second: float
    latency_p50_seconds: float | None
    latency_p99_seconds: float | None
    errors: int = 0

    @property
    def accounted(self) -> int:
        """Events that came to one of their four ends."""
        return self.events_scored + self.duplicates + self.dead_letters + self.denied

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with `balanced`."""
        return {**msgspec.structs.asdict(self), "balanced": not check_balance(self)}


def check_balance(summary: Summary) -> list[str]:
    """Say each sum that does not hold, in words; nothing when all do."""
    sums = (
        ("events scored, denied, duplicate or dead", summary.accounted, "acknowledged", summary.events_in),
        ("dead letters on their topic", sum(summary.dead_letters_by_reason.values()), "decided", summary.dead_letters),
        ("triggers on their topic", summary.triggers, "decided", summary.triggers_decided),
        ("examples learned", summary.examples, "decided", summary.examples_decided),
        ("profiles", summary.profiles, "people with consent", summary.consents),
    )
    return [
        f"{found:,} {what}, but {expected:,} {told}: {abs(found - expected):,} too {_name_side(found, expected)}"
        for what, found, told, expected in sums
        if found != expected
    ]


def _name_side(found: int, expected: int) -> str:
    return "few" if found < expected else "many"


def describe_haste(summary: Summary) -> str | None:
    """Why the models' figures say little, where the log went by faster than it was learned from."""
    found, base = summary.log_loss, summary.base_log_loss
    if not summary.matured or (found is not None and (base is None or found <= base)):
        return None
    said = "no event was scored by a model" if found is None else "models scored worse than the base rate"
    return f"{said}: the log went by faster than they learned from it; a lower --rate gives them time"


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """What the newest snapshot of the first outcome says."""

    version: int | None = None
    examples: int = 0
    matured: int = 0
    metrics: dict[str, float] = {}


class _Rows(msgspec.Struct):
    """The part of a learner's state that counts the rows it took, by stage."""

    rows: dict[str, int]


async def collect_summary(
    redis: Redis,
    settings: Settings,
    progress: Progress,
    view: LiveView | None,
    *,
    events_in: int,
    consents: int,
    seconds: float,
    examples_partitions: int,
) -> Summary:
    """Count everything at its end.

    `view` is the worker's last one, for what nobody else measures; `seconds` the time from the first record sent to
    the last one accounted for.
    """
    model = await read_model(redis, settings, examples_partitions)
    rules, records = await _read_triggers(settings)
    return Summary(
        events_in=events_in,
        consents=consents,
        events_scored=progress.count("scored"),
        denied=progress.count("denied"),
        dead_letters=progress.count("dead_letters"),
        duplicates=progress.count("duplicates"),
        late=progress.count("late"),
        profiles=await count_profiles(redis),
        triggers=sum(rules.values()),
        trigger_records=records,
        triggers_decided=progress.count("triggers"),
        triggers_by_rule=dict(rules.most_common()),
        dead_letters_by_reason=await _read_reasons(settings),
        examples=model.examples,
        examples_decided=progress.count("examples"),
        matured=model.matured,
        model_version=model.version,
        log_loss=model.metrics.get("log_loss"),
        base_log_loss=model.metrics.get("base_log_loss"),
        calibration_ratio=model.metrics.get("calibration_ratio"),
        sentiment=view.sentiment if view else {},
        events_per_second=progress.accounted / seconds if seconds > 0 else 0.0,
        latency_p50_seconds=view.latency_p50_seconds if view else None,
        latency_p99_seconds=view.latency_p99_seconds if view else None,
    )


async def count_profiles(redis: Redis) -> int:
    """Profiles kept, over all partitions."""
    return len({key async for key in redis.scan_iter(match="profile:*", count=1_000)})


async def read_model(redis: Redis, settings: Settings, partitions: int) -> Model:
    """What the newest signed snapshot of the first outcome says. Raises `SnapshotRefused` if it is not ours."""
    assert settings.models.snapshot_key is not None
    key = settings.models.snapshot_key.get_secret_value().encode()
    newest = await list_newest(redis, partitions)
    for outcome in settings.outcomes[:1]:
        if outcome.name in newest:
            tag, version = newest[outcome.name]
            snapshot = await read_snapshot(redis, tag, outcome.name, version, key)
            if snapshot is not None:
                return _describe_model(snapshot)
    return Model()


def _describe_model(snapshot: Snapshot) -> Model:
    rows = msgspec.msgpack.decode(snapshot.learning, type=_Rows).rows
    return Model(
        version=snapshot.version,
        examples=sum(rows.values()),
        matured=rows.get("matured", 0),
        metrics=snapshot.metrics,
    )


async def _read_triggers(settings: Settings) -> tuple[Counter[str], int]:
    """Distinct triggers by rule, and records in all, on the recommendations topic."""
    found: dict[str, str] = {}
    records = 0
    partitions = await find_partitions(settings, settings.topics.recommendations)
    async with open_consumer(settings) as consumer:
        async for record in read_all(consumer, partitions):
            trigger = _decode_trigger(record.value)
            found[trigger.trigger_id] = trigger.rule
            records += 1
    return Counter(found.values()), records


async def _read_reasons(settings: Settings) -> dict[str, int]:
    """Distinct dead letters by reason; a letter sent twice names one source."""
    found: dict[bytes, str] = {}
    partitions = await find_partitions(settings, settings.topics.dead_letters)
    async with open_consumer(settings) as consumer:
        async for record in read_all(consumer, partitions):
            headers = dict(record.headers)
            found[headers[SOURCE_HEADER]] = headers[REASON_HEADER].decode()
    return dict(Counter(found.values()).most_common())
