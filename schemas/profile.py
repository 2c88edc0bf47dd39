"""The profile: what is known about a person, as other programs may read it from Redis.

`profile:{p<partition>}:<user>` is a hash; each field below is one hash field, as text, left out while empty. Fields
named `_0`, `_1`, ... are nudge's own. Fields that depend on time are as of `last_seen`: to bring a decayed count `x`
to a later moment `t`, take `x * 2 ** (-(t - last_seen) / half_life)`, with the half-life (milliseconds) below.
"""

from __future__ import annotations

from typing import Final

import msgspec

HALF_LIFE: Final = 7 * 86_400_000
"""Half-life of decayed counts and of the sentiment mean, in milliseconds (seven days)."""


class Profile(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """A person's readable profile. Times are epoch milliseconds of event time; counts decay unless said otherwise."""

    first_seen: int = 0
    """Time of the earliest event."""
    last_seen: int = 0
    """Time of the latest event; every decayed field is as of this moment."""
    last_event: str = ""
    """Type of the latest event."""
    sentiment: float = 0.0
    """Decayed mean of the scores of the person's texts, -1 (negative) to 1 (positive)."""
    sentiment_n: float = 0.0
    """Decayed number of texts behind `sentiment`."""
    conversion_probability: float | None = None
    """Probability to convert within the outcome's window, as of the last scored event; absent without a model."""
    conversion_version: int | None = None
    """Version of the model that gave `conversion_probability`."""
    churn_probability: float | None = None
    """Probability of no further activity within the churn window."""
    ctr: float | None = None
    """Probability to click the next exposure."""
    segment: str = ""
    """Segment, where one is assigned."""
    events_exposure: float = 0.0
    """Decayed count of exposures."""
    events_click: float = 0.0
    """Decayed count of clicks."""
    events_view: float = 0.0
    """Decayed count of views."""
    events_intent: float = 0.0
    """Decayed count of intents (cart, checkout)."""
    events_conversion: float = 0.0
    """Decayed count of conversion events."""
    events_feedback: float = 0.0
    """Decayed count of texts given: reviews, tickets, surveys."""
    events_other: float = 0.0
    """Decayed count of events without a mapped role."""
    orders: int = 0
    """Number of conversions, counting events of one session once; does not decay."""
    revenue: float = 0.0
    """Sum of price times quantity over conversions; does not decay."""
    top_categories: tuple[str, ...] = ()
    """Categories by decayed count, the strongest first; a JSON list of at most 64 bytes."""
    last_items: tuple[str, ...] = ()
    """Items last seen, the newest first, each once; a JSON list of at most 64 bytes (one item if that is longer)."""
    best_hour: int | None = None
    """Hour of the day (UTC, 0-23) with the most events."""
    version: int = 0
    """Number of events that this profile includes."""
