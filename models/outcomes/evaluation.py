"""Progressive validation: the prediction stored at exposure against the label that matured later.

One `Evaluation` belongs to one outcome and sees (prediction, label) pairs in the order in which labels mature. It
reports over the whole run and over the newest `window` labels, and its state is plain numbers that travel with the
learner.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from models.outcomes.curve import Curve, Point
from schemas.example import Example

ECE_BINS: Final = 10
AUC_BINS: Final = 160
AUC_SPAN: Final = 8.0
"""The whole-run ROC-AUC is estimated from two histograms over the log-odds from -8 to 8, in bins of a tenth."""
SEGMENTS: Final = 200
"""Segments that are told apart; what comes later counts to the segment `OTHER`."""
OTHER: Final = "other"
FLOOR: Final = 1e-15
"""Predictions are kept this far from 0 and 1 in the log-loss, so that one sure mistake stays finite."""


class Scored(msgspec.Struct, frozen=True, array_like=True):
    """One matured label: the stored prediction, the label, and the log-loss of the base rate before it."""

    prediction: float
    label: int
    base_loss: float


class Calibration(msgspec.Struct, frozen=True):
    """Of a group of rows: how many, their mean prediction, and the share of labels that came true."""

    rows: int
    predicted: float
    rate: float


class Totals(msgspec.Struct):
    """Sums over the whole run. `bins` holds (rows, predictions, labels) per tenth, `negatives`/`positives` log-odds.

    `segments` holds (rows, predictions, labels) by the name of a segment, such as `channel=email`.
    """

    rows: int = 0
    labels: int = 0
    unscored: int = 0
    predictions: float = 0.0
    loss: float = 0.0
    base_loss: float = 0.0
    bins: list[list[float]] = msgspec.field(default_factory=lambda: [[0.0, 0.0, 0.0] for _ in range(ECE_BINS)])
    negatives: list[int] = msgspec.field(default_factory=lambda: [0] * (AUC_BINS + 1))
    positives: list[int] = msgspec.field(default_factory=lambda: [0] * (AUC_BINS + 1))
    segments: dict[str, list[float]] = msgspec.field(default_factory=dict)


class EvaluationState(msgspec.Struct, frozen=True):
    """What an `Evaluation` is restored from; one written before there were curves has an empty one."""

    window: int
    totals: Totals
    recent: list[Scored]
    curve: Curve = msgspec.field(default_factory=Curve)


class Evaluation:
    """Log-loss, calibration and ranking of one outcome's stored predictions.

    >>> evaluation = Evaluation(window=2)
    >>> for prediction, label in ((0.8, 1), (0.2, 0), (0.5, 1)):
    ...     evaluation.add(prediction, label)
    >>> metrics = evaluation.metrics()
    >>> round(metrics["calibration_ratio"], 3), metrics["window_rows"], metrics["roc_auc"]
    (0.75, 2.0, 1.0)
    """

    def __init__(self, window: int = 2_000) -> None:
        """Report also over the newest `window` labels."""
        self.totals = Totals()
        self._curve = Curve()
        self._recent: deque[Scored] = deque(maxlen=window)
        self._window = window

    def add(self, prediction: float | None, label: int, segments: Iterable[str] = ()) -> None:
        """Take one matured label; without a stored prediction it is counted as unscored and nothing else.

        `segments` names the groups that the row belongs to, for `segments()`.
        """
        totals = self.totals
        if prediction is None:
            totals.unscored += 1
            return
        # The base rate before this label, with half a label of each kind to begin with (Krichevsky-Trofimov).
        scored = Scored(prediction, label, log_loss((totals.labels + 0.5) / (totals.rows + 1.0), label))
        self._recent.append(scored)
        loss = log_loss(prediction, label)
        self._curve.add(prediction, label, loss, scored.base_loss)
        totals.rows += 1
        totals.labels += label
        totals.predictions += prediction
        totals.loss += loss
        totals.base_loss += scored.base_loss
        _put(totals.bins, prediction, label)
        (totals.positives if label else totals.negatives)[_log_odds_bin(prediction)] += 1
        for segment in segments:
            _put_segment(totals.segments, segment, prediction, label)

    def metrics(self) -> dict[str, float]:
        """Every metric that is defined so far, those of the newest labels with the prefix `window_`.

        `rows`, `unscored` (whole run only), `base_rate`, `log_loss`, `base_log_loss` (of the running base rate),
        `relative_cross_entropy` (1 - log-loss / base log-loss: above 0 is better than the base rate),
        `calibration_ratio` (predictions / labels: above 1 is over-confident), `ece` (ten equal bins, 0 to 1),
        `roc_auc` and `pr_auc` (average precision; whole run: from a histogram, to about 0.01; window: exact).
        """
        recent = list(self._recent)
        totals = self.totals
        whole = _report(totals.rows, totals.labels, totals.predictions, totals.loss, totals.base_loss, totals.bins)
        whole["unscored"] = float(totals.unscored)
        _add_auc(whole, totals.positives, totals.negatives)
        return whole | {f"window_{name}": value for name, value in _window_report(recent).items()}

    def deciles(self) -> list[Calibration]:
        """Calibration of the newest labels in ten groups of equal size, by prediction, the lowest first."""
        ordered = sorted(self._recent, key=lambda row: row.prediction)
        parts = (ordered[len(ordered) * n // 10 : len(ordered) * (n + 1) // 10] for n in range(10))
        return [
            Calibration(len(part), math.fsum(row.prediction for row in part) / len(part), _rate(part))
            for part in parts
            if part
        ]

    def segments(self) -> dict[str, Calibration]:
        """Calibration over the whole run, by segment."""
        return {
            name: Calibration(int(rows), predictions / rows, labels / rows)
            for name, (rows, predictions, labels) in sorted(self.totals.segments.items())
        }

    def curve(self) -> list[Point]:
        """How log-loss and calibration went, by consecutive blocks of matured labels; at most 64."""
        return self._curve.points()

    def state(self) -> EvaluationState:
        """The state; it shares totals and curve with this object, so encode it before the next `add`."""
        return EvaluationState(self._window, self.totals, list(self._recent), self._curve)

    @classmethod
    def restore(cls, state: EvaluationState) -> Evaluation:
        """An evaluation that goes on exactly where `state` was taken."""
        evaluation = cls(state.window)
        evaluation.totals = state.totals
        evaluation._curve = state.curve
        evaluation._recent.extend(state.recent)
        return evaluation


def list_segments(example: Example) -> tuple[str, ...]:
    """Segments that an example belongs to."""
    named = (("channel", example.channel), ("campaign", example.campaign_id))
    return tuple(f"{name}={value}" for name, value in named if value is not None)


def log_loss(prediction: float, label: int) -> float:
    """Negative log-likelihood of `label` (0 or 1), in nats.

    >>> round(log_loss(0.5, 1), 4)
    0.6931
    """
    chance = prediction if label else 1.0 - prediction
    return -math.log(max(chance, FLOOR))


def _window_report(recent: Sequence[Scored]) -> dict[str, float]:
    bins = [[0.0, 0.0, 0.0] for _ in range(ECE_BINS)]
    for row in recent:
        _put(bins, row.prediction, row.label)
    labels = sum(row.label for row in recent)
    predictions = math.fsum(row.prediction for row in recent)
    loss = math.fsum(log_loss(row.prediction, row.label) for row in recent)
    report = _report(len(recent), labels, predictions, loss, math.fsum(row.base_loss for row in recent), bins)
    _add_auc(report, *_by_prediction(recent))
    return report


def _report(
    rows: int, labels: int, predictions: float, loss: float, base_loss: float, bins: Iterable[Sequence[float]]
) -> dict[str, float]:
    report = {"rows": float(rows)}
    if rows:
        report["base_rate"] = labels / rows
        report["log_loss"] = loss / rows
        report["base_log_loss"] = base_loss / rows
        report["relative_cross_entropy"] = 1.0 - loss / base_loss
        # Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
        report["ece"] = math.fsum(abs(said - seen) for _, said, seen in bins) / rows
    if labels:
        report["calibration_ratio"] = predictions / labels
    return report


def _put_segment(segments: dict[str, list[float]], name: str, prediction: float, label: int) -> None:
    of_segment = segments.get(name)
    if of_segment is None:
        of_segment = segments.setdefault(name if len(segments) < SEGMENTS else OTHER, [0.0, 0.0, 0.0])
    of_segment[0] += 1.0
    of_segment[1] += prediction
    of_segment[2] += label


def _rate(rows: Sequence[Scored]) -> float:
    return sum(row.label for row in rows) / len(rows)


def _put(bins: list[list[float]], prediction: float, label: int) -> None:
    of_bin = bins[min(int(prediction * ECE_BINS), ECE_BINS - 1)]
    of_bin[0] += 1.0
    of_bin[1] += prediction
    of_bin[2] += label


def _log_odds_bin(prediction: float) -> int:
    clamped = min(max(prediction, FLOOR), 1.0 - FLOOR)
    log_odds = min(max(math.log(clamped / (1.0 - clamped)), -AUC_SPAN), AUC_SPAN)
    return int((log_odds + AUC_SPAN) * AUC_BINS / (2.0 * AUC_SPAN))


def _by_prediction(recent: Sequence[Scored]) -> tuple[list[int], list[int]]:
    rank = {prediction: n for n, prediction in enumerate(sorted({row.prediction for row in recent}))}
    positives, negatives = [0] * len(rank), [0] * len(rank)
    for row in recent:
        (positives if row.label else negatives)[rank[row.prediction]] += 1
    return positives, negatives


def _add_auc(report: dict[str, float], positives: Sequence[int], negatives: Sequence[int]) -> None:
    pairs = sum(positives) * sum(negatives)
    if not pairs:
        return
    below = 0
    won = 0.0
    for positive, negative in zip(positives, negatives, strict=True):
        won += positive * (below + 0.5 * negative)
        below += negative
    report["roc_auc"] = won / pairs
    report["pr_auc"] = _average_precision(positives, negatives)


def _average_precision(positives: Sequence[int], negatives: Sequence[int]) -> float:
    """Area under precision over recall, as a step at each distinct prediction, the highest first."""
    taken = right = 0
    area = 0.0
    for positive, negative in zip(reversed(positives), reversed(negatives), strict=True):
        taken += positive + negative
        right += positive
        if positive:
            area += positive * right / taken
    return area / right
