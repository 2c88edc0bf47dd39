"""What sampling promises: it follows how far learning is behind, and what was passed over can be known again."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from models.lifecycle.learners import LearnerSet
from models.lifecycle.sampling import LOWEST, REMEMBERED, Decision
from stream.agents.learn import ENOUGH, Learning, LearnSession
from stream.delivery.fence import Fence
from stream.metrics import Metrics
from stream.settings import Settings
from stream.stages.batch import NOWHERE
from tests.unit.test_snapshot import KEY, NAMES, SCHEMA, mixed


def test_a_learner_that_is_behind_takes_fewer_negatives_until_it_is_relieved() -> None:
    """By its own pace: an outage in which nothing came, and nothing was learned, makes nobody slow."""
    lag = {3: 0}
    fence = Fence(owner="w", epoch=1, next=0, clock=0, watermark=0, last_hash="", emitted=NOWHERE)
    allowed = Settings(models={"sample_after": "10s"})
    session = LearnSession(Learning(allowed, cast(Any, None), KEY, Metrics(), lag.__getitem__), 3, fence)

    def choose(waiting: int, taken: int, busy: float) -> float:
        lag[3], session._taken, session._busy = waiting, taken, busy
        session.learners.decide(len(session.learners.sampling), session._choose_rate())
        return session.learners.rate

    assert choose(9_000, 1_000, 1.0) == 1.0
    assert choose(11_000, 1_000, 1.0) == 0.5
    assert choose(10**6, ENOUGH - 1, 100.0) == 0.5
    assert choose(10**6, ENOUGH, 1.0) == 0.25
    assert choose(9_000, 1_000, 1.0) == 0.25
    assert choose(2_000, 1_000, 1.0) == 0.5
    assert choose(0, 0, 0.0) == 1.0
    assert [choose(10**9, 1_000, 1.0) for _ in range(6)] == [0.5, 0.25, 0.125, LOWEST, LOWEST, LOWEST]


terms = st.tuples(st.sampled_from([1.0, 0.5, 0.25, LOWEST]), st.sampled_from([(), ("tree-wait",)]))
decisions = st.dictionaries(st.integers(0, 59), terms, max_size=6)


@settings(max_examples=30, deadline=None)
@given(decisions, st.integers(0, 59))
def test_what_was_sampled_is_learned_again_by_what_was_decided(
    chosen: dict[int, tuple[float, tuple[str, ...]]], kept: int
) -> None:
    records = mixed(0, 20)
    live, resumed = LearnerSet(NAMES, SCHEMA), LearnerSet(NAMES, SCHEMA)
    for version, record in enumerate(records):
        live.learn(record)
        if version in chosen:
            live.decide(version, *chosen[version])
        if version == kept:
            resumed = LearnerSet.restore(live.snapshots(version, 0), NAMES, SCHEMA)
    for learners, first in ((resumed, kept + 1), (LearnerSet(NAMES, SCHEMA), 0)):
        for version in range(first, len(records)):
            learners.follow(live.sampling, version)
            learners.learn(records[version])
        learners.follow(live.sampling, len(records))
        assert learners.snapshots(59, 0) == live.snapshots(59, 0)
        assert learners.passed == live.passed


def test_no_more_than_so_many_decisions_are_remembered_and_those_alike_are_one() -> None:
    learners = LearnerSet(NAMES, SCHEMA)
    for version in range(2 * REMEMBERED):
        learners.decide(version, 1.0 if version % 4 < 2 else 0.5)
    assert len(learners.sampling) == REMEMBERED - 1
    assert learners.sampling[:2] == (Decision(2, 0.5), Decision(4, 1.0))
    for version in range(2 * REMEMBERED, 2 * REMEMBERED + 8):
        learners.decide(version, 1.0 if version % 2 else 0.5)
    assert len(learners.sampling) == REMEMBERED
