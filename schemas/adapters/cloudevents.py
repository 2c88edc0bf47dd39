"""CloudEvents 1.0 around a native event, in Kafka's binary mode (attributes are headers) and structured mode.

The data is a native event as JSON; what it lacks is filled from the attributes: `event_id` from `id`, `type` from
`type`, `ts` from `time`, `user_id` from `subject`. Data that says the same itself wins. Source: the CloudEvents
specification 1.0.2 and its Kafka protocol binding.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from schemas.reasons import Rejected, describe

VERSION: Final = "1.0"
PREFIX: Final = "ce_"
VERSION_HEADER: Final = "ce_specversion"
CONTENT_TYPE: Final = "content-type"
STRUCTURED: Final = "application/cloudevents+json"

_FILLED: Final = {"id": "event_id", "type": "type", "time": "ts", "subject": "user_id"}
_REQUIRED: Final = ("specversion", "id", "source", "type")


def is_structured(headers: Mapping[str, bytes]) -> bool:
    """Whether the content type says that attributes and data are in the value. Raises `Rejected` for batches."""
    media = _media_type(_text(headers, CONTENT_TYPE))
    if media.startswith("application/cloudevents") and media != STRUCTURED:
        raise Rejected("unsupported", CONTENT_TYPE, f"only {STRUCTURED} is read; send one event a record, as JSON")
    return media == STRUCTURED


def read_attributes(headers: Mapping[str, bytes]) -> dict[str, Any]:
    """A binary-mode record's attributes, `datacontenttype` among them. Raises `Rejected` if a header is not UTF-8."""
    found: dict[str, Any] = {name[len(PREFIX) :]: _text(headers, name) for name in headers if name.startswith(PREFIX)}
    if CONTENT_TYPE in headers:
        found["datacontenttype"] = _text(headers, CONTENT_TYPE)
    return found


def check_attributes(attributes: Mapping[str, Any]) -> None:
    """Raise `Rejected`: `unknown_version`, `missing_field`, or `unsupported` for data that is not JSON."""
    for name in _REQUIRED:
        if not attributes.get(name):
            raise Rejected("missing_field", name, "CloudEvents require this attribute; send it")
    version = attributes["specversion"]
    if version != VERSION:
        raise Rejected("unknown_version", "specversion", f"found {describe(version)}. Expected {VERSION}; send that.")
    media = attributes.get("datacontenttype") or "application/json"
    if not isinstance(media, str) or not _is_json(_media_type(media)):
        raise Rejected("unsupported", "datacontenttype", "the data is read as JSON only; send application/json")


def fill(attributes: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with the fields that it lacks, from the attributes.

    >>> fill({"id": "e1", "type": "purchase", "subject": "u1"}, {"type": "signup", "ts": 0})
    {'event_id': 'e1', 'type': 'signup', 'user_id': 'u1', 'ts': 0}
    """
    filled = {field: attributes[name] for name, field in _FILLED.items() if attributes.get(name) is not None}
    return filled | dict(data)


def read_data(event: Mapping[str, Any]) -> object:
    """A structured event's data: decoded JSON, or bytes yet to be decoded; without data an empty object."""
    if (encoded := event.get("data_base64")) is None:
        data = event.get("data")
        return {} if data is None else data
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, TypeError, ValueError):
        message = f"found {describe(encoded)}. Expected base64 text; encode it, or send JSON as data."
        raise Rejected("wrong_type", "data_base64", message) from None


def _text(headers: Mapping[str, bytes], name: str) -> str:
    try:
        return (headers.get(name) or b"").decode()
    except UnicodeDecodeError:
        raise Rejected("wrong_type", name, "the header is not UTF-8; send UTF-8") from None


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_json(media: str) -> bool:
    return media in ("application/json", "text/json") or media.endswith("+json")
