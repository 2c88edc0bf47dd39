"""The learner of one outcome: labelled examples in, one at a time, and frozen scorers of its champion out.

Two models, each under the two sound label policies, learn from the same examples and are judged by what they had said
at exposure, beside others where that is asked for. One of them all is the champion: the scorer is its. A learner
restored from its bytes goes on exactly, to the bit, as the one that wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import Final, NoReturn, Protocol, cast

import msgspec

from models.outcomes.championship import Championship, ChampionshipState
from models.outcomes.contest import WARM, Contest, Contestant, weigh_negative
from models.outcomes.drift import Drift, DriftState
from models.outcomes.entrants import ENTRANTS, make_entrant, restore_entrant
from models.outcomes.evaluation import Evaluation, EvaluationState, list_segments
from models.outcomes.f4 import F4
from models.outcomes.features import MOVING, SCHEMA
from models.outcomes.model import Model, Restore
from models.outcomes.policies import FakeNegativeWeighting, Policy, Wait
from models.outcomes.recalibration import Recalibration, RecalibrationState
from models.outcomes.regression import Regression
from models.outcomes.scorers import RawScorer, RecalibratedScorer, Scorer
from models.outcomes.shift import Shift, ShiftState
from schemas.example import Example

FIRST: Final = "f4-wait"
"""The champion to begin with."""

FRESH: Final = "f4-fresh"
"""A challenger that begins anew, bins and all, when the champion's residuals have drifted or the rows have shifted."""
REST: Final = 2_000
"""Matured labels that a fresh challenger has before another drift may replace it."""
LONG_REST: Final = 20_000
"""As many for a shift: rows may change for long, and what is got wrong says more."""

ENTRIES: Final[dict[str, tuple[Restore, Policy]]] = {
    "f4-wait": (F4.from_bytes, Wait()),
    "f4-fnw": (F4.from_bytes, FakeNegativeWeighting()),
    "regression-wait": (Regression.from_bytes, Wait()),
    "regression-fnw": (Regression.from_bytes, FakeNegativeWeighting()),
    FRESH: (F4.from_bytes, Wait()),
    **{name: (partial(restore_entrant, name), Wait()) for name in ENTRANTS},
}
"""Who may take part: by name, what makes its model of bytes again, and its label policy."""
SPEAKERS: Final = ("f4-wait", "f4-fnw", "regression-wait", "regression-fnw")
"""Those who take part from the beginning."""


class ExampleRefused(ValueError):
    """An example that this learner cannot learn from; the message says which field and why."""


class Speaker(Model, Protocol):
    """A model that can be champion."""

    def scorer(self, names: Sequence[str], *, outcome: str = "", schema: str = "") -> RawScorer | None:
        """A frozen copy of what is known now, for rows of the columns `names`; None while that is nothing."""


class LearnerState(msgspec.Struct, frozen=True, kw_only=True):
    """What a learner is restored from; one written before rows were watched, or the map learned, begins to."""

    outcome: str
    names: tuple[str, ...]
    schema: str
    categorical: tuple[int, ...]
    rows: dict[str, int]
    served: EvaluationState
    championship: ChampionshipState
    drift: DriftState
    shift: ShiftState = ShiftState()
    recalibration: RecalibrationState | None = None
    passed: int = 0
    renewed: int | None
    contest: bytes


class OutcomeLearner:
    """Learns one outcome's probability from its examples.

    `rows` counts the examples taken, by stage, and `passed` those of them that were not sampled; `served` judges the
    predictions that were stored at exposure, which are those of the champions of that time, and `contest` what each
    contestant would have said. What the champion says goes through `recalibration` while it is better for it. When
    `drift` finds that the champion's residuals have moved, or `shift` that the rows have, a fresh F4 begins to
    challenge it. Not safe for use from two threads at once.
    """

    def __init__(
        self,
        outcome: str,
        feature_names: Sequence[str],
        schema: str,
        *,
        categorical: Sequence[int] = (),
        window: int = 2_000,
    ) -> None:
        """Learn `outcome` from rows of `feature_names`, whose layout hashes to `schema`.

        Columns in `categorical` are codes, whose order means nothing; `window` is the number of matured labels behind
        the recent metrics.
        """
        self.outcome = outcome
        self.schema = schema
        self.names = tuple(feature_names)
        self.categorical = tuple(categorical)
        self.rows = {"exposed": 0, "fulfilled": 0, "matured": 0}
        self.passed = 0
        self.served = Evaluation(window)
        self.drift = Drift()
        self.shift = Shift(len(self.names), self.categorical, MOVING if schema == SCHEMA else ())
        self._renewed: int | None = None
        columns = len(self.names)
        models: list[Model] = [
            F4(columns, categorical),
            F4(columns, categorical),
            Regression(columns, categorical),
            Regression(columns, categorical),
        ]
        contestants = [Contestant(name, model, ENTRIES[name][1]) for name, model in zip(SPEAKERS, models, strict=True)]
        self.contest = Contest(contestants, window=window)
        self.championship = Championship(SPEAKERS, FIRST)
        self.recalibration = Recalibration()

    def learn(self, example: Example, rate: float = 1.0) -> None:
        """Take one example in; raises ExampleRefused, and changes nothing, where it does not fit this learner.

        What it teaches each model, and when, is up to the model's policy; a `matured` one judges them all. A share of
        `rate` of the windows is learned from as negatives, each for 1/`rate` of them, and every positive is.
        """
        self._check(example)
        self.rows[example.stage] += 1
        negative = weigh_negative(example.example_id, rate)
        self.passed += not negative and not example.label
        if example.stage == "matured":
            self.served.add(example.prediction, example.label, list_segments(example))
            if negative and not self.cold:
                # By what the champion says now, not at exposure: it may have put itself right since.
                now = self.contest.find(self.champion).model.see(example.features).prediction
                self.recalibration.learn(now, example.label == 1)
        said = self.contest.take(example, negative)
        if said is not None:
            self._judge(said, example.label)
        if example.stage == "exposed" and negative and self.shift.add(example.features) and not self.cold:
            self._renew(LONG_REST)

    def admit(self, entrants: Collection[str]) -> None:
        """Let `entrants`, some of `ENTRANTS`, take part from here on, and none of the others.

        Raises `ExtraMissing` where LightGBM is asked for and not installed.
        """
        present: list[str] = [each.name for each in self.contest.contestants if each.name in ENTRANTS]
        for name in present:
            if name not in entrants:
                self.contest.leave(name)
                if name == self.champion:
                    self.recalibration = Recalibration()
                    self.drift.begin()
                self.championship.leave(name, FIRST)
        for name in entrants:
            if name not in present:
                model = make_entrant(name, len(self.names), self.categorical)
                self.contest.enter(Contestant(name, model, ENTRIES[name][1]))
                self.championship.enter(name)

    @property
    def cold(self) -> bool:
        """Whether too few labels, fewer than `WARM`, have matured to say anything: a young model knows only those who
        were quick.

        Until then the base rate is a guess, and a probability made of a guess would be taken at its word.
        """
        return self.contest.cold

    @property
    def champion(self) -> str:
        """Name of the contestant that speaks."""
        return self.championship.champion

    def find_speaker(self, promoted: str = "") -> str:
        """The contestant called `promoted`; the champion where none is called so."""
        return promoted if promoted in self.championship.names else self.champion

    def scorer(self, promoted: str = "") -> Scorer | None:
        """A frozen copy of what the champion, or who was `promoted` over it, knows now; None while the learner is cold.

        A promotion changes nothing in the learner: evidence and champion go on beside it.
        """
        if self.cold:
            return None
        speaker = self.find_speaker(promoted)
        model = cast(Speaker, self.contest.find(speaker).model)
        raw = model.scorer(self.names, outcome=self.outcome, schema=self.schema)
        parameters = self.recalibration.parameters if speaker == self.champion else None
        return raw if raw is None or parameters is None else RecalibratedScorer(raw, parameters)

    def metrics(self) -> dict[str, float]:
        """Of what was served the names of `Evaluation.metrics`; the contestants' after their name and a dot.

        `crowned` counts changes of the champion, `drifts` those of what it gets wrong, `drift_severity` says by how
        much the mean residual moved at the last of them. `shifts` and `shift_severity` are `found` and `severity` of
        the `shift`, and `psi` is the highest index of the newest block of rows, absent before there were two.
        `recalibrated` is 1 while what the champion says is recalibrated.
        """
        found = self.served.metrics() | {"crowned": float(self.championship.crowned)}
        found |= {"drifts": float(self.drift.found), "drift_severity": self.drift.severity}
        found |= {"shifts": float(self.shift.found), "shift_severity": self.shift.severity}
        found["recalibrated"] = float(self.recalibration.used)
        if self.shift.psi:
            found["psi"] = self.shift.worst
        for name, metrics in self.contest.metrics().items():
            found |= {f"{name}.{metric}": value for metric, value in metrics.items()}
        return found | {f"{name}.evidence": value for name, value in self.championship.evidence().items()}

    def to_bytes(self) -> bytes:
        """The whole state as msgpack."""
        state = LearnerState(
            outcome=self.outcome,
            names=self.names,
            schema=self.schema,
            categorical=self.categorical,
            rows=self.rows,
            served=self.served.state(),
            championship=self.championship.state(),
            drift=self.drift.state(),
            shift=self.shift.state(),
            recalibration=self.recalibration.state(),
            passed=self.passed,
            renewed=self._renewed,
            contest=self.contest.to_bytes(),
        )
        return msgspec.msgpack.encode(state)

    @classmethod
    def from_bytes(cls, data: bytes) -> OutcomeLearner:
        """The learner that wrote `data`; raises msgspec.DecodeError, ValueError or KeyError for anything else."""
        state = msgspec.msgpack.decode(data, type=LearnerState)
        learner = cls(state.outcome, state.names, state.schema, categorical=state.categorical)
        learner.rows, learner.passed = state.rows, state.passed
        learner.served = Evaluation.restore(state.served)
        learner.championship = Championship.restore(state.championship)
        learner.drift = Drift.restore(state.drift)
        learner.shift.resume(state.shift)
        if state.recalibration is not None:
            learner.recalibration = Recalibration.restore(state.recalibration)
        learner._renewed = state.renewed
        learner.contest = Contest.from_bytes(state.contest, ENTRIES)
        return learner

    def _judge(self, said: Sequence[float | None], label: int) -> None:
        championship, crowned = self.championship, self.championship.crowned
        found = {each.name: chance for each, chance in zip(self.contest.contestants, said, strict=True)}
        spoke = found[championship.champion]
        championship.judge([found[name] for name in championship.names], label)
        if championship.crowned != crowned:
            self.recalibration = Recalibration()
            self.drift.begin()
        elif spoke is not None and self.drift.add(label - spoke):
            self._renew(REST)

    def _renew(self, rest: int) -> None:
        """Let a fresh F4 challenge the champion, in the place of the one that began before or was deposed by it.

        That one has `rest` matured labels before.
        """
        matured = self.rows["matured"]
        if self._renewed is not None and matured - self._renewed < rest:
            return
        self._renewed = matured
        name = FIRST if self.champion == FRESH else FRESH
        self.contest.enter(Contestant(name, F4(len(self.names), self.categorical), ENTRIES[name][1]))
        self.championship.enter(name)

    def _check(self, example: Example) -> None:
        if example.outcome != self.outcome:
            self._refuse("outcome", example.outcome, self.outcome)
        if example.schema != self.schema:
            self._refuse("schema", example.schema, self.schema)
        if len(example.features) != len(self.names):
            self._refuse("number of features", len(example.features), len(self.names))
        # One value that is not finite would make every weight so, for ever. (A sum is finite only if all terms are.)
        if not math.isfinite(sum(example.features)):
            self._refuse("features", "a value that is not finite", "finite numbers")
        if example.label not in (0, 1):
            self._refuse("label", example.label, "0 or 1")
        if example.prediction is not None and not 0.0 <= example.prediction <= 1.0:
            self._refuse("prediction", example.prediction, "a probability")

    def _refuse(self, field: str, found: object, expected: object) -> NoReturn:
        raise ExampleRefused(f"the learner of {self.outcome!r} got {field} {found!r}, expected {expected!r}")


__all__ = ["ENTRIES", "FIRST", "WARM", "ExampleRefused", "OutcomeLearner"]
