"""All learners that live on one partition of the examples topic: records in, snapshots out.

Each record is learned once: records carry the position of the outbox entry that they came from, and one that is not
above the last learned from its events partition is a second copy; generation goes before offset. An outcome's learner
begins with its first record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from models.lifecycle.sampling import REMEMBERED, Decision, find_following
from models.lifecycle.snapshot import Snapshot, SnapshotRefused
from models.outcomes.boosting import ExtraMissing
from models.outcomes.learner import ExampleRefused, OutcomeLearner
from models.recommend.learner import RecommendLearner
from schemas.example import Example, Interaction

RECOMMEND: Final = "recommend"
"""Model name of the recommender's snapshots."""
NOBODY: Final[Mapping[str, str]] = MappingProxyType({})


class LearnerSet:
    """The learners of one examples partition.

    `learned`, `repeated` and `refused` count records since this object was made; `sampling` holds what was decided of
    the terms of learning, the newest `REMEMBERED` decisions. Not safe from two threads at once:
    nothing may be learned while `snapshots` runs elsewhere.
    """

    def __init__(self, feature_names: Sequence[str], schema: str, categorical: Sequence[int] = ()) -> None:
        """Learn outcomes from rows of `feature_names`, whose layout hashes to `schema`.

        Columns in `categorical` are codes, whose order means nothing.
        """
        self.outcomes: dict[str, OutcomeLearner] = {}
        self.recommend: RecommendLearner | None = None
        self.positions: dict[int, tuple[int, ...]] = {}
        self.sampling: tuple[Decision, ...] = ()
        self.learned = self.repeated = self.refused = 0
        self._names = tuple(feature_names)
        self._schema = schema
        self._categorical = tuple(categorical)

    def learn(self, record: Example | Interaction) -> bool:
        """Take one record in; False, and nothing changed but a counter, for a second copy of one learned before.

        An example that does not fit its learner (of another feature layout, say) is counted as refused and passed:
        it is False too, and its position is taken as done.
        """
        position = (record.generation, record.offset, record.index)
        last = self.positions.get(record.partition)
        if last is not None and position <= last:
            self.repeated += 1
            return False
        self.positions[record.partition] = position
        try:
            self._route(record)
        except ExampleRefused:
            self.refused += 1
            return False
        self.learned += 1
        return True

    @property
    def rate(self) -> float:
        """Share of the windows that are learned from as negatives."""
        return self.sampling[-1].rate if self.sampling else 1.0

    @property
    def passed(self) -> int:
        """Examples that were taken and not sampled, in all."""
        return sum(learner.passed for learner in self.outcomes.values())

    @property
    def entrants(self) -> tuple[str, ...]:
        """Who takes part in each outcome's contest beside those who always do."""
        return self.sampling[-1].entrants if self.sampling else ()

    def decide(self, version: int, rate: float, entrants: tuple[str, ...] = ()) -> None:
        """Learn from a share of `rate` of the windows as negatives, with `entrants` taking part.

        `version` includes the examples taken so far. Raises `ExtraMissing` where LightGBM is asked for and missing.
        """
        if (rate, entrants) == (self.rate, self.entrants):
            return
        for learner in self.outcomes.values():
            learner.admit(entrants)
        self.sampling = (*self.sampling, Decision(version, rate, entrants))[-REMEMBERED:]

    def follow(self, sampling: Sequence[Decision], version: int) -> None:
        """Take over what `sampling` says was decided before `version`, that of the next example to be taken."""
        last = self.sampling[-1].version if self.sampling else -1
        for decision in find_following(sampling, last, version):
            self.decide(*decision)

    def snapshots(self, version: int, created_at: int, promoted: Mapping[str, str] = NOBODY) -> list[Snapshot]:
        """One snapshot a learner, outcomes by name and the recommender last.

        `version` is the examples offset of the last record taken, `created_at` the event time in epoch milliseconds.
        `promoted` names the contestants, by outcome, that speak instead of the champion; it changes what is scored
        with, not what is learned. All belong together: publish all or none.
        """
        taken = [
            take_snapshot(learner, version, created_at, self.positions, promoted.get(name, ""), self.sampling)
            for name, learner in sorted(self.outcomes.items())
        ]
        if self.recommend is not None:
            taken.append(self._recommend_snapshot(self.recommend, version, created_at))
        return taken

    @classmethod
    def restore(
        cls, snapshots: Iterable[Snapshot], feature_names: Sequence[str], schema: str, categorical: Sequence[int] = ()
    ) -> LearnerSet:
        """The set that took `snapshots`: it goes on exactly as that one did; without any, an empty set.

        Raises SnapshotRefused where they are not all of one version and one set of positions, where an outcome was
        learned on another feature layout, or where the contents do not decode.
        """
        restored = cls(feature_names, schema, categorical)
        held: Snapshot | None = None
        for snapshot in snapshots:
            if held is not None and (snapshot.version, snapshot.positions) != (held.version, held.positions):
                raise SnapshotRefused(f"{snapshot.model} and {held.model} were not taken together: resume from one set")
            held = snapshot
            restored._resume(snapshot)
        if held is not None:
            # Of two numbers there were only in the first generation of a log.
            restored.positions = {of: (0, *place)[-3:] for of, place in held.positions.items()}
            restored.sampling = held.sampling
        return restored

    def _route(self, record: Example | Interaction) -> None:
        if isinstance(record, Interaction):
            if self.recommend is None:
                self.recommend = RecommendLearner()
            self.recommend.learn(record)
            return
        learner = self.outcomes.get(record.outcome)
        if learner is None:
            learner = OutcomeLearner(record.outcome, self._names, self._schema, categorical=self._categorical)
            learner.admit(self.entrants)
            learner.learn(record, self.rate)
            self.outcomes[record.outcome] = learner
        else:
            learner.learn(record, self.rate)

    def _resume(self, snapshot: Snapshot) -> None:
        try:
            if snapshot.kind == "recommend":
                self.recommend = RecommendLearner.from_bytes(snapshot.learning)
                return
            learner = OutcomeLearner.from_bytes(snapshot.learning)
        except (msgspec.DecodeError, ValueError, KeyError, ExtraMissing) as error:
            raise SnapshotRefused(f"{snapshot.model}: version {snapshot.version} does not decode: {error}") from error
        layout = (self._schema, self._names, self._categorical)
        if (learner.schema, learner.names, learner.categorical) != layout:
            raise SnapshotRefused(
                f"{snapshot.model}: version {snapshot.version} was learned on the feature layout {learner.schema!r}, "
                f"this release computes {self._schema!r}: learn again from the beginning of the examples"
            )
        self.outcomes[snapshot.model] = learner

    def _recommend_snapshot(self, learner: RecommendLearner, version: int, created_at: int) -> Snapshot:
        return Snapshot(
            model=RECOMMEND,
            kind="recommend",
            version=version,
            schema="",
            created_at=created_at,
            positions=dict(self.positions),
            metrics=learner.metrics(),
            scoring=learner.scoring(),
            learning=learner.to_bytes(),
            sampling=self.sampling,
        )


def take_snapshot(
    learner: OutcomeLearner,
    version: int,
    created_at: int,
    positions: Mapping[int, tuple[int, ...]],
    promoted: str = "",
    sampling: tuple[Decision, ...] = (),
) -> Snapshot:
    """One learner's snapshot: `version`, `created_at` and `promoted` as in `LearnerSet.snapshots`."""
    scorer = learner.scorer(promoted)
    return Snapshot(
        model=learner.outcome,
        kind="outcome",
        version=version,
        schema=learner.schema,
        created_at=created_at,
        positions=dict(positions),
        metrics={
            **learner.metrics(),
            "matured": float(learner.rows["matured"]),
            "examples": float(sum(learner.rows.values())),
            "passed": float(learner.passed),
        },
        scoring=b"" if scorer is None else scorer.to_bytes(),
        learning=learner.to_bytes(),
        champion=learner.find_speaker(promoted),
        sampling=sampling,
    )
