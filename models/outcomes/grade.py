"""A grade for what a learner is fed: what is wrong with its labels and its rows, in words, and how bad that is."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
import numpy as np

from models.outcomes.learner import OutcomeLearner

Grade = Literal["A", "B", "C", "D"]

GRADES: Final[tuple[Grade, ...]] = ("A", "B", "C", "D")
FEW: Final = 100
"""Labels of a kind below which a model has little to go by."""
UNSCORED: Final = 0.05
"""Share of matured labels without a stored prediction from which on that is a finding."""
SILENT: Final = 0.5
"""Share of columns without two values among the newest rows from which on that is a finding."""
TOLD: Final = 5
"""Columns that a finding names at most."""


class Quality(msgspec.Struct, frozen=True):
    """`A` is nothing found; each finding is one grade lower, `D` three or more."""

    grade: Grade
    findings: list[str]


def grade_data(learner: OutcomeLearner) -> Quality:
    """Grade the examples of one outcome.

    Found is: fewer than `FEW` labels of a kind that could be judged, matured labels without a prediction, columns that
    say nothing, and columns that have shifted.
    """
    findings = [*_look_at_labels(learner), *_look_at_rows(learner)]
    return Quality(GRADES[min(len(findings), len(GRADES) - 1)], findings)


def _look_at_labels(learner: OutcomeLearner) -> list[str]:
    totals = learner.served.totals
    findings = []
    matured = totals.rows + totals.unscored
    for kind, count in (("positive", totals.labels), ("negative", totals.rows - totals.labels)):
        if count < FEW:
            findings.append(f"{count:,} {kind} labels judged so far: a model needs {FEW} or more")
    if matured and totals.unscored / matured > UNSCORED:
        findings.append(f"{totals.unscored / matured:.0%} of the matured labels have no stored prediction")
    return findings


def _look_at_rows(learner: OutcomeLearner) -> list[str]:
    rows, names = learner.shift.rows(), learner.names
    findings = []
    silent = [name for name, column in zip(names, rows.T, strict=True) if len(np.unique(column)) < 2]
    if len(rows) > FEW and len(silent) > SILENT * len(names):
        findings.append(f"{len(silent)} of {len(names)} columns never change: {_list(silent)}")
    if shifted := [names[place] for place in learner.shift.shifted]:
        findings.append(f"{len(shifted)} columns have shifted: {_list(shifted)}")
    return findings


def _list(names: list[str]) -> str:
    return ", ".join(names[:TOLD]) + (", ..." if len(names) > TOLD else "")
