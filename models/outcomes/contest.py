"""Several models and label policies beside each other on the same examples, each judged by its own predictions.

Examples of one outcome come in by stage. Each contestant predicts at exposure, and its prediction is kept until the
label matures and is scored then: delayed progressive validation. Until enough labels have matured everybody learns
from matured labels only, so that each begins at the prior of the first of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from models.outcomes.evaluation import Evaluation, EvaluationState, list_segments
from models.outcomes.model import Model, Restore, Sight
from models.outcomes.policies import Policy, Wait
from schemas.example import Example

WARM: Final = 200
"""Matured labels from which a contestant speaks, and from which its policy holds."""
OPEN: Final = 20_000
"""Open windows whose predictions are kept, some 150 bytes each in every snapshot; windows beyond are not judged."""

_WAIT: Final = Wait()


def weigh_negative(example_id: str, rate: float) -> float:
    """How much a window counts as a negative when a share of `rate` of all windows is looked at: 1/`rate`, or 0.

    A window that was looked at under one rate is under every higher one.

    >>> weigh_negative("a", 1.0), weigh_negative("a", 0.5), weigh_negative("c", 0.5)
    (1.0, 0.0, 2.0)
    """
    if rate >= 1.0:
        return 1.0
    return 1.0 / rate if zlib.crc32(example_id.encode()) < rate * 2**32 else 0.0


class Contestant(NamedTuple):
    """A model under a label policy."""

    name: str
    model: Model
    policy: Policy


class ContestState(msgspec.Struct, frozen=True, kw_only=True):
    """What a contest is restored from; one entry a contestant in `names`, `models` and `evaluations`."""

    names: tuple[str, ...]
    models: tuple[bytes, ...]
    evaluations: tuple[EvaluationState, ...]
    pending: dict[str, tuple[Sight | None, ...]]
    matured: int
    newest: int
    opened: int | None


class Contest:
    """Teaches and judges contestants. Not safe for use from two threads at once."""

    def __init__(self, contestants: Sequence[Contestant], *, window: int = 2_000, limit: int = OPEN) -> None:
        """Let `contestants`, each of another name, take part.

        `window` is the number of matured labels behind the recent metrics, `limit` the open windows that are judged.
        """
        self.contestants = tuple(contestants)
        self._window = window
        if len({each.name for each in contestants}) != len(contestants):
            raise ValueError("two contestants have one name")
        self.evaluations = tuple(Evaluation(window) for _ in contestants)
        self.matured = 0
        self._pending: dict[str, tuple[Sight | None, ...]] = {}
        self._limit = limit
        self._newest = 0
        self._opened: int | None = None

    @property
    def cold(self) -> bool:
        """Whether too few labels have matured to say anything."""
        return self._opened is None

    def find(self, name: str) -> Contestant:
        """The contestant called `name`; raises KeyError where there is none."""
        return {each.name: each for each in self.contestants}[name]

    def enter(self, contestant: Contestant) -> None:
        """Let one more take part, in the place of whoever had its name; it is judged on windows to come."""
        place = len(self.contestants)
        if contestant.name in (names := [each.name for each in self.contestants]):
            place = names.index(contestant.name)
        fresh = Evaluation(self._window)
        self.contestants = (*self.contestants[:place], contestant, *self.contestants[place + 1 :])
        self.evaluations = (*self.evaluations[:place], fresh, *self.evaluations[place + 1 :])
        self._pending = {
            window: (*sights[:place], None, *sights[place + 1 :]) for window, sights in self._pending.items()
        }

    def leave(self, name: str) -> None:
        """Let the contestant called `name` take part no more; raises KeyError where there is none."""
        place = self.contestants.index(self.find(name))
        self.contestants = (*self.contestants[:place], *self.contestants[place + 1 :])
        self.evaluations = (*self.evaluations[:place], *self.evaluations[place + 1 :])
        self._pending = {window: (*sights[:place], *sights[place + 1 :]) for window, sights in self._pending.items()}

    def take(self, example: Example, negative: float = 1.0) -> tuple[float | None, ...] | None:
        """Take one example in; of a matured one, what the contestants had said of it, unless that is unknown.

        None in place of what is said by a contestant that entered later. `negative` is what the window counts as a
        negative (`weigh_negative`): with 0 its exposure is not looked at, so nobody is judged by it, and nothing but
        a positive is learned from it.
        """
        self._newest = max(self._newest, example.exposed_at)
        if example.stage == "exposed":
            if negative:
                self._expose(example, negative)
            return None
        # A positive comes while its window is open, and the window matures later: only then it is done with.
        matured = example.stage == "matured"
        sights = (self._pending.pop if matured else self._pending.get)(example.example_id, None)
        for place, contestant in enumerate(self.contestants):
            self._teach(contestant, example, None if sights is None else sights[place], negative)
        return self._judge(example, sights) if matured else None

    def metrics(self) -> dict[str, dict[str, float]]:
        """See `Evaluation.metrics`; by the contestant's name."""
        return {
            contestant.name: evaluation.metrics()
            for contestant, evaluation in zip(self.contestants, self.evaluations, strict=True)
        }

    def to_bytes(self) -> bytes:
        """The whole state as msgpack."""
        state = ContestState(
            names=tuple(each.name for each in self.contestants),
            models=tuple(each.model.to_bytes() for each in self.contestants),
            evaluations=tuple(evaluation.state() for evaluation in self.evaluations),
            pending=self._pending,
            matured=self.matured,
            newest=self._newest,
            opened=self._opened,
        )
        return msgspec.msgpack.encode(state)

    @classmethod
    def from_bytes(cls, data: bytes, entries: Mapping[str, tuple[Restore, Policy]], *, limit: int = OPEN) -> Contest:
        """The contest that wrote `data`, to the bit: `entries` says, by name, what makes a model, and its policy.

        Raises msgspec.DecodeError or ValueError for other bytes, and KeyError where a name has no entry.
        """
        state = msgspec.msgpack.decode(data, type=ContestState)
        contest = cls(
            [
                Contestant(name, entries[name][0](model), entries[name][1])
                for name, model in zip(state.names, state.models, strict=True)
            ],
            limit=limit,
        )
        contest.evaluations = tuple(Evaluation.restore(evaluation) for evaluation in state.evaluations)
        contest._window = state.evaluations[0].window
        contest.matured = state.matured
        contest._pending = state.pending
        contest._newest = state.newest
        contest._opened = state.opened
        return contest

    def _policy(self, contestant: Contestant, example: Example) -> Policy:
        # A window that opened before the policy held was not learned at its exposure: it is learned when it matures.
        early = self._opened is None or example.exposed_at <= self._opened
        return _WAIT if early else contestant.policy

    def _expose(self, example: Example, negative: float) -> None:
        sights = []
        for contestant in self.contestants:
            sight = contestant.model.see(example.features)
            self._teach(contestant, example, sight, negative)
            sights.append(sight)
        if len(self._pending) < self._limit:
            self._pending[example.example_id] = tuple(sights)

    def _teach(self, contestant: Contestant, example: Example, sight: Sight | None, negative: float) -> None:
        policy, model, stage = self._policy(contestant, example), contestant.model, example.stage
        if stage == "matured" and stage in policy.stages:
            if not negative and not example.label:
                return
            # Not learned before, so the row can be seen afresh: by the model of today, not by that of a window ago.
            sight = model.see(example.features)
        elif sight is None:
            if stage not in policy.stages:
                return
            # One beyond the limit: its exposure was learned, and without its label it would stay a negative. Or one
            # that was not sampled: those that were count for it as negatives, none does as a positive.
            sight = model.see(example.features)
        teaches = stage in policy.stages
        if stage in policy.final:
            # What is not learned from here was sampled at its exposure, whatever its label was to be.
            model.combine(sight, example.label == 1, negative if teaches and not example.label else 1.0)
        if teaches:
            target = policy.target(stage, example.label, sight.prediction)
            model.learn(example.features, target.label, target.weight * (1.0 if target.label else negative))

    def _judge(self, example: Example, sights: tuple[Sight | None, ...] | None) -> tuple[float | None, ...] | None:
        self.matured += 1
        if self._opened is None and self.matured >= WARM:
            self._opened = self._newest
        # What was said before there was anything to go by is not held against anybody.
        early = self._opened is None or example.exposed_at <= self._opened
        said = None if sights is None or early else tuple(sight and sight.prediction for sight in sights)
        segments = list_segments(example)
        for place, evaluation in enumerate(self.evaluations):
            evaluation.add(None if said is None else said[place], example.label, segments)
        return said
