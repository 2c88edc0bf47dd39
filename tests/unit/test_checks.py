"""What the doctor fails, warns of and lets pass."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.broker import TopicState
from stream.commands.checks import (
    Check,
    check_capabilities,
    check_layout,
    check_log,
    check_memory,
    check_redis,
    check_settings,
    check_topics,
)
from stream.settings import Outcome, Settings

DAY = 86_400_000
KEY = "k" * 32


def settings(**options: Any) -> Settings:
    return Settings(**options)


def topic(
    partitions: int = 8, retention: int | None = -1, cleanup: str | None = "delete", stamp: str | None = "LogAppendTime"
) -> TopicState:
    return TopicState(partitions=partitions, retention_ms=retention, cleanup=cleanup, timestamp_type=stamp)


def by_name(checks: Iterable[Check]) -> dict[str, str]:
    found = list(checks)
    # Whatever is not well says what to do.
    assert all(each.advice for each in found if each.state != "ok")
    return {each.check: each.state for each in found}


def log_states(name: str, state: TopicState, **options: Any) -> dict[str, str]:
    chosen = settings(**options)
    return by_name(check_log(chosen, {getattr(chosen.topics, name): state}))


@pytest.mark.parametrize(("days", "expected"), [(-1 / DAY, "ok"), (37, "ok"), (36.99, "fail"), (0, "fail"), (60, "ok")])
def test_examples_outlive_the_longest_window_by_a_week(days: float, expected: str) -> None:
    state = topic(retention=round(days * DAY))
    assert log_states("examples", state)["examples retention"] == expected


@given(st.lists(st.integers(1_000, 400 * DAY), min_size=1, max_size=4), st.integers(0, 500 * DAY))
def test_the_longest_of_all_windows_counts(windows: list[int], retention: int) -> None:
    outcomes = tuple(Outcome(name=f"o{place}", window=window) for place, window in enumerate(windows))
    rules: tuple[object, ...] = ()
    state = log_states(
        "examples", topic(retention=retention), outcomes=outcomes, rules=rules, topics={"retention_examples": 0}
    )["examples retention"]
    assert (state == "ok") == (retention >= max(windows) + 7 * DAY)


@pytest.mark.parametrize(("retention", "expected"), [(-1, "ok"), (10_000 * DAY, "fail"), (None, "warn")])
def test_the_ledger_is_kept_for_ever(retention: int | None, expected: str) -> None:
    assert log_states("privacy", topic(retention=retention))["privacy retention"] == expected


@pytest.mark.parametrize("name", ["events", "privacy", "examples"])
@pytest.mark.parametrize("cleanup", ["compact", "compact,delete"])
def test_a_compacted_log_fails(name: str, cleanup: str) -> None:
    assert log_states(name, topic(cleanup=cleanup))[f"{name} clean-up"] == "fail"


@pytest.mark.parametrize(
    ("stamp", "clock", "expected"),
    [
        ("LogAppendTime", "log", "ok"),
        ("CreateTime", "log", "warn"),
        (None, "log", "warn"),
        ("CreateTime", "event", "ok"),
    ],
)
def test_producers_clocks_are_warned_of_unless_event_time_is_wanted(
    stamp: str | None, clock: str, expected: str
) -> None:
    assert log_states("events", topic(stamp=stamp), clock=clock)["events time stamps"] == expected


def test_a_broker_that_only_remembers_the_time_stamp_type_is_warned_of() -> None:
    chosen = settings()
    events = {chosen.topics.events: topic(stamp="LogAppendTime")}
    assert by_name(check_log(chosen, events, stamps=False))["events time stamps"] == "warn"
    assert by_name(check_log(chosen, events, stamps=True))["events time stamps"] == "ok"


@pytest.mark.parametrize(("create", "expected"), [(True, "warn"), (False, "fail")])
def test_a_missing_topic_matters_where_nobody_creates_it(create: bool, expected: str) -> None:
    chosen = settings(topics={"create": create})
    states = by_name(check_topics(chosen, {chosen.topics.events: topic()}))
    assert states[f"topic {chosen.topics.events}"] == "ok"
    assert {state for name, state in states.items() if chosen.topics.events != name.split()[1]} == {expected}


def test_state_and_topic_must_agree() -> None:
    chosen = settings()
    events = {chosen.topics.events: topic(partitions=8)}
    assert set(by_name(check_layout(chosen, events, (8, "murmur2"))).values()) == {"ok"}
    assert by_name(check_layout(chosen, events, (4, "murmur2")))["partitions"] == "fail"
    assert by_name(check_layout(chosen, events, (8, "crc32")))["partitioner"] == "fail"
    assert by_name(check_layout(chosen, {}, (8, "murmur2")))["partitions"] == "fail"
    assert by_name(check_layout(chosen, {}, None)) == {"partitions": "ok"}


def test_what_the_broker_lacks_is_named() -> None:
    check = check_capabilities({"transactions": False, "end_offsets": True, "compaction": False})
    assert check.state == "warn"
    assert check.found == "has end offsets; lacks transactions, compaction"
    assert check_capabilities({"transactions": True}).state == "ok"


@pytest.mark.parametrize(
    ("used", "limit", "machine", "expected"),
    [
        (79, 100, 0, "ok"), (80, 100, 0, "warn"), (95, 100, 0, "fail"), (50, 0, 100, "ok"), (96, 0, 100, "fail"),
        (5, 0, 0, "ok"),
    ],
)  # fmt: skip
def test_memory_is_held_against_the_limit_or_the_machine(used: int, limit: int, machine: int, expected: str) -> None:
    info = {"used_memory": used, "maxmemory": limit, "total_system_memory": machine}
    assert by_name([check_memory(info)])["redis memory"] == expected


@pytest.mark.parametrize(
    ("persistence", "save", "expected"),
    [
        ({"aof_enabled": 1, "aof_last_write_status": "ok"}, "", "ok"),
        ({"aof_enabled": 1, "aof_last_write_status": "err"}, "", "fail"),
        ({"aof_enabled": 0}, "3600 1", "warn"),
        ({"aof_enabled": 0}, "", "warn"),
        ({}, None, "warn"),
    ],
)
def test_only_an_append_only_file_is_persistence(
    persistence: dict[str, object], save: str | None, expected: str
) -> None:
    states = by_name(check_redis({"maxmemory_policy": "noeviction"}, persistence, save))
    assert states["redis persistence"] == expected
    assert states["redis eviction"] == "ok"


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "volatile-lru"])
def test_any_eviction_fails(policy: str) -> None:
    assert by_name(check_redis({"maxmemory_policy": policy}, {}, ""))["redis eviction"] == "fail"


@pytest.mark.parametrize(("key", "expected"), [(None, "fail"), ("short", "fail"), ("k" * 16, "warn"), (KEY, "ok")])
def test_a_snapshot_key_is_needed_and_never_shown(key: str | None, expected: str) -> None:
    checks = list(check_settings(settings(models={"snapshot_key": key})))
    assert by_name(checks)["snapshot key"] == expected
    assert not any(key in each.found + each.advice for each in checks if key)


def test_optional_consent_is_warned_of() -> None:
    assert by_name(check_settings(settings(consent={"mode": "optional"})))["consent mode"] == "warn"
    assert by_name(check_settings(settings()))["consent mode"] == "ok"
