"""A person as the models see one, and how one event changes it.

`Person` is the readable profile plus what only nudge needs. `advance` is the one place where an event becomes part of
a profile; it changes a working copy in place, because a copy per event would cost more than all the rest.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from functools import lru_cache
from typing import Final

import msgspec

from schemas.event import ROLES, Event, Role
from schemas.profile import HALF_LIFE, Profile

HOURS: Final = 24
BOUGHT_WIDTH: Final = 3
BOUGHT_ITEMS: Final = 64
SESSION_WIDTH: Final = 6
SESSIONS: Final = 4
CATEGORIES: Final = 8
ITEMS: Final = 8
ITEMS_BYTES: Final = 64
"""A longer hash value would make Redis give up its compact encoding."""


_json = msgspec.json.Encoder()


TINY: Final = 1e-290
_COUNTS: Final[dict[Role, str]] = {role: f"events_{role}" for role in ROLES}

PACED: Final[tuple[Role, ...]] = ("exposure", "click", "view", "intent", "conversion")
"""Roles whose events are counted at two paces more."""
BRIEF: Final = HALF_LIFE / 7
LASTING: Final = HALF_LIFE / 7 * 30
"""Half-lives of the two, a day and thirty days, in milliseconds."""
_PLACES: Final[dict[Role, int]] = {role: place for place, role in enumerate(PACED)}

COMMUTING: Final = (
    *_COUNTS.values(),
    "paces",
    "sentiment",
    "sentiment_n",
    "revenue",
    "version",
    "first_seen",
    "last_seen",
)
"""Fields that are the same, to within 1e-9, in whatever order a person's events come, late ones among them.

Counts and sums decay by one factor for all times, so an event adds the same wherever it stands, and the mean of the
sentiment is of two such sums; `revenue` and `version` do not decay; `first_seen` and `last_seen` are extremes. The
others depend on order: `last_event`, `best_hour` and the lists break ties by what came first and are not changed by
late events, a late conversion is no order (within the lateness, orders of up to four sessions at once are counted
right), and probabilities are as of one event.
"""


class Person(Profile, kw_only=True, gc=False):
    """A working copy of one person's profile and private state."""

    hours: bytes = bytes(HOURS)
    """Events by hour of the day (UTC), one byte each; all are halved when one is full."""
    weights: tuple[float, ...] = ()
    """Decayed counts beside `top_categories`."""
    bought: bytes = b""
    """Three-byte hashes of the last 64 distinct items bought, the newest first."""
    seen: bytes = b""
    """The last eight events, the newest first: 48 bits of the id's hash and 16 bits of the minute."""
    paces: tuple[float, ...] = (0.0,) * (2 * len(PACED))
    """Decayed counts of the roles in `PACED`, five of half-life `BRIEF` and five of half-life `LASTING`."""
    last_conversion: int = 0
    """Time of the latest conversion, epoch milliseconds; 0 if none."""
    sessions: bytes = b""
    """Six-byte hashes of the last four sessions with a conversion, the newest first: events of two come mixed."""
    fired: dict[int, int] = msgspec.field(default_factory=dict)
    """Rule (CRC-32 of its name) -> time it last fired for this person, epoch milliseconds."""


@lru_cache(1 << 16)
def hash_session(session_id: str | None) -> int:
    """48-bit hash of a session's id; 0 for none.

    >>> hash_session(None), hash_session("a") == hash_session("a")
    (0, True)
    """
    if session_id is None:
        return 0
    return int.from_bytes(hashlib.blake2b(session_id.encode(), digest_size=6).digest(), "little") or 1


@lru_cache(1 << 16)
def hash_item(item_id: str) -> bytes:
    """Three bytes that stand for an item among those bought; two items agree once in 16 million."""
    return zlib.crc32(item_id.encode()).to_bytes(4, "little")[:BOUGHT_WIDTH]


def has_bought(bought: bytes, item_id: str) -> bool:
    """Tell whether the item is among those bought (`Person.bought`).

    >>> has_bought(hash_item("a") + hash_item("b"), "b"), has_bought(hash_item("a"), "b")
    (True, False)
    """
    return _holds(bought, hash_item(item_id))


def _holds(marks: bytes, wanted: bytes) -> bool:
    """Whether `wanted` is among marks of its width."""
    at = marks.find(wanted)
    while at >= 0 and at % len(wanted):
        at = marks.find(wanted, at + 1)
    return at >= 0


def advance(person: Person, event: Event, role: Role, sentiment: float | None, late: bool) -> None:
    """Make `event` part of `person`, in place.

    A late event changes only what commutes (`COMMUTING`). `sentiment` is the score of the event's text, -1 to 1, None
    without text.
    """
    ts = event.ts
    weight = _decay_to(person, ts)
    count = _COUNTS[role]
    setattr(person, count, getattr(person, count) + weight)
    if role in _PLACES:
        _count_paced(person, _PLACES[role], ts)
    if sentiment is not None:
        total = person.sentiment_n + weight
        # Text centuries apart in event time: its weight is nothing, and nothing can't be divided by.
        if total > TINY:
            person.sentiment = (person.sentiment * person.sentiment_n + sentiment * weight) / total
        person.sentiment_n = total
    if role == "conversion":
        _convert(person, event, late)
    person.version += 1
    if late:
        return
    if ts >= person.last_seen:
        person.last_event = event.type
    _count_hour(person, ts // 3_600_000 % HOURS)
    if event.category is not None:
        _count_category(person, event.category, weight)
    if event.item_id is not None:
        _keep_item(person, event.item_id)


def _decay_to(person: Person, ts: int) -> float:
    """Move the moment of all decayed fields to `ts` if that is later; return the weight of an event at `ts`."""
    if person.version == 0:
        person.first_seen = person.last_seen = ts
        return 1.0
    elapsed = ts - person.last_seen
    if elapsed <= 0:
        if ts < person.first_seen:
            person.first_seen = ts
        return math.exp2(elapsed / HALF_LIFE)
    person.last_seen = ts
    decay = math.exp2(-elapsed / HALF_LIFE)
    person.sentiment_n *= decay
    person.events_exposure *= decay
    person.events_click *= decay
    person.events_view *= decay
    person.events_intent *= decay
    person.events_conversion *= decay
    person.events_feedback *= decay
    person.events_other *= decay
    brief, lasting = math.exp2(-elapsed / BRIEF), math.exp2(-elapsed / LASTING)
    # Written out, it takes half the time of a loop.
    a, b, c, d, e, f, g, h, i, j = person.paces
    person.paces = (
        a * brief, b * brief, c * brief, d * brief, e * brief,
        f * lasting, g * lasting, h * lasting, i * lasting, j * lasting,
    )  # fmt: skip
    if person.weights:
        person.weights = tuple([weight * decay for weight in person.weights])
    return 1.0


def _count_paced(person: Person, place: int, ts: int) -> None:
    age = ts - person.last_seen
    paces = list(person.paces)
    paces[place] += math.exp2(age / BRIEF) if age else 1.0
    paces[place + len(PACED)] += math.exp2(age / LASTING) if age else 1.0
    person.paces = tuple(paces)


def _convert(person: Person, event: Event, late: bool) -> None:
    person.revenue += (event.price or 0.0) * (1.0 if event.quantity is None else event.quantity)
    if late:
        return
    _count_order(person, hash_session(event.session_id))
    person.last_conversion = max(person.last_conversion, event.ts)
    if event.item_id is not None and not has_bought(person.bought, event.item_id):
        person.bought = (hash_item(event.item_id) + person.bought)[: BOUGHT_WIDTH * BOUGHT_ITEMS]


def _count_order(person: Person, session: int) -> None:
    mark = session.to_bytes(SESSION_WIDTH, "little") if session else b""
    if mark and _holds(person.sessions, mark):
        return
    person.orders += 1
    person.sessions = (mark + person.sessions)[: SESSION_WIDTH * SESSIONS]


def _count_hour(person: Person, hour: int) -> None:
    hours = bytearray(person.hours)
    if hours[hour] == 255:
        hours = bytearray([count >> 1 for count in hours])
    hours[hour] += 1
    person.hours = bytes(hours)
    if person.best_hour is None or hours[hour] >= hours[person.best_hour]:
        person.best_hour = hour


def _count_category(person: Person, category: str, weight: float) -> None:
    """Add to a category's count and keep the strongest, as many as fit (space saving: Metwally et al. 2005).

    When the list is full a new category takes the place of the weakest and its count, so that a category that
    grows is not shut out; counts are then upper bounds.
    """
    names, counts = person.top_categories, person.weights
    if category in names:
        place = names.index(category)
        weight += counts[place]
        names, counts = names[:place] + names[place + 1 :], counts[:place] + counts[place + 1 :]
    else:
        while names and not _fits((*names, category), CATEGORIES):
            weight += counts[-1]
            names, counts = names[:-1], counts[:-1]
        place = len(names)
    while place and (counts[place - 1] < weight or (counts[place - 1] == weight and names[place - 1] > category)):
        place -= 1
    person.top_categories = (*names[:place], category, *names[place:])
    person.weights = (*counts[:place], weight, *counts[place:])


def _keep_item(person: Person, item_id: str) -> None:
    items = person.last_items
    if items and items[0] == item_id:
        return
    if item_id in items:
        person.last_items = (item_id, *[item for item in items if item != item_id])
        return
    person.last_items = _cut((item_id, *items), ITEMS)


def _fits(texts: tuple[str, ...], most: int) -> bool:
    """At most `most`, and short enough as a JSON list; one always fits."""
    return _cut(texts, most) is texts


def _cut(texts: tuple[str, ...], most: int) -> tuple[str, ...]:
    """The first of `texts`, as many as `_fits` allows."""
    size = 1
    for place, text in enumerate(texts):
        size += _measure(text)
        if place and (size > ITEMS_BYTES or place == most):
            return texts[:place]
    return texts


@lru_cache(1 << 16)
def _measure(text: str) -> int:
    """Bytes that a text takes in a JSON list, its comma included."""
    return len(_json.encode(text)) + 1
