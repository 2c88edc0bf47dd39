"""The report on one outcome: how well its champion and every contestant predicted what came true.

Read from a learner, or from a contest alone; it holds numbers and names only and nothing of it is shared with what
goes on learning. What is undefined so far, such as a ranking without a single positive, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from models.outcomes.contest import Contest
from models.outcomes.curve import Point
from models.outcomes.evaluation import Calibration, Evaluation
from models.outcomes.grade import Quality, grade_data
from models.outcomes.learner import OutcomeLearner
from models.outcomes.scorers import Scorer

SERVED: Final = "served"
"""Name of the judgement on what was said to the outside, whoever was champion then."""
TREND_LABELS: Final = 800
"""Matured labels below which there is no trend to tell."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """How one contestant predicted: `metrics` as in `Evaluation.metrics`, whole run and window.

    `deciles` is the calibration of the newest labels, the lowest predictions first, `segments` that of the whole run,
    and `curve` how both losses went, the oldest labels first.
    """

    name: str
    metrics: dict[str, float]
    deciles: list[Calibration]
    segments: dict[str, Calibration]
    curve: list[Point]


class FeatureWeight(msgspec.Struct, frozen=True, kw_only=True):
    """What one column does: `importance` is by how much it moves the log-odds of the newest rows, the mean of sizes.

    `psi` is how far it has shifted (`models.outcomes.shift`), None before that is known; `share` the part that its most
    frequent value has in the newest rows.
    """

    name: str
    importance: float
    psi: float | None
    share: float


class OutcomeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one outcome's models.

    `champion` is None where nobody is crowned, `crowned` counts its changes, `rows` the examples taken by stage, and
    `cold` says that too few labels have matured for anybody to speak. `evidence` is, by challenger, that it is better
    than the champion (log of a bettor's money), `threshold` what is asked for. `features` are what the champion goes
    by, the most important first. `trend` is by how much relative cross-entropy has risen in the newest quarter of the
    labels against the quarter before (above 0 is better), None where there are too few. `drifts` and `drift_severity`
    are of what the champion gets wrong, `shifts` and `shift_severity` of the rows; `recalibrated` says whether what the
    champion says goes through a map at present.
    """

    outcome: str
    champion: str | None
    crowned: int
    cold: bool
    rows: dict[str, int]
    served: Judgement
    contestants: list[Judgement]
    evidence: dict[str, float] = {}
    threshold: float | None = None
    features: list[FeatureWeight] = []
    quality: Quality | None = None
    trend: float | None = None
    drifts: int = 0
    drift_severity: float = 0.0
    shifts: int = 0
    shift_severity: float = 0.0
    recalibrated: bool = False

    @property
    def judged(self) -> list[Judgement]:
        """Served first, then the contestants in their order."""
        return [self.served, *self.contestants]


def judge(name: str, evaluation: Evaluation) -> Judgement:
    """All that `evaluation` can say, under `name`."""
    return Judgement(
        name=name,
        metrics=evaluation.metrics(),
        deciles=evaluation.deciles(),
        segments=evaluation.segments(),
        curve=evaluation.curve(),
    )


def report_contest(outcome: str, contest: Contest, served: Evaluation, rows: Mapping[str, int]) -> OutcomeReport:
    """Report on a contest without a champion; `rows` are the examples that it took, by stage."""
    judged = zip(contest.contestants, contest.evaluations, strict=True)
    return OutcomeReport(
        outcome=outcome,
        champion=None,
        crowned=0,
        cold=contest.cold,
        rows=dict(rows),
        served=judge(SERVED, served),
        contestants=[judge(contestant.name, evaluation) for contestant, evaluation in judged],
    )


def report_learner(learner: OutcomeLearner) -> OutcomeReport:
    """Report on a learner: its contest, who is champion of it and by what it goes, and what it is fed."""
    championship, shift = learner.championship, learner.shift
    report = report_contest(learner.outcome, learner.contest, learner.served, learner.rows)
    [champion] = [each for each in report.contestants if each.name == championship.champion]
    return msgspec.structs.replace(
        report,
        champion=champion.name,
        crowned=championship.crowned,
        evidence=championship.evidence(),
        threshold=championship.threshold,
        features=weigh_features(learner),
        quality=grade_data(learner),
        trend=find_trend(champion.curve),
        drifts=learner.drift.found,
        drift_severity=learner.drift.severity,
        shifts=shift.found,
        shift_severity=shift.severity,
        recalibrated=learner.recalibration.used,
    )


def weigh_features(learner: OutcomeLearner) -> list[FeatureWeight]:
    """Every column with its weight, the most important first; none while the learner is cold or has seen too little."""
    scorer, rows = learner.scorer(), learner.shift.rows()
    if scorer is None or not len(rows):
        return []
    importance = _measure_importance(scorer, rows.tolist(), learner.names)
    psi = learner.shift.psi or [None] * len(learner.names)
    found = [
        FeatureWeight(name=name, importance=importance[name], psi=index, share=_share_most(column))
        for name, index, column in zip(learner.names, psi, rows.T, strict=True)
    ]
    return sorted(found, key=lambda each: -each.importance)


def find_trend(curve: Sequence[Point]) -> float | None:
    """By how much relative cross-entropy has risen in the newest quarter of the labels against the quarter before.

    >>> blocks = [Point(n * 200, 200, 0.3 if n > 6 else 0.4, 0.5, 1.0) for n in range(1, 9)]
    >>> round(find_trend(blocks), 3), find_trend(blocks[:3])
    (0.2, None)
    """
    if not curve or curve[-1].until < TREND_LABELS:
        return None
    last = curve[-1].until
    quarters = [[each for each in curve if low < 4 * each.until / last <= low + 1] for low in (2, 3)]
    if not all(quarters):
        return None
    before, newest = map(_gain, quarters)
    return newest - before


def _gain(points: Sequence[Point]) -> float:
    losses = sum([point.rows * point.log_loss for point in points])
    return 1.0 - losses / sum([point.rows * point.base_log_loss for point in points])


def _measure_importance(scorer: Scorer, rows: Sequence[Sequence[float]], names: Sequence[str]) -> dict[str, float]:
    sums = dict.fromkeys(names, 0.0)
    for row in rows:
        for moved in scorer.contributions(row, len(names)):
            sums[moved.name] += abs(moved.contribution)
    return {name: total / len(rows) for name, total in sums.items()}


def _share_most(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(np.unique(values, return_counts=True)[1].max() / len(values))
