"""Segment-spec calls as native events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schemas.adapters.segment import EVENT_TYPES, name_type
from schemas.event import Event
from schemas.reasons import Rejected
from schemas.wire import Incoming, decode_record
from tests.unit.factories import NOON


def call(**fields: Any) -> dict[str, Any]:
    base = {"type": "track", "event": "Product Added", "messageId": "m1", "userId": "u1"}
    return base | {"timestamp": "2024-05-01T12:00:00.000Z"} | fields


def decode(payload: dict[str, Any], **options: Any) -> Event:
    decoded = decode_record(json.dumps(payload).encode(), **options)
    assert isinstance(decoded, Event)
    return decoded


def refuse(payload: dict[str, Any]) -> Rejected:
    with pytest.raises(Rejected) as caught:
        decode_record(json.dumps(payload).encode())
    return caught.value


def test_a_track_call_is_read_field_by_field() -> None:
    properties = {"product_id": 4711, "category": "lights", "price": "2.50", "quantity": 3, "currency": "EUR"}
    context = {
        "locale": "de-DE",
        "sessionId": 1_714_560_000,
        "campaign": {"name": "spring"},
        "traits": {"email": "alice@example.org"},
    }
    assert decode(call(properties=properties, context=context, channel="browser")) == Event(
        event_id="m1",
        user_id="u1",
        type="add_to_cart",
        ts=NOON,
        item_id="4711",
        category="lights",
        price=2.5,
        quantity=3.0,
        currency="EUR",
        lang="de-DE",
        session_id="1714560000",
        campaign_id="spring",
        channel="browser",
        properties=properties,
    )


def test_an_order_is_one_event_and_its_revenue_the_price() -> None:
    products = [{"product_id": "a", "price": 5, "quantity": 2}, {"product_id": "b", "price": 9}]
    order = {"order_id": "o1", "revenue": 19, "total": 25.5, "quantity": 3, "product_id": "a", "products": products}
    decoded = decode(call(event="Order Completed", properties=order))
    assert (decoded.type, decoded.price, decoded.quantity, decoded.item_id) == ("purchase", 19.0, 1.0, None)
    assert decoded.properties is not None
    assert decoded.properties["products"] == products


@pytest.mark.parametrize("name", ["revenue", "total", "value"])
def test_an_amount_without_a_price_counts_once(name: str) -> None:
    decoded = decode(call(properties={name: 12.5, "quantity": 4}))
    assert (decoded.price, decoded.quantity) == (12.5, 1.0)


@pytest.mark.parametrize(("name", "native"), EVENT_TYPES.items())
def test_common_names_have_native_types_however_they_are_written(name: str, native: str) -> None:
    spaced = name.replace("_", " ").title()
    assert name_type(name) == name_type(spaced) == name_type(spaced.replace(" ", "")) == native


def test_other_names_become_snake_case() -> None:
    assert decode(call(event="Wishlist Item  Shared!")).type == "wishlist_item_shared"
    assert decode(call(event="???")).type == "???"
    assert refuse(call(event="x" * 200)).reason == "over_long"


@pytest.mark.parametrize("kind", ["page", "screen"])
def test_pages_and_screens_are_page_views(kind: str) -> None:
    decoded = decode(call(type=kind, name="Home", category="shop", properties={"path": "/"}))
    assert (decoded.type, decoded.category, decoded.properties) == ("page_view", "shop", {"path": "/"})


def test_identify_brings_traits_and_nothing_else_does() -> None:
    traits = {"email": "alice@example.org", "age": 40}
    identified = decode(call(type="identify", traits=traits))
    assert (identified.type, identified.traits) == ("identify", traits)
    assert decode(call(traits=traits, context={"traits": traits})).traits is None


@pytest.mark.parametrize("kind", ["group", "alias"])
def test_group_and_alias_are_unsupported(kind: str) -> None:
    assert refuse(call(type=kind)).reason == "unsupported"


def test_without_a_user_id_the_anonymous_id_stands_in() -> None:
    assert decode(call(userId=None, anonymousId="a1")).user_id == "anon:a1"
    assert decode(call(userId="", anonymousId="a1")).user_id == "anon:a1"
    assert decode(call(anonymousId="a1")).user_id == "u1"


@pytest.mark.parametrize(
    ("field", "named"),
    [("userId", "userId"), ("messageId", "messageId"), ("event", "event"), ("timestamp", "timestamp")],
)
def test_what_is_missing_is_named_as_the_producer_knows_it(field: str, named: str) -> None:
    incomplete = call()
    del incomplete[field]
    rejected = refuse(incomplete)
    assert (rejected.reason, rejected.field) == ("missing_field", named)


def test_a_wrong_device_clock_is_set_right() -> None:
    # The device is a day behind: it made the event two seconds before it sent it.
    times = {
        "originalTimestamp": "2024-04-30T11:59:58Z",
        "sentAt": "2024-04-30T12:00:00Z",
        "receivedAt": "2024-05-01T12:00:02+00:00",
    }
    assert decode(call(**times)).ts == NOON
    del (raw := call(**times))["timestamp"]
    assert decode(raw).ts == NOON


def test_a_timestamp_that_was_corrected_is_not_corrected_again() -> None:
    # The example of Segment's own specification, which has no originalTimestamp.
    times = {"receivedAt": "2024-05-01T12:00:00.004Z", "sentAt": "2024-05-01T11:59:59.676Z"}
    assert decode(call(**times)).ts == NOON


@pytest.mark.parametrize("name", ["originalTimestamp", "receivedAt", "sentAt"])
def test_a_call_without_timestamp_takes_the_next_best(name: str) -> None:
    late = call(**{name: "2024-05-01T12:00:00Z"})
    del late["timestamp"]
    assert decode(late).ts == NOON


def test_consent_travels_beside_its_event() -> None:
    consent = {"consent": {"categoryPreferences": {"marketing": True, "analytics": False, "Functional": True}}}
    decoded = decode_record(json.dumps(call(context=consent)).encode())
    assert isinstance(decoded, Incoming)
    assert decoded.consent == {"marketing": True, "analytics": False}
    assert decoded.unknown == 1
    assert decoded.event == decode(call())


def test_a_purpose_of_several_categories_needs_them_all() -> None:
    names = {"Advertising": "marketing", "Email": "marketing", "Statistics": "analytics"}
    consent = {"consent": {"categoryPreferences": {"Advertising": True, "Email": False, "Statistics": True}}}
    decoded = decode_record(json.dumps(call(context=consent)).encode(), categories=names)
    assert isinstance(decoded, Incoming)
    assert decoded.consent == {"marketing": False, "analytics": True}


def test_consent_that_cannot_be_read_refuses_the_event() -> None:
    for preferences in ({"marketing": "yes"}, ["marketing"]):
        rejected = refuse(call(context={"consent": {"categoryPreferences": preferences}}))
        assert (rejected.reason, rejected.field) == ("wrong_type", "context.consent.categoryPreferences")


def test_sections_of_another_type_are_refused_by_name() -> None:
    for name in ("properties", "context"):
        assert refuse(call(**{name: "text"})).field == name
    assert refuse(call(context={"campaign": "spring"})).field == "context.campaign"
    assert refuse(call(properties={"price": "cheap"})).field == "price"


def test_a_native_event_may_be_of_a_type_that_segment_uses() -> None:
    native = {"event_id": "e1", "user_id": "u1", "type": "page", "ts": "2024-05-01T12:00:00Z", "userId": "u2"}
    assert decode(native).user_id == "u1"


@pytest.mark.parametrize("name", ["content", "review_body", "text"])
def test_the_text_of_a_review_is_found(name: str) -> None:
    decoded = decode(call(event="Product Reviewed", properties={name: "lovely"}))
    assert (decoded.type, decoded.content) == ("review", "lovely")
