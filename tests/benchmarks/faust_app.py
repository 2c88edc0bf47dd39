"""The same job as an idiomatic Faust app, event by event, as the documentation of faust-streaming writes one.

It does, for each event: decode JSON into a `faust.Record`; look the person up in memory (first time: HGETALL); update a
handful of counts; score the conversion with River's `StandardScaler | LogisticRegression` on eight
features; teach the model at exposures (0) and conversions (1); write the profile with one HSET; send one event in ten
to a topic, without waiting for the acknowledgement. It gets what helps it and keeps the order per person: uvloop,
orjson, Faust's Cython streams, one actor a partition (`isolated_partitions`), so that waits for Redis overlap.

It does not, and nudge does: count each event once after a crash (here a restart repeats events and loses what the
model learned), remember duplicates, keep consent, validate an event and write dead letters, keep windows with delayed
labels, sign and share snapshots, recommend items, watch for abandoned intents, apply cooldowns, explain a trigger.
"""

from __future__ import annotations

import os
import time
from typing import Any

import faust
from redis.asyncio import Redis
from river import linear_model, preprocessing

BOOTSTRAP = os.environ.get("NUDGE_KAFKA_BOOTSTRAP", "localhost:9092")
REDIS = os.environ.get("NUDGE_REDIS_URL", "redis://localhost")
EVENTS = os.environ.get("NUDGE_TOPICS_EVENTS", "marketing.events.v1")
TRIGGERS = os.environ.get("NUDGE_TOPICS_RECOMMENDATIONS", "marketing.recommendations.v1")
ROLES = {
    "ad_impression": "exposure",
    "ad_click": "click",
    "product_view": "view",
    "add_to_cart": "intent",
    "purchase": "conversion",
}
PROGRESS = "faust:events"
"""Redis key: events done with, and the monotonic second at which that was so; told ten times a second."""

app = faust.App(
    os.environ.get("NUDGE_APP", "faust"),
    broker=f"kafka://{BOOTSTRAP}",
    store="memory://",
    consumer_auto_offset_reset="earliest",
    broker_session_timeout=6.0,
    broker_heartbeat_interval=0.8,
    topic_partitions=int(os.environ.get("NUDGE_TOPICS_PARTITIONS", "4")),
    topic_disable_leader=True,
    topic_allow_declare=False,
    web_enabled=False,
)


class Event(faust.Record, serializer="json"):
    event_id: str
    user_id: str
    type: str
    ts: int
    channel: str | None = None
    campaign_id: str | None = None
    item_id: str | None = None
    category: str | None = None
    price: float | None = None
    quantity: float | None = None
    currency: str | None = None
    session_id: str | None = None


class Trigger(faust.Record, serializer="json"):
    user_id: str
    event_id: str
    probability: float


events_topic = app.topic(EVENTS, key_type=str, value_type=Event)
triggers_topic = app.topic(TRIGGERS, key_type=str, value_type=Trigger)

redis = Redis.from_url(REDIS)
model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
people: dict[str, dict[str, Any]] = {}
taught: dict[str, dict[str, float]] = {}
done = 0


async def load_profile(user: str) -> dict[str, Any]:
    profile = people.get(user)
    if profile is None:
        found = await redis.hgetall(f"faust:profile:{user}")
        profile = people[user] = {
            "first_seen": int(found.get(b"first_seen", 0)),
            "last_seen": int(found.get(b"last_seen", 0)),
            "last_event": found.get(b"last_event", b"").decode(),
            "orders": int(found.get(b"orders", 0)),
            "revenue": float(found.get(b"revenue", 0.0)),
            "conversion_probability": float(found.get(b"conversion_probability", 0.0)),
            "version": int(found.get(b"version", 0)),
            **{f"events_{role}": float(found.get(f"events_{role}".encode(), 0.0)) for role in ROLES.values()},
        }
    return profile


def update_profile(profile: dict[str, Any], event: Event, role: str) -> None:
    profile["first_seen"] = profile["first_seen"] or event.ts
    profile["last_seen"] = event.ts
    profile["last_event"] = event.type
    profile["version"] += 1
    profile[f"events_{role}"] += 1.0
    if role == "conversion":
        profile["orders"] += 1
        profile["revenue"] += (event.price or 0.0) * (event.quantity or 1.0)


def get_features(profile: dict[str, Any], event: Event) -> dict[str, float]:
    row = {f"events_{role}": profile[f"events_{role}"] for role in ROLES.values()}
    row["orders"] = profile["orders"]
    row["revenue"] = profile["revenue"]
    row["price"] = event.price or 0.0
    return row


@app.agent(events_topic, isolated_partitions=True)
async def score(events: faust.StreamT[Event]) -> None:
    global done
    async for event in events:
        role = ROLES[event.type]
        profile = await load_profile(event.user_id)
        update_profile(profile, event, role)
        row = get_features(profile, event)
        probability = model.predict_proba_one(row).get(True, 0.0)
        profile["conversion_probability"] = probability
        if role == "exposure":
            model.learn_one(row, False)
            taught[event.user_id] = row
        elif role == "conversion" and event.user_id in taught:
            model.learn_one(taught.pop(event.user_id), True)
        await redis.hset(f"faust:profile:{event.user_id}", mapping=profile)
        done += 1
        if done % 10 == 0:
            trigger = Trigger(user_id=event.user_id, event_id=event.event_id, probability=probability)
            await triggers_topic.send(key=event.user_id, value=trigger)


@app.timer(interval=0.1)
async def tell_progress() -> None:
    await redis.set(PROGRESS, f"{done} {time.monotonic()}")
