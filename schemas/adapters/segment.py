"""Segment-spec calls (Segment, RudderStack, Jitsu) as native events; one call gives one event.

`track`, `page`, `screen` and `identify` are read; `group` and `alias` are refused as unsupported: groups have no
meaning here, and joining two people would need both partitions. The person is `userId`, else `anon:` and
`anonymousId`. `context.traits` are left alone: only `identify` tells traits. Source: the Segment specification,
https://segment.com/docs/connections/spec/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from schemas.event import MAX_NAME
from schemas.reasons import Rejected, describe
from schemas.timestamps import read_millis

CALLS: Final = frozenset({"track", "page", "screen", "identify", "group", "alias"})
IDENTITIES: Final = ("userId", "anonymousId", "messageId")

EVENT_TYPES: Final[Mapping[str, str]] = {
    "product_viewed": "product_view",
    "product_list_viewed": "page_view",
    "products_searched": "search",
    "product_added": "add_to_cart",
    "checkout_started": "checkout",
    "order_completed": "purchase",
    "signed_up": "signup",
    "account_created": "signup",
    "product_reviewed": "review",
    "promotion_viewed": "ad_impression",
    "promotion_clicked": "ad_click",
    "email_delivered": "email_sent",
    "email_link_clicked": "email_click",
}
"""Names of Segment's e-commerce, B2B and email specs, in snake_case, and the native type; others keep their name."""

_SOURCES: Final = {"event_id": "messageId", "user_id": "userId", "type": "event", "ts": "timestamp"}
_WORD_END: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NOT_A_WORD: Final = re.compile(r"\W+")


def is_call(payload: Mapping[str, Any]) -> bool:
    """Whether a decoded object looks like a Segment call: a known `type`, and one of the spec's identities."""
    kind = payload.get("type")
    return isinstance(kind, str) and kind in CALLS and any(name in payload for name in IDENTITIES)


def read_call(call: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bool]]:
    """The native fields of a call, and its consent by category name (empty if it says nothing).

    `price` and `quantity` are taken as they stand; where there is no `price`, or the call lists `products`, the amount
    (`revenue`, else `total`, else `value`) is the price of quantity 1. An order's `products` stay in `properties`
    and name no `item_id`. Raises `Rejected`: `unsupported`, `missing_field`, `wrong_type`.
    """
    kind = call["type"]
    if kind in ("group", "alias"):
        raise Rejected(
            "unsupported", "type", f"Segment's {kind} call is not read; send track, page, screen or identify"
        )
    properties = _section(call, "properties")
    context = _section(call, "context")
    fields: dict[str, Any] = {
        "event_id": _text(call.get("messageId")),
        "user_id": _read_user(call),
        "type": _read_type(call),
        "ts": _read_time(call),
        "channel": _first(context, "channel") or _first(call, "channel"),
        "campaign_id": _first(properties, "campaign_id") or _first(_section(context, "campaign", "context."), "name"),
        "category": _first(properties, "category") or _first(call, "category"),
        "currency": _first(properties, "currency"),
        "content": _first(properties, "content", "review_body", "text"),
        "lang": _read_language(context),
        "session_id": _first(context, "sessionId", "session_id") or _first(properties, "session_id", "sessionId"),
        "variant": _first(properties, "variant"),
        "trigger_id": _first(properties, "trigger_id"),
        **_read_goods(properties),
        "traits": _section(call, "traits") or None if kind == "identify" else None,
        "properties": properties or None,
    }
    for name, source in _SOURCES.items():
        if fields[name] is None:
            raise Rejected("missing_field", source, f"it gives {name}, which is required; send it with every call")
    return {name: value for name, value in fields.items() if value is not None}, _read_consent(context)


@lru_cache(maxsize=1024)
def name_type(name: str) -> str:
    """The native type of a track call's event name.

    >>> name_type("Order Completed"), name_type("productAdded"), name_type("Coupon Shown!")
    ('purchase', 'add_to_cart', 'coupon_shown')
    """
    snake = _NOT_A_WORD.sub("_", _WORD_END.sub("_", name)).strip("_").lower()
    return EVENT_TYPES.get(snake, snake) or name


def _read_user(call: Mapping[str, Any]) -> Any:
    if (user := _text(call.get("userId"))) is not None:
        return user
    anonymous = _text(call.get("anonymousId"))
    return None if anonymous is None else f"anon:{anonymous}"


def _read_type(call: Mapping[str, Any]) -> Any:
    if call["type"] == "track":
        event = _text(call.get("event"))
        # Longer names than a type may have are refused later, and have no place in the cache.
        return name_type(event) if isinstance(event, str) and len(event) <= MAX_NAME else event
    return "identify" if call["type"] == "identify" else "page_view"


def _read_time(call: Mapping[str, Any]) -> int | None:
    """`receivedAt - (sentAt - originalTimestamp)`, which sets a wrong device clock right, where all three are there.

    Without `originalTimestamp`, `timestamp` is taken as corrected already, which it is behind Segment's own servers.
    """
    corrected = [call.get(name) for name in ("receivedAt", "sentAt", "originalTimestamp")]
    if None not in corrected:
        received, sent, original = (read_millis(call[n], n) for n in ("receivedAt", "sentAt", "originalTimestamp"))
        return received - (sent - original)
    for name in ("timestamp", "originalTimestamp", "receivedAt", "sentAt"):
        if call.get(name) is not None:
            return read_millis(call[name], name)
    return None


def _read_goods(properties: Mapping[str, Any]) -> dict[str, Any]:
    amount = next(
        (properties[name] for name in ("revenue", "total", "value") if properties.get(name) is not None), None
    )
    listed = isinstance(properties.get("products"), list)
    price = properties.get("price")
    goods: dict[str, Any] = {} if listed else {"item_id": _first(properties, "product_id", "sku")}
    if amount is not None and (listed or price is None):
        return goods | {"price": _number(amount), "quantity": 1.0}
    return goods | {"price": _number(price), "quantity": _number(properties.get("quantity"))}


def _read_language(context: Mapping[str, Any]) -> str | None:
    locale = _first(context, "locale")
    return locale if locale is not None and 2 <= len(locale) <= 35 else None


def _read_consent(context: Mapping[str, Any]) -> dict[str, bool]:
    preferences = _section(_section(context, "consent", "context."), "categoryPreferences", "context.consent.")
    for given in preferences.values():
        if not isinstance(given, bool):
            raise Rejected(
                "wrong_type",
                "context.consent.categoryPreferences",
                f"found {describe(given)} for a category. Expected true or false; send one of them.",
            )
    return preferences


def _section(payload: Mapping[str, Any], name: str, under: str = "") -> dict[str, Any]:
    value = payload.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Rejected(
            "wrong_type", under + name, f"found {describe(value)}. Expected an object; send one or leave it out."
        )
    return value


def _first(payload: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        if (value := _text(payload.get(name))) is not None:
            return value
    return None


def _text(value: Any) -> Any:
    """Ids are often sent as integers, and what is not known as an empty text; other types are refused later."""
    if type(value) is int:
        return str(value)
    return None if value == "" else value


def _number(value: Any) -> Any:
    """Prices are often sent as text; what is no number stays as it is and is refused later."""
    if type(value) is not str:
        return value
    if not value.strip():
        return None
    try:
        return float(value)
    except ValueError:
        return value
