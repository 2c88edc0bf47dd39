"""The events that every job of the throughput benchmark works on: seeded, without texts, of many people.

Who acts follows a Zipf-Mandelbrot law (B. Mandelbrot, 1953: weight 1 / (rank + shift)), so that a few are busy and most
come once or twice; items likewise. Event times run forward over two hours that end at `until`: long enough for
abandoned intents to fall due, short enough for one visit to hold several events.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from schemas.event import Event
from stream.produce import Record

PEOPLE: Final = 50_000
ITEMS: Final = 5_000
CATEGORIES: Final = 40
CAMPAIGNS: Final = 12
SPAN: Final = 2 * 3_600_000
"""Milliseconds of event time from the first event to the last."""
VISIT: Final = 20 * 60_000
"""Milliseconds: a person's events within the same such slot are one session."""
MIX: Final = {"product_view": 0.60, "ad_impression": 0.12, "ad_click": 0.08, "add_to_cart": 0.10, "purchase": 0.10}
ABOUT_ITEMS: Final = frozenset({"product_view", "add_to_cart", "purchase"})
SHIFT: Final = 200.0
"""The busiest of 50,000 people then makes about 0.1 % of the events."""


def build_log(events: int, until: int, people: int = PEOPLE, seed: int = 1, span: int = SPAN) -> list[Record]:
    """Records of `events` events in the order of their times, the last just before `until` (epoch milliseconds).

    The first is `span` milliseconds before. The same arguments give the same bytes. Keys are user ids; values are
    about 250 bytes.
    """
    random = np.random.default_rng(seed)
    types = list(MIX)
    kinds = random.choice(len(types), events, p=list(MIX.values())).tolist()
    persons = _draw_ranks(random, people, events)
    items = _draw_ranks(random, ITEMS, events)
    prices = np.round(np.exp(random.normal(3.0, 1.0, ITEMS)), 2).tolist()
    times = (until - span + np.arange(events, dtype=np.int64) * span // max(events, 1)).tolist()
    encode = msgspec.json.Encoder().encode
    log = []
    for number in range(events):
        event = _make_event(seed, number, types[kinds[number]], persons[number], items[number], prices, times[number])
        log.append(Record(event.user_id.encode(), encode(event)))
    return log


def _draw_ranks(random: np.random.Generator, among: int, count: int) -> list[int]:
    """`count` ranks from 0 to `among` - 1, the low ones more often."""
    weights = np.cumsum(1.0 / (np.arange(among) + SHIFT))
    ranks: list[int] = np.searchsorted(weights, random.random(count) * weights[-1]).tolist()
    return [min(rank, among - 1) for rank in ranks]


def _make_event(seed: int, number: int, kind: str, person: int, item: int, prices: list[float], ts: int) -> Event:
    about_item = kind in ABOUT_ITEMS
    return Event(
        event_id=f"{seed:04x}-{kind}-{number:012d}",
        user_id=f"customer-{person:08d}",
        type=kind,
        ts=ts,
        channel="web" if about_item else "email",
        campaign_id=None if about_item else f"spring-campaign-{(person + number // 5_000) % CAMPAIGNS:03d}",
        item_id=f"item-{item:06d}" if about_item else None,
        category=f"category-{item % CATEGORIES:03d}" if about_item else None,
        price=prices[item] if about_item else None,
        quantity=1.0 + number % 3 if kind == "purchase" else None,
        currency="EUR" if about_item else None,
        session_id=f"visit-{person:08d}-{ts // VISIT}",
    )
