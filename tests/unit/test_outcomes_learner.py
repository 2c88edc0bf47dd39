"""What an outcome's learner promises: exact resumption, unbiased labels, refusal of rows that do not fit."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import linear_model, optim, preprocessing

from models.outcomes.learner import PRIOR, RATE, ExampleRefused, Newton, OutcomeLearner
from models.outcomes.policies import POLICIES, FakeNegativeWeighting, Wait
from schemas.example import Example, Stage

NAMES = ("a", "b", "c")


def example(
    features: tuple[float, ...] = (0.5, -1.0, 2.0),
    stage: Stage = "exposed",
    label: int = 0,
    prediction: float | None = None,
    **changes: object,
) -> Example:
    fields: dict[str, object] = {
        "example_id": "e",
        "outcome": "buy",
        "partition": 0,
        "offset": 0,
        "index": 0,
        "exposed_at": 0,
        "schema": "s1",
    }
    row = {"features": features, "stage": stage, "label": label, "prediction": prediction}
    return Example(**(fields | row | changes))  # type: ignore[arg-type]


def learner(policy: str = FakeNegativeWeighting.name) -> OutcomeLearner:
    return OutcomeLearner("buy", NAMES, "s1", policy=policy, window=50)


def delayed(rate: float, rows: int, delay: int, seed: int = 7) -> Iterator[Example]:
    """Exposures whose fulfilment, at `rate` and twice that where the first feature is 1, comes `delay` rows later."""
    chance = random.Random(seed)
    due: list[Example | None] = [None] * delay
    for _ in range(rows):
        high = float(chance.random() < 0.3)
        features = (high, chance.gauss(0, 1), 1.0)
        yield example(features)
        fulfilled = chance.random() < rate * (2 if high else 1)
        due.append(example(features, "fulfilled", 1) if fulfilled else None)
        if (ripe := due.pop(0)) is not None:
            yield ripe


finite = st.floats(-1e6, 1e6)
stages = st.sampled_from([("exposed", 0), ("fulfilled", 1), ("matured", 0), ("matured", 1)])
predictions = st.none() | st.floats(0.0, 1.0)
rows = st.builds(lambda features, stage, p: example(features, *stage, p), st.tuples(*[finite] * 3), stages, predictions)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, max_size=30), st.lists(rows, max_size=30), st.sampled_from(sorted(POLICIES)))
def test_a_restored_learner_goes_on_to_the_bit(before: list[Example], after: list[Example], policy: str) -> None:
    undisturbed, interrupted = learner(policy), learner(policy)
    for row in before:
        undisturbed.learn(row)
        interrupted.learn(row)

    resumed = OutcomeLearner.from_bytes(interrupted.to_bytes())
    for row in after:
        undisturbed.learn(row)
        resumed.learn(row)

    assert resumed.to_bytes() == undisturbed.to_bytes()
    assert resumed.scorer().to_bytes() == undisturbed.scorer().to_bytes()
    assert resumed.predict((1.0, 2.0, 3.0)) == undisturbed.predict((1.0, 2.0, 3.0))


def test_it_learns_what_a_plain_river_pipeline_learns() -> None:
    ours = learner(Wait.name)
    newton = Newton()
    scaler = preprocessing.StandardScaler()
    regression = linear_model.LogisticRegression(optim.AdaGrad(RATE), intercept_init=PRIOR, intercept_lr=newton)
    chance = random.Random(3)
    for _ in range(300):
        features = (chance.random(), chance.random(), chance.random())
        label = int(chance.random() < features[0])
        ours.learn(example(features))
        ours.learn(example(features, "matured", label))

        row = dict(zip(NAMES, features, strict=True))
        scaler.learn_one(row)
        scaled = scaler.transform_one(row)
        p = regression.predict_proba_one(scaled)[True]
        newton.curvature += p * (1.0 - p)
        regression.learn_one(scaled, bool(label))

    probe = {"a": 0.9, "b": 0.1, "c": 0.5}
    theirs = regression.predict_proba_one(scaler.transform_one(probe))[True]
    assert ours.predict((0.9, 0.1, 0.5)) == theirs
    assert ours.scorer().score_one((0.9, 0.1, 0.5)) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("rate", [0.02, 0.15, 0.45])
def test_late_positives_do_not_bias_the_probability(rate: float) -> None:
    taught = learner()
    for row in delayed(rate, rows=8_000, delay=200):
        taught.learn(row)

    scorer = taught.scorer()
    mean = 0.7 * scorer.score_one((0.0, 0.0, 1.0)) + 0.3 * scorer.score_one((1.0, 0.0, 1.0))
    assert mean == pytest.approx(1.3 * rate, rel=0.25)
    assert scorer.score_one((1.0, 0.0, 1.0)) > 1.4 * scorer.score_one((0.0, 0.0, 1.0))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
def test_fake_negatives_cancel_exactly_where_the_prediction_is_the_true_rate(p: float) -> None:
    policy = FakeNegativeWeighting()
    negative, positive = policy.target("exposed", 0, p), policy.target("fulfilled", 1, p)
    # Of every exposure, one step of the log-loss as a negative, and p steps as a positive.
    assert negative.weight * p + p * positive.weight * (p - 1.0) == pytest.approx(0.0, abs=1e-15)
    assert (negative.label, positive.label) == (False, True)


def test_a_matured_row_is_judged_and_not_learned() -> None:
    judged = learner()
    judged.learn(example())
    before = judged.scorer().to_bytes()

    judged.learn(example(stage="matured", label=1, prediction=0.25))
    judged.learn(example(stage="matured", label=1, prediction=None))

    assert judged.scorer().to_bytes() == before
    metrics = judged.evaluation.metrics()
    assert (metrics["rows"], metrics["unscored"], metrics["calibration_ratio"]) == (1.0, 1.0, 0.25)
    assert judged.rows == {"exposed": 1, "fulfilled": 0, "matured": 2}


def test_scaling_is_learned_once_a_row() -> None:
    once = learner()
    once.learn(example((1.0, 0.0, 0.0)))
    once.learn(example((3.0, 0.0, 0.0)))
    for stage in ("fulfilled", "matured"):
        once.learn(example((99.0, 0.0, 0.0), stage, 1))  # type: ignore[arg-type]
    assert once.scorer().coefficients.means[0] == 2.0


def test_a_feature_that_wakes_up_late_cannot_shake_the_score() -> None:
    taught = learner()
    for _ in range(5_000):
        taught.learn(example((0.0, 1.0, 0.0)))
    before = taught.predict((0.0, 1.0, 0.0))
    taught.learn(example((1.0, 1.0, 0.0), "exposed"))
    taught.learn(example((1.0, 1.0, 0.0), "fulfilled", 1))
    assert math.log(taught.predict((1.0, 1.0, 0.0)) / before) < 1.5


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (example(schema="s2"), "schema"),
        (example(outcome="churn"), "outcome"),
        (example((1.0, 2.0)), "number of features"),
        (example((1.0, math.nan, 2.0)), "features"),
        (example((math.inf, -math.inf, 2.0)), "features"),
        (example(label=2), "label"),
        (example(stage="matured", prediction=1.5), "prediction"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_and_changes_nothing(bad: Example, named: str) -> None:
    guarded = learner()
    guarded.learn(example())
    before = guarded.to_bytes()
    with pytest.raises(ExampleRefused, match=named):
        guarded.learn(bad)
    assert guarded.to_bytes() == before
