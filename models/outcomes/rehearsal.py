"""A rehearsal: rows whose labels are known played to a learner as if their labels were still to come.

Each row is exposed at its time and predicted by the newest scorer, and its label comes a delay later; whatever the
learner knew of it by then, it had said at exposure. Test then train, row by row, and never anything ahead of its time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from models.outcomes.learner import OutcomeLearner
from models.outcomes.scorers import Scorer
from schemas.example import Example, Stage


class Rows(NamedTuple):
    """In the order of their times: equally many `features`, `labels` (0 or 1) and `times` (ms, never falling)."""

    features: Sequence[tuple[float, ...]]
    labels: Sequence[int]
    times: Sequence[float]


class Rehearsal:
    """Plays rows to `learner` with labels that come `delay` milliseconds late.

    A positive's moment is not known, so it is told with its label and not before: the policies that would learn from it
    earlier are at their worst here. The labels that the last row does not live to see come after it. `examples` counts
    what the learner was told, `swaps` the scorers that came into use.
    """

    def __init__(self, learner: OutcomeLearner, *, delay: int = 0, every: int = 500) -> None:
        """Take a new scorer from the learner after every `every` examples."""
        self.learner = learner
        self.examples = self.swaps = 0
        self._delay = delay
        self._every = every
        self._scorer: Scorer | None = None
        self._version: int | None = None
        self._said: dict[int, tuple[float | None, int | None]] = {}

    def play(self, rows: Rows) -> None:
        """Tell the learner everything, in the order in which it would have become known."""
        for stage, number in order(rows.times, self._delay):
            if stage == "exposed":
                said = None if self._scorer is None else self._scorer.score_one(rows.features[number])
                self._said[number] = (said, self._version)
                self._tell(rows, number, stage, 0)
                continue
            label = rows.labels[number]
            if label:
                self._tell(rows, number, "fulfilled", label)
            self._tell(rows, number, stage, label)
            del self._said[number]

    def _tell(self, rows: Rows, number: int, stage: Stage, label: int) -> None:
        prediction, version = self._said[number]
        example = Example(
            example_id=str(number),
            outcome=self.learner.outcome,
            stage=stage,
            label=label,
            partition=0,
            offset=self.examples,
            index=1,
            # Rows of one time are still exposed one after the other.
            exposed_at=number,
            features=rows.features[number],
            schema=self.learner.schema,
            prediction=prediction,
            model_version=version,
        )
        self.learner.learn(example)
        self.examples += 1
        if self.examples % self._every == 0:
            self._swap()

    def _swap(self) -> None:
        scorer = self.learner.scorer()
        if scorer is not None:
            self._scorer, self._version = scorer, self.examples - 1
            self.swaps += 1


def order(times: Sequence[float], delay: int) -> Iterator[tuple[Stage, int]]:
    """What happens to which row, in order: a label that is due when a row is exposed is known to it.

    >>> [f"{stage} {number}" for stage, number in order([0, 5, 10], 10)]
    ['exposed 0', 'exposed 1', 'matured 0', 'exposed 2', 'matured 1', 'matured 2']
    >>> [f"{stage} {number}" for stage, number in order([0, 0], 0)]
    ['exposed 0', 'matured 0', 'exposed 1', 'matured 1']
    """
    opened: deque[int] = deque()
    for number, time in enumerate(times):
        while opened and times[opened[0]] + delay <= time:
            yield "matured", opened.popleft()
        yield "exposed", number
        opened.append(number)
    for number in opened:
        yield "matured", number
