"""A short form of `make faults`: a few plans, each for a failure that it would show, on every broker there is.

What each test's plan is worth shows by the mutants at the end: the same comparison finds a worker that is wrong.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from models.outcomes.features import NAMES, SCHEMA
from models.outcomes.learner import WARM
from schemas.example import Example
from stream.embedded import Guard
from tests.faults.ground import Ground
from tests.faults.plan import ALL, FAMILIES, Fault, Plan, compose, compose_plain, draw_plan
from tests.faults.verifier import Verdict, consult, learn_again, verify_audit
from tests.unit.factories import NOON
from tests.unit.reference import Record, Reference, make_lineup
from tests.unit.test_batch_invariance import MINUTE, eager

pytestmark = pytest.mark.timeout(240)

BROKERS = ["embedded", "kafka"] if os.environ.get("KAFKA_HOME") else ["embedded"]


@pytest.fixture(scope="module", params=BROKERS)
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with Guard() as guard:
        ground = Ground(request.param, guard)
        yield ground
        ground.close()


def plan(*faults: Fault, workers: int = 2, **options: Any) -> Plan:
    chosen = {"batch": 60, "cache": 100_000, "outbox": 20_000, "rate": 1_500, "closings": ALL} | options
    return Plan(seed=1, workers=workers, faults=faults, **chosen)


async def check(ground: Ground, plan: Plan) -> None:
    if len(BROKERS) > 1 and plan.workers > 1 and ground.kafka is None:
        pytest.skip("a group of the embedded broker may rebalance for a minute; it is tried on Apache Kafka")
    _, verdict = await ground.run(plan)
    assert verdict == Verdict(copies=verdict.copies), verdict.say()


async def test_a_worker_killed_after_the_commit_and_before_the_trim_loses_and_invents_nothing(ground: Ground) -> None:
    """Would have caught: a commit before the work is done (#527, #606 of Faust), a trim before the acknowledgement, an
    example learned twice."""
    await check(ground, plan(Fault("point", 0, 0.4, "committed"), Fault("point", 0, 0.4, "sent", 2), workers=1))


async def test_partitions_that_move_and_come_back_are_neither_skipped_nor_done_twice(ground: Ground) -> None:
    """Would have caught: offsets skipped after a rebalance (Faust #216), prefetched records of before it (#221), work
    done twice on scale-out (#502), a cache that outlives its partition."""
    await check(ground, plan(Fault("rebalance", 0, 0.3), Fault("kill", 1, 0.5)))


async def test_a_zombie_that_finds_the_place_it_knows_writes_nothing(ground: Ground) -> None:
    """Would have caught: a commit that looks at the place and not at the owner."""
    await check(ground, plan(Fault("duel", 0, 0.3)))


async def test_a_redis_killed_or_gone_back_under_live_workers_ends_as_undisturbed(ground: Ground) -> None:
    """Would have caught: a commit that looks at the owner and not at the place, a seek by the group's offset, a cache
    kept after a refusal, a client that hides a restart."""
    await check(ground, plan(Fault("rollback", 0, 0.6), Fault("redis", 0, 0.4), workers=1))


async def test_a_broker_killed_and_restarted_with_its_log_ends_as_undisturbed(ground: Ground) -> None:
    """Would have caught: a worker that goes on without committing after its connection is reset (robinhood/faust
    #736)."""
    if ground.kafka is None:
        pytest.skip("the embedded broker keeps its log in memory")
    await check(ground, plan(Fault("broker", 0, 0.4), workers=1))


async def test_a_worker_killed_around_a_transaction_and_a_redis_gone_back_leave_each_entry_once(ground: Ground) -> None:
    """Would have caught: a place read before the owner before is cut off, an entry decided anew and sent again."""
    if ground.kafka is None:
        pytest.skip("the embedded broker has no transactions")
    faults = (Fault("point", 0, 0.4, "written", 2), Fault("rollback", 0, 0.6), Fault("point", 0, 0.4, "sent"))
    _, verdict = await ground.run(plan(*faults, workers=1, exactly_once=True))
    assert verdict == Verdict(), verdict.say()


async def test_a_worker_that_does_not_ask_what_transactions_reached_is_found_out(ground: Ground) -> None:
    if ground.kafka is None:
        pytest.skip("the embedded broker has no transactions")
    _, verdict = await ground.run(plan(Fault("rollback", 0, 0.6), workers=1, exactly_once=True), "reached")
    assert verdict.copies > 0
    assert len(verdict.differences) == 1, verdict.say()


async def test_events_out_of_order_and_twice_end_as_in_order_whatever_the_workers_clock_says(ground: Ground) -> None:
    """Would have caught: a field that is taken to commute and does not, a copy that counts, a decision by the wall
    clock."""
    await check(ground, plan(Fault("kill", 0, 0.4), workers=1, family="shuffled", skews=(30,)))


async def test_with_models_that_learn_each_event_counts_once_and_each_decision_can_be_computed_again(
    ground: Ground,
) -> None:
    """Would have caught: a learner that goes on from another place than its snapshot, a version that is named and was
    not used."""
    await check(ground, plan(*[Fault("kill", 0, 0.4)] * 3, workers=1, family="live"))


@pytest.mark.parametrize(
    ("mutant", "workers", "fault", "what"),
    [
        ("owner", 2, Fault("duel", 0, 0.3), "zombies"),
        ("from", 1, Fault("rollback", 0, 0.6), "lost"),
        ("trim", 1, Fault("point", 0, 0.4, "sending", 2), "lost"),
        ("order", 1, Fault("kill", 0, 0.4), "disordered"),
    ],
    ids=["owner", "from", "trim", "order"],
)
async def test_a_worker_that_is_wrong_is_found_out(
    ground: Ground, mutant: str, workers: int, fault: Fault, what: str
) -> None:
    if len(BROKERS) > 1 and (workers > 1) != (ground.kafka is not None):
        pytest.skip("the comparison is the same on every broker")
    _, verdict = await ground.run(plan(fault, workers=workers), mutant)
    assert getattr(verdict, what) > 0
    assert not any("the schedule itself failed" in line or "no end of" in line for line in verdict.differences)


def test_a_seed_draws_the_same_plan_and_the_same_log_twice() -> None:
    for seed in range(1, 30):
        assert draw_plan(seed, "kafka") == draw_plan(seed, "kafka")
    assert compose(draw_plan(17)) == compose(draw_plan(17))
    assert str(draw_plan(17)) != str(draw_plan(18))


def test_plans_hold_every_kind_of_fault_often() -> None:
    drawn = [{fault.kind for fault in draw_plan(seed, "kafka").faults} for seed in range(1, 21)]
    for kind in ("kill", "point", "assigning", "zombie", "duel", "rebalance", "leave", "rollback", "redis", "broker"):
        assert sum(kind in kinds for kinds in drawn) >= 2, kind


def test_plans_are_of_every_family_and_clocks_are_off_in_some() -> None:
    drawn = [draw_plan(seed, "kafka") for seed in range(1, 41)]
    for family in FAMILIES:
        assert sum(plan.family == family for plan in drawn) >= 3, family
    assert sum(any(plan.skews) for plan in drawn) >= 8


def test_a_shuffled_log_holds_each_event_within_the_lateness_and_some_twice() -> None:
    drawn = next(plan for plan in map(draw_plan, range(1, 40)) if plan.family == "shuffled")
    plain, log = compose_plain(drawn), compose(drawn)
    assert {record.value for record in plain} == {record.value for record in log}
    assert len(log) > 1.02 * len(plain)
    firsts = list({record.value: record for record in log}.values())
    latest = itertools.accumulate((record.timestamp for record in firsts), max)
    assert all(now - record.timestamp < MINUTE for now, record in zip(latest, firsts, strict=True))
    assert [record.timestamp for record in log] != sorted(record.timestamp for record in log)


def test_versions_learned_again_differ_by_one_label() -> None:
    """So that a decision which names another version than it used is told."""
    records = []
    for number in range(3 * WARM):
        example = Example(
            example_id=f"{number:016x}",
            outcome="conversion",
            stage="matured" if number % 2 else "exposed",
            label=0,
            partition=0,
            offset=number,
            index=1,
            exposed_at=NOON,
            features=(float(number % 3),) * len(NAMES),
            schema=SCHEMA,
        )
        records.append(Record(number, NOON, msgspec.json.encode(example)))
    before, after = 2 * WARM + 2, 2 * WARM + 3
    models = learn_again(records, {WARM, before, after})
    assert models.keys() == {("conversion", before), ("conversion", after)}
    assert models["conversion", before].to_bytes() != models["conversion", after].to_bytes()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_oracle_and_the_reference_agree_on_the_raw_log(seed: int) -> None:
    """Would have caught: a mistake of the pure stages, which workers and reference share."""
    records = compose(dataclasses.replace(draw_plan(seed), family="pinned"))
    for offset, record in enumerate(records):
        record.offset = offset
    settings = eager(clock="event", batch={"closings_per_event": ALL})
    reference = Reference(settings, models=make_lineup("conversion", "click")).run(records)
    oracle = consult(records, settings)
    assert {name: reference.counts[name] for name in oracle.counts} == oracle.counts
    assert oracle.consents() == {user: d.consent for user, d in reference.people.items() if d.consent}
    triggers = [msgspec.json.decode(e.value) for e in reference.entries if e.target == "recommendations"]
    assert oracle.triggers == {t["trigger_id"] for t in triggers if t["rule"] == "abandoned"}
    assert len(oracle.triggers) > 50


def test_an_audit_that_skips_a_stretch_or_goes_over_it_again_is_told() -> None:
    skipped, again = Verdict(), Verdict()
    verify_audit(skipped, 0, ["a a 1 0 5", "b b 2 7 9"])
    verify_audit(again, 0, ["a a 1 0 5", "b b 2 4 9"])
    assert (len(skipped.differences), skipped.lost, again.zombies) == (1, 2, 1)
