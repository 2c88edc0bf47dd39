"""The features of an outcome, frozen at the moment of exposure: one row of floats a person and event.

Declared in one place, so that the layout of a stored row has a name (`SCHEMA`) and a model of another layout is
refused. All are computed from the profile just after the event became part of it, never from anything later.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final, NamedTuple

from models.person import Person
from schemas.event import ROLES, Event, Role

HOUR: Final = 3_600_000
DAY: Final = 24 * HOUR
TURN: Final = 2 * math.pi


class Feature(NamedTuple):
    """A column: its name, its unit and what it says."""

    name: str
    unit: str
    meaning: str


FEATURES: Final[tuple[Feature, ...]] = (
    Feature("exposures", "log(1+n)", "decayed count of exposures"),
    Feature("clicks", "log(1+n)", "decayed count of clicks"),
    Feature("views", "log(1+n)", "decayed count of views"),
    Feature("intents", "log(1+n)", "decayed count of intents"),
    Feature("conversions", "log(1+n)", "decayed count of conversion events"),
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
)

NAMES: Final = tuple(feature.name for feature in FEATURES)
SCHEMA: Final = hashlib.blake2b("\n".join(":".join(f) for f in FEATURES).encode(), digest_size=6).hexdigest()

_ROLES: Final[dict[Role, tuple[float, ...]]] = {
    role: tuple(float(feature.name == f"is_{role}") for feature in FEATURES if feature.name.startswith("is_"))
    for role in ROLES
}
_HOURS: Final = [(math.sin(TURN * h / 24), math.cos(TURN * h / 24)) for h in range(24)]
_WEEKDAYS: Final = [(math.sin(TURN * d / 7), math.cos(TURN * d / 7)) for d in range(7)]


def freeze(person: Person, event: Event, role: Role, gap: int, since_conversion: int | None) -> tuple[float, ...]:
    """Row of `len(FEATURES)` floats for `event`, which `person` already includes.

    `gap` is the time since the person's event before it, `since_conversion` since the conversion before it (None if
    there was none), both in milliseconds; negative ones, of events out of order, count as 0.
    """
    log1p = math.log1p
    ts = event.ts
    tenure = max(ts - person.first_seen, 0) / DAY
    orders = person.orders
    return (
        log1p(person.events_exposure),
        log1p(person.events_click),
        log1p(person.events_view),
        log1p(person.events_intent),
        log1p(person.events_conversion),
        log1p(person.sentiment_n),
        person.sentiment,
        log1p(tenure),
        log1p(gap / HOUR) if gap > 0 else 0.0,
        -1.0 if since_conversion is None else log1p(max(since_conversion, 0) / HOUR),
        log1p(orders),
        log1p(orders / max(tenure / 30.0, 1.0)),
        log1p(max(person.revenue, 0.0) / orders) if orders else 0.0,
        log1p(max(event.price, 0.0)) if event.price is not None else 0.0,
        _affinity(person, event.category),
        float(len(person.top_categories)),
        *_ROLES[role],
        *_HOURS[ts // HOUR % 24],
        *_WEEKDAYS[ts // DAY % 7],
    )


def _affinity(person: Person, category: str | None) -> float:
    if category is None or category not in person.top_categories:
        return 0.0
    return person.weights[person.top_categories.index(category)] / (sum(person.weights) or 1.0)
