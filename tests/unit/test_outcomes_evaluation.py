"""What the evaluation promises: textbook values, a window that forgets, and metrics only where they are defined."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from river import metrics as river

from models.outcomes.evaluation import SEGMENTS, Evaluation, EvaluationState

Pair = tuple[float, int]


def pairs(n: int, seed: int = 5) -> list[Pair]:
    chance = random.Random(seed)
    drawn = [chance.betavariate(2, 6) for _ in range(n)]
    return [(p, int(chance.random() < p)) for p in drawn]


def evaluated(data: list[Pair], window: int = 500) -> Evaluation:
    evaluation = Evaluation(window)
    for prediction, label in data:
        evaluation.add(prediction, label)
    return evaluation


def exact_auc(data: list[Pair]) -> float:
    positives = [p for p, label in data if label]
    negatives = [p for p, label in data if not label]
    won = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return won / (len(positives) * len(negatives))


def test_log_loss_is_rivers() -> None:
    data = pairs(1_000)
    theirs = river.LogLoss()
    for prediction, label in data:
        theirs.update(bool(label), prediction)
    assert evaluated(data).metrics()["log_loss"] == pytest.approx(theirs.get(), rel=1e-9)


def test_ranking_is_exact_in_the_window_and_close_over_the_run() -> None:
    data = pairs(2_000)
    metrics = evaluated(data).metrics()
    assert metrics["window_roc_auc"] == pytest.approx(exact_auc(data[-500:]), abs=1e-12)
    assert metrics["roc_auc"] == pytest.approx(exact_auc(data), abs=0.01)


def test_honest_predictions_are_calibrated_and_doubled_ones_are_not() -> None:
    honest = evaluated(pairs(5_000), window=5_000).metrics()
    doubled = evaluated([(min(2 * p, 1.0), label) for p, label in pairs(5_000)]).metrics()
    assert honest["calibration_ratio"] == pytest.approx(1.0, abs=0.1)
    assert honest["ece"] < 0.03
    assert honest["relative_cross_entropy"] > 0.0
    assert doubled["calibration_ratio"] > 1.7
    assert doubled["ece"] > 0.15
    assert honest["window_ece"] == pytest.approx(honest["ece"], abs=1e-12)


def test_the_window_forgets_and_the_run_does_not() -> None:
    metrics = evaluated([(0.9, 0)] * 100 + [(0.9, 1)] * 10, window=10).metrics()
    assert metrics["window_base_rate"] == 1.0
    assert metrics["window_log_loss"] == pytest.approx(-math.log(0.9))
    assert metrics["base_rate"] == pytest.approx(10 / 110)


def test_the_base_rate_is_judged_before_each_label() -> None:
    metrics = evaluated([(0.5, 1), (0.5, 1)]).metrics()
    assert metrics["base_log_loss"] == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 2)


def test_a_row_without_a_prediction_is_counted_only() -> None:
    evaluation = Evaluation()
    evaluation.add(None, 1)
    assert evaluation.metrics() == {"rows": 0.0, "unscored": 1.0, "window_rows": 0.0}


def test_what_is_undefined_is_left_out() -> None:
    metrics = evaluated([(0.2, 0)] * 3).metrics()
    assert "calibration_ratio" not in metrics
    assert "roc_auc" not in metrics


def test_a_sure_mistake_stays_finite() -> None:
    assert math.isfinite(evaluated([(0.0, 1), (1.0, 0)]).metrics()["log_loss"])


def test_a_restored_evaluation_goes_on_exactly() -> None:
    data = pairs(900)
    whole = evaluated(data)
    encoded = msgspec.msgpack.encode(evaluated(data[:400]).state())
    resumed = Evaluation.restore(msgspec.msgpack.decode(encoded, type=EvaluationState))
    for prediction, label in data[400:]:
        resumed.add(prediction, label)
    assert resumed.metrics() == whole.metrics()


def test_average_precision_is_that_of_the_textbook() -> None:
    evaluation = Evaluation()
    for prediction, label in ((0.9, 1), (0.8, 0), (0.7, 1), (0.6, 0), (0.5, 0)):
        evaluation.add(prediction, label)
    metrics = evaluation.metrics()
    assert metrics["window_pr_auc"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert metrics["pr_auc"] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_deciles_are_of_equal_size_and_ascend() -> None:
    evaluation = Evaluation(window=100)
    for n in range(300):
        evaluation.add((n % 100) / 100, int(n % 100 >= 50))
    deciles = evaluation.deciles()
    assert [of.rows for of in deciles] == [10] * 10
    assert [of.rate for of in deciles] == [0.0] * 5 + [1.0] * 5
    assert deciles[0].predicted == pytest.approx(0.045)


def test_segments_are_told_apart_and_bounded() -> None:
    evaluation = Evaluation()
    for n in range(1_000):
        evaluation.add(0.25, n % 2, (f"campaign={n}", "channel=email"))
    segments = evaluation.segments()
    assert (segments["channel=email"].rows, segments["channel=email"].rate) == (1_000, 0.5)
    assert len(segments) == SEGMENTS + 1
    assert sum(of.rows for name, of in segments.items() if name != "channel=email") == 1_000


def test_restored_segments_go_on() -> None:
    evaluation = Evaluation()
    evaluation.add(0.25, 1, ("channel=email",))
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(evaluation.state()), type=EvaluationState)
    resumed = Evaluation.restore(state)
    resumed.add(0.75, 1, ("channel=email",))
    assert resumed.segments()["channel=email"].predicted == 0.5
