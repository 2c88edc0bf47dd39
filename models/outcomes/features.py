"""The features of an outcome, frozen at the moment of exposure: one row of floats a person and event.

Declared in one place, so that the layout of a stored row has a name (`SCHEMA`) and a model of another layout is
refused. All are computed from the profile just after the event became part of it, never from anything later.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from models.person import Person
from schemas.event import ROLES, Event, Role

HOUR: Final = 3_600_000
DAY: Final = 24 * HOUR
TURN: Final = 2 * math.pi

CLICKS: Final = 0.1
"""Clicks that everybody is taken to have given at one exposure before the first."""
CONVERSIONS: Final = 0.05
"""Conversions that everybody is taken to have made at one view or click before the first."""

Kind = Literal["number", "code"]
"""What the values of a column are to each other: numbers are more or less, codes are the same or not."""


class Feature(NamedTuple):
    """A column: its name, its unit, what it says and of which kind it is."""

    name: str
    unit: str
    meaning: str
    kind: Kind = "number"


_COUNTED: Final = {
    "exposures": "exposures",
    "clicks": "clicks",
    "views": "views",
    "intents": "intents",
    "conversions": "conversion events",
}
_PACES: Final = {"": "seven days", "_day": "one day", "_month": "thirty days"}

FEATURES: Final[tuple[Feature, ...]] = (
    *(
        Feature(f"{name}{pace}", "log(1+n)", f"count of {what}, of half-life {half_life}")
        for pace, half_life in _PACES.items()
        for name, what in _COUNTED.items()
    ),
    Feature("texts", "log(1+n)", "decayed count of texts behind the sentiment"),
    Feature("sentiment", "-1..1", "decayed mean sentiment"),
    Feature("tenure", "log(1+days)", "time since the first event"),
    Feature("gap", "log(1+hours)", "time since the event before this one"),
    Feature("since_conversion", "log(1+hours)", "time since the conversion before this event; -1 if none"),
    Feature("orders", "log(1+n)", "conversions so far, counting a session once"),
    Feature("order_rate", "log(1+orders/month)", "orders a month of tenure, the first month counted whole"),
    Feature("order_value", "log(1+currency)", "revenue per order"),
    Feature("price", "log(1+currency)", "price of this event's item; 0 if none"),
    Feature("affinity", "0..1", "share of this event's category among the person's top categories"),
    Feature("breadth", "n", "number of top categories"),
    Feature("is_exposure", "0/1", "the event is an exposure"),
    Feature("is_click", "0/1", "the event is a click"),
    Feature("is_view", "0/1", "the event is a view"),
    Feature("is_intent", "0/1", "the event is an intent"),
    Feature("is_conversion", "0/1", "the event is a conversion"),
    Feature("hour_sin", "-1..1", "hour of the day (UTC) on a circle"),
    Feature("hour_cos", "-1..1", "hour of the day (UTC) on a circle"),
    Feature("weekday_sin", "-1..1", "day of the week (UTC) on a circle"),
    Feature("weekday_cos", "-1..1", "day of the week (UTC) on a circle"),
    Feature("month_sin", "-1..1", "month of the year (UTC) on a circle"),
    Feature("month_cos", "-1..1", "month of the year (UTC) on a circle"),
    Feature(
        "click_rate",
        "0..1",
        f"clicks per exposure: (clicks + {CLICKS}) / (exposures + 1), both decayed, no fewer exposures than clicks",
    ),
    Feature(
        "conversion_rate",
        "0..1",
        f"conversion events per view or click: (conversions + {CONVERSIONS}) / (views + clicks + 1), all decayed, "
        "no fewer views and clicks than conversions",
    ),
    Feature(
        "price_ratio",
        "log ratio",
        "price of this event's item against the revenue per order, 1 added to both; 0 if one of them is not known",
    ),
    Feature("channel", "CRC-32", "code of this event's channel; 0 if none", "code"),
    Feature("campaign", "CRC-32", "code of this event's campaign; 0 if none", "code"),
)


def hash_layout(features: Sequence[Feature]) -> str:
    """The name of a layout, 12 hexadecimal digits: another one wherever a column differs in anything.

    >>> plain, coded = Feature("a", "n", "something"), Feature("a", "n", "something", "code")
    >>> hash_layout([plain]) == hash_layout([plain]), hash_layout([plain]) == hash_layout([coded])
    (True, False)
    """
    return hashlib.blake2b("\n".join(":".join(f) for f in features).encode(), digest_size=6).hexdigest()


NAMES: Final = tuple(feature.name for feature in FEATURES)
CATEGORICAL: Final = tuple(place for place, feature in enumerate(FEATURES) if feature.kind == "code")
"""Places of the columns that hold codes."""
SCHEMA: Final = hash_layout(FEATURES)
MOVING: Final = tuple(
    place
    for place, feature in enumerate(FEATURES)
    if feature.name == "tenure" or feature.name.startswith(("hour_", "weekday_", "month_"))
)
"""Places of the columns that move with time by themselves."""

_ROLES: Final[dict[Role, tuple[float, ...]]] = {
    role: tuple(float(feature.name == f"is_{role}") for feature in FEATURES if feature.name.startswith("is_"))
    for role in ROLES
}
_HOURS: Final = [(math.sin(TURN * h / 24), math.cos(TURN * h / 24)) for h in range(24)]
_WEEKDAYS: Final = [(math.sin(TURN * d / 7), math.cos(TURN * d / 7)) for d in range(7)]
_MONTHS: Final = [(math.sin(TURN * m / 12), math.cos(TURN * m / 12)) for m in range(12)]
_EPOCH: Final = date(1970, 1, 1).toordinal()


def freeze(person: Person, event: Event, role: Role, gap: int, since_conversion: int | None) -> tuple[float, ...]:
    """Row of `len(FEATURES)` floats for `event`, which `person` already includes.

    `gap` is the time since the person's event before it, `since_conversion` since the conversion before it (None if
    there was none), both in milliseconds; negative ones, of events out of order, count as 0. Changes nothing.
    """
    log1p = math.log1p
    ts = event.ts
    tenure = (ts - person.first_seen) / DAY if ts > person.first_seen else 0.0
    orders = person.orders
    exposures, clicks, views = person.events_exposure, person.events_click, person.events_view
    intents, conversions = person.events_intent, person.events_conversion
    price = log1p(event.price) if event.price is not None and event.price > 0.0 else 0.0
    value = log1p(person.revenue / orders) if orders and person.revenue > 0.0 else 0.0
    # Most people have no more than some of all this, and a call for nothing costs as much as any.
    return (
        log1p(exposures) if exposures else 0.0,
        log1p(clicks) if clicks else 0.0,
        log1p(views) if views else 0.0,
        log1p(intents) if intents else 0.0,
        log1p(conversions) if conversions else 0.0,
        *[log1p(count) if count else 0.0 for count in person.paces],
        log1p(person.sentiment_n) if person.sentiment_n else 0.0,
        person.sentiment,
        log1p(tenure),
        log1p(gap / HOUR) if gap > 0 else 0.0,
        -1.0 if since_conversion is None else log1p(since_conversion / HOUR) if since_conversion > 0 else 0.0,
        log1p(orders) if orders else 0.0,
        log1p(orders / (tenure / 30.0 if tenure > 30.0 else 1.0)) if orders else 0.0,
        value,
        price,
        _affinity(person, event.category),
        float(len(person.top_categories)),
        *_ROLES[role],
        *_HOURS[ts // HOUR % 24],
        *_place_day(ts // DAY),
        _smooth(clicks, exposures, CLICKS),
        _smooth(conversions, views + clicks, CONVERSIONS),
        price - value if price and value else 0.0,
        encode_text(event.channel),
        encode_text(event.campaign_id),
    )


@lru_cache(1 << 16)
def encode_text(text: str | None) -> float:
    """Code of a text, the same in every process; 0.0 for none. Two of 1,000 texts agree once in 8,600 times.

    >>> encode_text(None), encode_text("email")
    (0.0, 3885137012.0)
    """
    return 0.0 if text is None else float(zlib.crc32(text.encode()) or 1)


@lru_cache(1 << 12)
def _place_day(day: int) -> tuple[float, ...]:
    """Weekday and month of a day, counted from 1970, on their circles."""
    return (*_WEEKDAYS[day % 7], *_MONTHS[date.fromordinal(_EPOCH + day).month - 1])


def _smooth(hits: float, chances: float, prior: float) -> float:
    """Hits per chance, with `prior` hits in one chance before the first; each hit stands for a chance at least."""
    # What is clicked need not have been seen here: a rate above 1 would be no rate.
    return (hits + prior) / ((chances if chances > hits else hits) + 1.0)


def _affinity(person: Person, category: str | None) -> float:
    if category is None or category not in person.top_categories:
        return 0.0
    return person.weights[person.top_categories.index(category)] / (sum(person.weights) or 1.0)
