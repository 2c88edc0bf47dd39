"""The scored event: what nudge says of every event, on `marketing.scored.v1`, where `send_scores` is on.

Delivery is at least once: a consumer deduplicates by (`user_id`, `event_id`).
"""

from __future__ import annotations

import msgspec

from schemas.event import SCHEMA_VERSION, Role


class TextSentiment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was read out of an event's text.

    `score` is p(positive) - p(negative), -1 to 1; `confidence` the probability of `label`, the likeliest of negative,
    neutral and positive. `source` (transformer, student) and its version `model` said so, at the level of load `level`.
    """

    score: float
    confidence: float
    label: str
    source: str
    model: str
    level: int | None = None


class ScoredEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The scores of one event. Times are epoch milliseconds.

    `scores` names each outcome's probability as the profile and the rules have it, `model_versions` the snapshot behind
    each; both are empty for an event of a role that is not scored, and while the models are cold.
    """

    user_id: str
    event_id: str
    role: Role
    ts: int
    decided_at: int
    scores: dict[str, float] = {}
    model_versions: dict[str, int] = {}
    sentiment: TextSentiment | None = None
    version: int = SCHEMA_VERSION
