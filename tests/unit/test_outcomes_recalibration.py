"""What recalibration promises: it puts a drifted score right, keeps the order, and leaves a right score alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.outcomes.recalibration import Recalibration, RecalibrationState


def drifted(truth: Callable[[float], float], rows: int, seed: int = 1) -> tuple[Recalibration, float]:
    """Scores whose true probability is `truth` of them: the map after `rows`, and its mean over the truth's."""
    chance, recalibration = random.Random(seed), Recalibration()
    said, true = 0.0, 0.0
    for n in range(rows):
        raw = chance.betavariate(1.5, 4.0)
        label = chance.random() < truth(raw)
        if n >= rows // 2:
            said += recalibration(raw)
            true += truth(raw)
        recalibration.learn(raw, label)
    return recalibration, said / true


@pytest.mark.parametrize("truth", [lambda p: 0.5 * p, lambda p: min(1.6 * p, 0.99), lambda p: p**2, math.sqrt])
def test_a_score_that_drifted_is_put_right(truth: Callable[[float], float]) -> None:
    recalibration, ratio = drifted(truth, 6_000)
    assert recalibration.used
    assert ratio == pytest.approx(1.0, abs=0.08)
    assert recalibration(0.4) == pytest.approx(truth(0.4), abs=0.06)


def test_a_score_that_is_right_is_left_alone_to_the_bit() -> None:
    idle = [drifted(lambda p: p, 5_000, seed=seed)[0] for seed in range(5)]
    assert sum(not each.used for each in idle) >= 4
    assert next(each for each in idle if not each.used)(0.123) == 0.123


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), max_size=60),
    st.lists(st.floats(0.0, 1.0), min_size=2, max_size=20),
)
def test_the_order_of_two_scores_never_changes(labelled: list[tuple[float, bool]], raw: list[float]) -> None:
    recalibration = Recalibration()
    for each in labelled:
        recalibration.learn(*each)
    recalibration.used = True
    mapped = [recalibration(each) for each in sorted(raw)]
    assert mapped == sorted(mapped)


def test_a_restored_recalibration_goes_on_to_the_bit() -> None:
    undisturbed, _ = drifted(lambda p: 0.5 * p, 500)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(undisturbed.state()), type=RecalibrationState)
    resumed = Recalibration.restore(state)
    for n in range(200):
        for each in (undisturbed, resumed):
            each.learn(n / 200, n % 3 == 0)
    assert resumed.state() == undisturbed.state()
