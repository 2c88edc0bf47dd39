"""The recommender's learner: interactions in, frozen recommenders out, and its whole state as bytes between."""

from __future__ import annotations

import msgspec

from models.recommend.blend import Recommender, freeze
from models.recommend.covisitation import CoVisitation, CoVisitationState
from models.recommend.popularity import Popularity, PopularityState
from schemas.example import Interaction


class State(msgspec.Struct, frozen=True):
    """What a learner is restored from."""

    rows: int
    popularity: PopularityState
    covisitation: CoVisitationState


class RecommendLearner:
    """Learns popularity and co-visitation from interactions; `rows` counts them. Not safe from two threads at once.

    >>> learner = RecommendLearner()
    >>> learner.learn(Interaction(item_id="tea", role="view", ts=0, partition=0, offset=0, index=0))
    >>> [item.reason for item in learner.recommender().recommend((), lambda item: False, 5)]
    ['popular now']
    """

    def __init__(self, popularity: Popularity | None = None, covisitation: CoVisitation | None = None) -> None:
        """Learn into these, or into empty ones with the default bounds and half-lives."""
        self.rows = 0
        self.popularity = Popularity() if popularity is None else popularity
        self.covisitation = CoVisitation() if covisitation is None else covisitation

    def learn(self, interaction: Interaction) -> None:
        """Take one interaction in."""
        self.rows += 1
        self.popularity.learn(interaction)
        self.covisitation.learn(interaction)

    def recommender(self) -> Recommender:
        """A frozen copy of what is known now."""
        return Recommender(freeze(self.popularity, self.covisitation))

    def scoring(self) -> bytes:
        """What `recommender().to_bytes()` gives, without building one."""
        return msgspec.msgpack.encode(freeze(self.popularity, self.covisitation))

    def metrics(self) -> dict[str, float]:
        """`rows` learned and `items` held."""
        return {"rows": float(self.rows), "items": float(len(self.covisitation))}

    def to_bytes(self) -> bytes:
        """The whole state as msgpack; a learner restored from it goes on exactly, to the bit, as this one."""
        return msgspec.msgpack.encode(State(self.rows, self.popularity.state(), self.covisitation.state()))

    @classmethod
    def from_bytes(cls, data: bytes) -> RecommendLearner:
        """The learner that wrote `data`; raises msgspec.DecodeError for anything else."""
        state = msgspec.msgpack.decode(data, type=State)
        learner = cls(Popularity.restore(state.popularity), CoVisitation.restore(state.covisitation))
        learner.rows = state.rows
        return learner
