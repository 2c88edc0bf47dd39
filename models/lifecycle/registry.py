"""The scorers that a worker uses right now, swapped one by one as newer snapshots arrive.

A swap replaces one reference, so a batch that took `current` at its beginning scores with one set of versions to its
end. Versions only go forward, unless an operator's word takes one back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import msgspec

from models.lifecycle.snapshot import Snapshot, SnapshotRefused
from models.outcomes.scorers import Scorer, open_scorer
from models.recommend.blend import Recommender


@dataclass(frozen=True, slots=True)
class Lineup:
    """One consistent set of scorers, each with its version."""

    outcomes: Mapping[str, tuple[Scorer, int]] = field(default_factory=lambda: MappingProxyType({}))
    recommendation: tuple[Recommender, int] | None = None

    def outcome(self, name: str) -> tuple[Scorer, int] | None:
        """The scorer of an outcome and its version; None while there is none."""
        return self.outcomes.get(name)

    def recommender(self) -> tuple[Recommender, int] | None:
        """The recommender and its version; None while there is none."""
        return self.recommendation

    def version(self, snapshot: Snapshot) -> int | None:
        """The version held of the model that `snapshot` is of."""
        held = self.outcome(snapshot.model) if snapshot.kind == "outcome" else self.recommendation
        return held[1] if held else None


class Champions:
    """Holds the current `Lineup`.

    `current` may be read from any thread; `swap` is for one thread at a time, which need not be the event loop's.
    """

    def __init__(self, schema: str) -> None:
        """Accept outcome models for the feature layout that hashes to `schema`."""
        self.schema = schema
        self._current = Lineup()

    @property
    def current(self) -> Lineup:
        """The scorers of this moment, never changed afterwards: take it once a batch."""
        return self._current

    def outcome(self, name: str) -> tuple[Scorer, int] | None:
        """See `Lineup.outcome`."""
        return self._current.outcome(name)

    def recommender(self) -> tuple[Recommender, int] | None:
        """See `Lineup.recommender`."""
        return self._current.recommender()

    def swap(self, snapshot: Snapshot, *, pinned: bool = False) -> bool:
        """Use `snapshot` from now on; False where that very version is in use already, or the model is cold.

        An older version than the one in use is for `pinned` alone: where an operator chose it, or has just let go of
        one that was chosen.

        Raises SnapshotRefused for an older version, another feature layout or contents that do not decode; what was
        in use stays.
        """
        held = self._current.version(snapshot)
        if held == snapshot.version or not snapshot.scoring:
            return False
        if held is not None and snapshot.version < held and not pinned:
            raise SnapshotRefused(f"{snapshot.model}: version {snapshot.version} is older than {held}, which is in use")
        try:
            self._current = self._with(snapshot)
        except (msgspec.DecodeError, ValueError) as error:
            raise SnapshotRefused(f"{snapshot.model}: version {snapshot.version} does not decode: {error}") from error
        return True

    def _with(self, snapshot: Snapshot) -> Lineup:
        if snapshot.kind == "recommend":
            return replace(self._current, recommendation=(Recommender.from_bytes(snapshot.scoring), snapshot.version))
        scorer = open_scorer(snapshot.scoring)
        for schema in (snapshot.schema, scorer.schema):
            if schema != self.schema:
                raise SnapshotRefused(
                    f"{snapshot.model}: version {snapshot.version} was learned on the feature layout {schema!r}, this "
                    f"worker computes {self.schema!r}: let the learner publish one for this release"
                )
        outcomes = {**self._current.outcomes, snapshot.model: (scorer, snapshot.version)}
        return replace(self._current, outcomes=MappingProxyType(outcomes))
