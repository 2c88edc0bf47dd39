"""What `nudge doctor` looks for, as plain functions: settings and what servers said go in, checks come out.

A check fails where a promise would break or the start would be refused, and warns where something works less well
than it could. Each that is not well says what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from models.lifecycle.snapshot import KEY_BYTES
from stream.broker import TopicState
from stream.conflicts import MARGIN
from stream.durations import UNITS
from stream.partition import Partitioner
from stream.settings import Settings

State = Literal["ok", "warn", "fail"]

DAY: Final = UNITS["d"]
FULL: Final = 0.8
"""Share of Redis' memory above which a warning is due."""
BRIM: Final = 0.95
"""Share above which writes are about to be refused."""
KEY_LENGTH: Final = 32
"""Characters of a snapshot key below which it may be guessed."""


class Check(msgspec.Struct, frozen=True):
    """One thing looked at: its state, what was found and, unless that is well, what to do."""

    check: str
    state: State
    found: str
    advice: str = ""


Topics = Mapping[str, TopicState]

Layout = tuple[int, Partitioner]
"""Partition count and partitioner that the state in Redis was written with."""


def judge(name: str, well: bool, found: str, advice: str, otherwise: State = "fail") -> Check:
    """A check that is ok if `well`, else `otherwise` with advice."""
    return Check(name, "ok", found) if well else Check(name, otherwise, found, advice)


def write_duration(millis: int) -> str:
    """Milliseconds in the largest fitting unit; -1 is `for ever`.

    >>> write_duration(90 * 60_000), write_duration(-1)
    ('1.5h', 'for ever')
    """
    if millis < 0:
        return "for ever"
    unit, size = next(((u, s) for u, s in reversed(UNITS.items()) if millis >= s), ("ms", 1))
    return f"{millis / size:g}{unit}"


def check_capabilities(capabilities: Mapping[str, bool]) -> Check:
    """What the broker can do; nothing here is needed, each missing one costs something."""
    missing = [name for name, able in capabilities.items() if not able]
    able = [name for name, able in capabilities.items() if able]
    found = f"has {', '.join(able) or 'none'}" + (f"; lacks {', '.join(missing)}" if missing else "")
    advice = "fit for demo and tests; for production use a broker that has them (Apache Kafka)"
    return judge("capabilities", not missing, found.replace("_", " "), advice, "warn")


def name_wanted(settings: Settings) -> list[str]:
    """Every topic that a worker reads or writes."""
    names = settings.topics
    wanted = [names.events, names.privacy, names.items, names.recommendations, names.examples, names.dead_letters]
    return [*wanted, names.scored] if settings.send_scores else wanted


def check_topics(settings: Settings, topics: Topics) -> Iterator[Check]:
    """Presence of each topic that a worker reads or writes."""
    names = settings.topics
    for name in name_wanted(settings):
        topic = topics.get(name)
        if topic is not None:
            yield Check(f"topic {name}", "ok", f"{topic.partitions} partitions")
        elif names.create:
            yield Check(f"topic {name}", "warn", "not there", "a worker creates it at its start")
        else:
            yield Check(f"topic {name}", "fail", "not there", "create it, or set topics.create")


def check_layout(settings: Settings, topics: Topics, layout: Layout | None) -> Iterator[Check]:
    """Partition count and partitioner against those that the state in Redis was written with."""
    if layout is None:
        yield Check("partitions", "ok", "no state in Redis yet")
        return
    partitions, partitioner = layout
    events = topics.get(settings.topics.events)
    yield judge(
        "partitions",
        events is not None and events.partitions == partitions,
        f"topic {events.partitions if events else 'not there'}, state in Redis {partitions}",
        f"use an events topic of {partitions} partitions, or an empty Redis, which is filled again from the log",
    )
    yield judge(
        "partitioner",
        settings.partitioner == partitioner,
        f"settings {settings.partitioner}, state in Redis {partitioner}",
        f"set partitioner: {partitioner}, or use an empty Redis, which is filled again from the log",
    )


def check_log(settings: Settings, topics: Topics, stamps: bool = True) -> Iterator[Check]:
    """Retention, clean-up and time stamps of the topics that promises rest on; `stamps`: the broker stamps records."""
    names, window = settings.topics, max((outcome.window for outcome in settings.outcomes), default=0)
    if events := topics.get(names.events):
        yield _check_retention("events", events, window, "a rebuild loses windows that are still open", "warn")
        yield _check_cleanup("events", events)
        yield check_timestamps(settings, events, stamps)
    if privacy := topics.get(names.privacy):
        yield _check_retention("privacy", privacy, -1, "it is the ledger that consents are read back from", "fail")
        yield _check_cleanup("privacy", privacy)
    if examples := topics.get(names.examples):
        reason = "labels outlive their rows (the longest outcome window and 7 days)"
        yield _check_retention("examples", examples, window + MARGIN, reason, "fail")
        yield _check_cleanup("examples", examples)


def _check_retention(name: str, topic: TopicState, least: int, reason: str, otherwise: State) -> Check:
    """`least` is in milliseconds, -1 for ever."""
    label, kept = f"{name} retention", topic.retention_ms
    advice = f"set retention.ms to {'-1' if least < 0 else f'{least} or more, or to -1'}: otherwise {reason}"
    if kept is None:
        return Check(label, "warn", "the broker does not tell", f"make sure of it, or {advice}")
    return judge(label, kept < 0 or 0 <= least <= kept, write_duration(kept), advice, otherwise)


def _check_cleanup(name: str, topic: TopicState) -> Check:
    policy = topic.cleanup or "delete"
    advice = "set cleanup.policy to delete: compaction drops records that are still needed"
    return judge(f"{name} clean-up", policy == "delete", policy, advice)


def check_timestamps(settings: Settings, events: TopicState, stamps: bool) -> Check:
    """Who stamps the events: the log clock should not hang on a producer's clock."""
    found = events.timestamp_type or "CreateTime"
    if settings.clock == "event":
        return Check("events time stamps", "ok", f"{found}; clock: event does not use them")
    if found == "LogAppendTime" and not stamps:
        advice = "keep producers' clocks right: a wrong one moves the partition's"
        return Check("events time stamps", "warn", "LogAppendTime, which this broker does not honour", advice)
    advice = "set message.timestamp.type=LogAppendTime: otherwise one producer's wrong clock moves the partition's"
    return judge("events time stamps", found == "LogAppendTime", found, advice, "warn")


def check_redis(memory: Mapping[str, Any], persistence: Mapping[str, Any], save: str | None) -> Iterator[Check]:
    """Eviction, memory and persistence; `memory` and `persistence` are sections of INFO, `save` the option's value.

    `save` is None where the server does not tell (managed services forbid CONFIG).
    """
    policy = str(memory.get("maxmemory_policy", "unknown"))
    advice = "set maxmemory-policy noeviction: an evicted fence or window would be counted again"
    yield judge("redis eviction", policy == "noeviction", policy, advice)
    yield check_memory(memory)
    if persistence.get("aof_enabled"):
        written = persistence.get("aof_last_write_status", "ok")
        yield judge("redis persistence", written == "ok", f"append-only file, last write {written}", "see Redis' log")
        return
    found = {None: "no append-only file; snapshots unknown", "": "none"}.get(save, f"snapshots only ({save})")
    advice = "set appendonly yes: otherwise what Redis loses is replayed from the log, which takes time"
    yield Check("redis persistence", "warn", found, advice)


def check_memory(memory: Mapping[str, Any]) -> Check:
    """Memory used against the limit, or against the machine's where there is none."""
    used, limit = int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))
    whole = limit or int(memory.get("total_system_memory", 0))
    found = f"{used / 2**20:.0f} MiB of {whole / 2**20:.0f} MiB" + ("" if limit else " (the machine's; no limit set)")
    share = used / whole if whole else 0.0
    advice = "raise maxmemory, or shorten profile_ttl; a person takes up to 700 bytes"
    return judge("redis memory", share < FULL, found, advice, "warn" if share < BRIM else "fail")


def check_settings(settings: Settings) -> Iterator[Check]:
    """Options that are valid and still deserve a word: consent and the snapshot key."""
    mode = settings.consent.mode
    advice = "set consent.mode to required unless there is another ground for processing"
    yield judge("consent mode", mode == "required", mode, advice, "warn")
    key = settings.models.snapshot_key
    advice = "set NUDGE_MODELS_SNAPSHOT_KEY, for every worker alike (openssl rand -hex 32)"
    length = len(key.get_secret_value().encode()) if key else 0
    found = f"{length} bytes" if key else "not set"
    yield judge("snapshot key", length >= KEY_LENGTH, found, advice, "warn" if length >= KEY_BYTES else "fail")
