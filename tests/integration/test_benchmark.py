"""The throughput benchmark, run small: what it prints has the shape that others read, and its figures add up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from schemas.event import Event
from schemas.wire import decode_record
from stream.embedded import start_servers
from tests.benchmarks.memory import divide_redis
from tests.benchmarks.report import summarise
from tests.benchmarks.soak import Sample, judge
from tests.benchmarks.workload import MIX, build_log

ROOT = Path(__file__).parents[2]
EVENTS = 2_000
NOW = 1_714_564_800_000


@pytest.fixture(scope="module")
def printed() -> dict[str, Any]:
    """Last line of a small run of all three jobs on servers of its own."""
    options = ("--events", EVENTS, "--faust-events", 500, "--rounds", 1, "--broker", "embedded")
    run = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.throughput", *map(str, options)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("NUDGE_")},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_every_job_gets_through_and_the_ratios_are_those_of_its_rates(printed: dict[str, Any]) -> None:
    (result,) = printed["brokers"]

    assert result["broker"] == "embedded"
    for job in ("nudge", "floor", "faust"):
        assert result[job]["events_per_second"] > 0
        assert 0 < result[job]["timed_events"] <= EVENTS
    sustained = result["nudge"]["sustained_events_per_second"]
    assert sustained <= result["nudge"]["events_per_second"]
    assert result["ratio_to_floor"] == pytest.approx(sustained / result["floor"]["events_per_second"], abs=0.001)
    assert result["ratio_to_faust"] == pytest.approx(sustained / result["faust"]["events_per_second"], abs=0.001)


@pytest.mark.slow
def test_the_worker_that_is_timed_does_all_of_its_work(printed: dict[str, Any]) -> None:
    nudge = printed["brokers"][0]["nudge"]

    assert nudge["counts"]["scored"] == EVENTS
    assert nudge["counts"]["triggers:abandoned-intent"] > 0
    assert nudge["examples"] > nudge["counts"]["examples"] > 0
    assert nudge["microseconds_per_event"]["stage:features"] > 0


def test_the_same_seed_gives_the_same_bytes_and_every_event_is_one_of_the_contract() -> None:
    log = build_log(1_000, NOW, people=100, seed=7)

    events = [decode_record(record.value) for record in log]

    assert log == build_log(1_000, NOW, people=100, seed=7)
    assert all(isinstance(event, Event) for event in events)
    assert len({event.event_id for event in events if isinstance(event, Event)}) == 1_000


def test_events_follow_the_mix_in_time_order_and_most_people_come_seldom() -> None:
    events = [decode_record(record.value) for record in build_log(20_000, NOW, people=5_000)]
    assert all(isinstance(event, Event) for event in events)

    times = [event.ts for event in events]
    by_person = sorted((len(group) for group in _group(events)), reverse=True)

    assert times == sorted(times)
    assert times[-1] < NOW
    for kind, share in MIX.items():
        assert sum(event.type == kind for event in events) / 20_000 == pytest.approx(share, abs=0.02)
    assert by_person[0] > 5 * by_person[len(by_person) // 2]


def test_a_summary_holds_medians_and_the_median_of_the_rounds_own_ratios() -> None:
    rounds = [
        {"nudge": {"events_per_second": 9, "sustained_events_per_second": rate}, "floor": {"events_per_second": floor}}
        for rate, floor in ((10, 100), (20, 50), (30, 1_000))
    ]

    found = summarise(rounds)

    assert found["nudge"]["sustained_events_per_second"] == 20
    assert found["nudge"]["by_round"] == [10, 20, 30]
    assert found["ratio_to_floor"] == 0.1
    assert found["ratio_to_faust"] is None


def test_what_redis_holds_is_divided_by_key_family_and_hardly_anything_stays_unexplained() -> None:
    with start_servers("embedded") as servers, Redis.from_url(servers.redis_url, decode_responses=True) as redis:
        with redis.pipeline(transaction=False) as pipe:
            for number in range(30_000):
                pipe.hset(f"profile:{{p1}}:{number}", mapping={"sentiment": "0.5", "_0": "x" * 60})
            pipe.execute()
        redis.set("snapshot:{examples0}:conversion:7", "x" * 100_000)

        found = divide_redis(redis)

    assert {family: row["keys"] for family, row in found["families"].items()} == {"profile": 30_000, "snapshot": 1}
    assert found["families"]["snapshot"]["bytes"] > 100_000
    assert abs(found["rest"]) < 0.05


def test_growth_is_that_of_the_last_sixth_against_the_sixth_after_the_warm_up() -> None:
    resident = [10, 50, 100, 100, 100, 104, 900, 104, 108, 108, 110, 112]

    found = judge([Sample(float(at), size, 1_000, 0) for at, size in enumerate(resident)])

    assert (found["resident_after_warm_up"], found["resident_at_end"]) == (100, 111)
    assert found["resident_growth_ratio"] == 0.11
    assert found["redis_growth_ratio"] == 0.0
    assert found["resident_peak"] == 900


def _group(events: list[Any]) -> list[list[Any]]:
    groups: dict[str, list[Any]] = {}
    for event in events:
        groups.setdefault(event.user_id, []).append(event)
    return list(groups.values())
