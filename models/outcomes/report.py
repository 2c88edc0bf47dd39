"""The report on one outcome: how well its champion and every contestant predicted what came true.

Read from a learner, or from a contest alone; it holds numbers and names only and nothing of it is shared with what
goes on learning. What is undefined so far, such as a ranking without a single positive, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from models.outcomes.contest import Contest
from models.outcomes.curve import Point
from models.outcomes.evaluation import Calibration, Evaluation
from models.outcomes.learner import OutcomeLearner

SERVED = "served"
"""Name of the judgement on what was said to the outside, whoever was champion then."""


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


class OutcomeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one outcome's models.

    `champion` is None where nobody is crowned, `crowned` counts its changes, `rows` the examples taken by stage, and
    `cold` says that too few labels have matured for anybody to speak. `evidence` is, by challenger, that it is better
    than the champion (log of a bettor's money), `threshold` what is asked for.
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
    """Report on a learner: its contest, and who is champion of it."""
    championship = learner.championship
    return msgspec.structs.replace(
        report_contest(learner.outcome, learner.contest, learner.served, learner.rows),
        champion=championship.champion,
        crowned=championship.crowned,
        evidence=championship.evidence(),
        threshold=championship.threshold,
    )
