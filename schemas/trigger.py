"""The recommendation trigger: what nudge writes to `marketing.recommendations.v1` when a rule fires.

Delivery is at least once and in order of first occurrence per person: a consumer deduplicates by `trigger_id`, which
is a hash of (user, event id, rule) and so is the same however often the event is decided again.
"""

from __future__ import annotations

import msgspec

from schemas.event import SCHEMA_VERSION


class RecommendedItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item to show, `score` descending, with the reason in words (`bought together with 71053`)."""

    item_id: str
    score: float
    reason: str
    title: str | None = None


class Contribution(msgspec.Struct, frozen=True, kw_only=True):
    """One feature's share in a score: `value` as the model saw it, `contribution` in log-odds."""

    name: str
    value: float
    contribution: float


class RecommendationTrigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision about one person, with all that explains it. Times are epoch milliseconds.

    `scores` names each outcome's probability that the rule looked at, `model_versions` the snapshot behind each score
    and behind `items`, `top_features` the strongest contributions to the score. `expected_value` is that score times
    what the outcome is worth, in its currency, where that is set.
    """

    trigger_id: str
    user_id: str
    rule: str
    event_id: str
    decided_at: int
    expires_at: int
    reason: str
    items: tuple[RecommendedItem, ...] = ()
    channel: str | None = None
    campaign_id: str | None = None
    variant: str | None = None
    propensity: float | None = None
    send_at: int | None = None
    scores: dict[str, float] = {}
    expected_value: float | None = None
    model_versions: dict[str, int] = {}
    top_features: tuple[Contribution, ...] = ()
    version: int = SCHEMA_VERSION
