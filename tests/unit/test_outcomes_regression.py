"""What River's regression promises as a model that can take part: the same numbers as River's, and exact resumption."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, optim, preprocessing

from models.outcomes.regression import PRIOR, RATE, Newton, Regression

Row = tuple[float, float, float]
rows = st.lists(st.tuples(st.tuples(*[st.floats(-1e6, 1e6)] * 3), st.booleans(), st.floats(0.1, 2.0)), max_size=30)


@settings(max_examples=60, deadline=None)
@given(rows, rows)
def test_a_restored_regression_goes_on_to_the_bit(
    before: list[tuple[Row, bool, float]], after: list[tuple[Row, bool, float]]
) -> None:
    undisturbed = Regression(3)
    for each in before:
        undisturbed.learn(*each)
    resumed = Regression.from_bytes(undisturbed.to_bytes())
    for each in after:
        undisturbed.learn(*each)
        resumed.learn(*each)
    assert resumed.to_bytes() == undisturbed.to_bytes()
    assert resumed.see((1.0, 2.0, 3.0)) == undisturbed.see((1.0, 2.0, 3.0))


def test_it_learns_what_a_plain_river_pipeline_learns() -> None:
    ours = Regression(3)
    newton = Newton()
    scaler = preprocessing.StandardScaler()
    regression = linear_model.LogisticRegression(optim.AdaGrad(RATE), intercept_init=PRIOR, intercept_lr=newton)
    chance = random.Random(3)
    for _ in range(300):
        row = (chance.random(), chance.random(), chance.random())
        label = chance.random() < row[0]
        ours.learn(row, label)
        named = dict(enumerate(row))
        scaler.learn_one(named)
        scaled = scaler.transform_one(named)
        p = regression.predict_proba_one(scaled)[True]
        newton.curvature += p * (1.0 - p)
        regression.learn_one(scaled, label)
    theirs = regression.predict_proba_one(scaler.transform_one({0: 0.9, 1: 0.1, 2: 0.5}))[True]
    assert ours.see((0.9, 0.1, 0.5)).prediction == theirs
    assert ours.scorer(("a", "b", "c")).score_one((0.9, 0.1, 0.5)) == pytest.approx(theirs, abs=1e-12)


def test_a_feature_that_wakes_up_late_cannot_shake_the_score() -> None:
    model = Regression(3)
    for _ in range(5_000):
        model.learn((0.0, 1.0, 0.0), False, 0.5)
    before = model.see((0.0, 1.0, 0.0)).prediction
    model.learn((1.0, 1.0, 0.0), False)
    model.learn((1.0, 1.0, 0.0), True)
    assert math.log(model.see((1.0, 1.0, 0.0)).prediction / before) < 1.5


@settings(max_examples=60, deadline=None)
@given(rows, st.lists(st.integers(0, 2**32 - 1).map(float), min_size=30, max_size=30))
def test_codes_are_left_out(given_rows: list[tuple[Row, bool, float]], codes: list[float]) -> None:
    plain, coded = Regression(3), Regression(5, categorical=(1, 4))
    for (row, label, weight), code in zip(given_rows, codes, strict=False):
        plain.learn(row, label, weight)
        coded.learn((row[0], code, row[1], row[2], -code), label, weight)
    seen = plain.see((1.0, 2.0, 3.0))
    assert coded.see((1.0, 7.0, 2.0, 3.0, 9.0)) == coded.see((1.0, 0.0, 2.0, 3.0, 0.0)) == seen

    scorer = coded.scorer(tuple("abcde"))
    assert scorer.score_one((1.0, 7.0, 2.0, 3.0, 9.0)) == plain.scorer(tuple("acd")).score_one((1.0, 2.0, 3.0))
    assert all(of[place] == 0.0 for of in (scorer.coefficients.weights, scorer.coefficients.scales) for place in (1, 4))


def test_a_restored_regression_still_leaves_codes_out() -> None:
    undisturbed = Regression(2, categorical=(0,))
    for number in range(20):
        undisturbed.learn((float(number), number % 3), number % 2 == 0)
    resumed = Regression.from_bytes(undisturbed.to_bytes())
    for model in (undisturbed, resumed):
        model.learn((1e9, 1.0), True)
    assert resumed.to_bytes() == undisturbed.to_bytes()
    assert resumed.see((5.0, 1.0)) == resumed.see((0.0, 1.0))


def test_with_codes_alone_it_says_the_base_rate() -> None:
    model = Regression(1, categorical=(0,))
    for number in range(2_000):
        model.learn((float(number % 2),), number % 2 == 0)
    assert model.see((0.0,)).prediction == pytest.approx(0.5, abs=0.05)


def test_other_bytes_are_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        Regression.from_bytes(b"\xc1")
