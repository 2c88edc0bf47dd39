"""Records in, contracts out: one Kafka value and its headers become an `Event`, a `PrivacyRequest` or a `Rejected`.

The format is found per record: native events first, in one pass of msgspec without a dict in between, then
CloudEvents 1.0 and Segment calls. Whatever the bytes are, nothing but `Rejected` is raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas.adapters import cloudevents, segment
from schemas.event import SCHEMA_VERSION, Event
from schemas.privacy import KIND_HEADER, PURPOSES, PrivacyRequest
from schemas.reasons import Rejected, describe
from schemas.timestamps import check_future
from schemas.validation import MAX_BYTES, check_contract, check_value, convert, decode_object

__all__ = [
    "CATEGORIES",
    "Decoded",
    "Incoming",
    "KnownEvent",
    "check_future",
    "count_unknown",
    "decode_record",
    "decode_request",
]

CATEGORIES: Final[Mapping[str, str]] = {purpose: purpose for purpose in PURPOSES}
"""Consent categories of Segment calls that are read when the caller names none: the purposes themselves."""


class Incoming(msgspec.Struct, frozen=True):
    """An event that brings consent along, by purpose. Both are of the same person and moment.

    `unknown` counts the categories that stand for no purpose.
    """

    event: Event
    consent: dict[str, bool]
    unknown: int = 0


Decoded = Event | PrivacyRequest | Incoming


class KnownEvent(Event, frozen=True, forbid_unknown_fields=True, gc=False):
    """A native event without a field that `Event` does not have: nearly all are."""


_decode_known = msgspec.json.Decoder(KnownEvent).decode
_decode_event = msgspec.json.Decoder(Event).decode
_decode_request = msgspec.json.Decoder(PrivacyRequest).decode
_decode_keys = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_KNOWN: Final = frozenset(Event.__struct_fields__)


def decode_record(
    value: bytes | None,
    headers: Sequence[tuple[str, bytes]] = (),
    *,
    max_bytes: int = MAX_BYTES,
    categories: Mapping[str, str] = CATEGORIES,
) -> Decoded:
    """What a record of the events topic holds.

    The header `nudge-kind: privacy` tells a privacy request, `ce_specversion` a CloudEvent in binary mode. A Segment
    call with consent gives an `Incoming`, its categories turned into purposes by `categories`; where several stand for
    one purpose, all must be granted. Raises `Rejected` and nothing else.
    """
    if headers:
        return _decode_with_headers(value, dict(headers), max_bytes, categories)
    return _decode_plain(check_value(value, max_bytes), categories)


def decode_request(value: bytes | None, *, max_bytes: int = MAX_BYTES) -> PrivacyRequest:
    """A privacy request, as a record of the privacy topic holds it. Raises `Rejected` and nothing else."""
    text = check_value(value, max_bytes)
    try:
        return check_contract(_decode_request(text))
    except (ValueError, RecursionError):
        return convert(decode_object(text), PrivacyRequest)


def count_unknown(value: bytes) -> int:
    """Number of top-level fields of a native event that no field of `Event` takes up; 0 for anything that is none.

    A second pass over the value: a `KnownEvent` needs none.
    """
    try:
        keys = _decode_keys(value)
    except (ValueError, RecursionError):
        return 0
    return len(keys.keys() - _KNOWN) if "event_id" in keys else 0


def _decode_plain(value: bytes, categories: Mapping[str, str]) -> Decoded:
    try:
        event: Event = _decode_known(value)
    except (ValueError, RecursionError):
        try:
            event = _decode_event(value)
        except (ValueError, RecursionError):
            return _decode_foreign(decode_object(value), categories)
    if event.version != SCHEMA_VERSION or event.properties is not None or event.traits is not None:
        return check_contract(event)
    return event


def _decode_foreign(payload: dict[str, Any], categories: Mapping[str, str]) -> Decoded:
    if "event_id" not in payload:
        if "specversion" in payload:
            return _decode_structured(payload)
        if segment.is_call(payload):
            return _decode_call(payload, categories)
    return convert(payload, Event)


def _decode_call(call: dict[str, Any], categories: Mapping[str, str]) -> Event | Incoming:
    fields, preferences = segment.read_call(call)
    event = convert(fields, Event)
    consent: dict[str, bool] = {}
    for category, given in preferences.items():
        if (purpose := categories.get(category)) is not None:
            consent[purpose] = given and consent.get(purpose, True)
    unknown = sum(category not in categories for category in preferences)
    return Incoming(event, consent, unknown) if preferences else event


def _decode_with_headers(
    value: bytes | None, headers: Mapping[str, bytes], max_bytes: int, categories: Mapping[str, str]
) -> Decoded:
    kind = headers.get(KIND_HEADER)
    if kind == b"privacy":
        return decode_request(value, max_bytes=max_bytes)
    if kind is not None and kind != b"event":
        raise Rejected(
            "unsupported", KIND_HEADER, "the header says neither privacy nor event; send one, or leave it out"
        )
    if cloudevents.VERSION_HEADER in headers:
        attributes = cloudevents.read_attributes(headers)
        cloudevents.check_attributes(attributes)
        data = decode_object(check_value(value, max_bytes)) if value else {}
        return convert(cloudevents.fill(attributes, data), Event)
    text = check_value(value, max_bytes)
    if cloudevents.is_structured(headers):
        return _decode_structured(decode_object(text))
    return _decode_plain(text, categories)


def _decode_structured(payload: dict[str, Any]) -> Event:
    cloudevents.check_attributes(payload)
    data = cloudevents.read_data(payload)
    if isinstance(data, bytes):
        data = decode_object(data)
    elif not isinstance(data, dict):
        raise Rejected(
            "wrong_type", "data", f"found {describe(data)}. Expected an object; send a native event as data."
        )
    return convert(cloudevents.fill(payload, data), Event)
