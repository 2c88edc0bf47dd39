"""The topics as an AsyncAPI 3.0 document: which records lie on them, under which key, with which headers.

Topic names are the defaults of settings. What is said here about formats is what `schemas.wire` reads; payloads come
from the Structs' schemas, which the caller passes in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from schemas import reasons
from schemas.adapters import cloudevents, segment
from schemas.event import SCHEMA_VERSION
from schemas.privacy import KIND_HEADER, LEDGER_HEADER

KAFKA_BINDING: Final = "0.5.0"


class Channel(NamedTuple):
    """One topic. `action` is what nudge does with it; `settings` are the topic's, as far as promises rest on them."""

    topic: str
    action: Literal["receive", "send"]
    key: str | None
    summary: str
    messages: tuple[str, ...]
    settings: Mapping[str, Any]


_DELETE: Final = {"cleanup.policy": ["delete"]}
_FOREVER: Final = {"cleanup.policy": ["delete"], "retention.ms": -1}

CHANNELS: Final[Mapping[str, Channel]] = {
    "events": Channel(
        "marketing.events.v1",
        "receive",
        "user_id",
        "What people did, and the privacy requests passed on to their place among it.",
        ("event", "cloudEvent", "cloudEventBinary", "segmentCall", "privacyRequest"),
        _DELETE | {"message.timestamp.type": "LogAppendTime"},
    ),
    "privacy": Channel(
        "marketing.privacy.v1",
        "receive",
        None,
        "Consent and erasure requests under any key, kept for ever: the ledger.",
        ("privacyRequest",),
        _FOREVER,
    ),
    "items": Channel(
        "marketing.items.v1",
        "receive",
        "item_id",
        "The item catalogue, optional: the newest record of an item is the one that holds.",
        ("item",),
        {"cleanup.policy": ["compact"]},
    ),
    "recommendations": Channel(
        "marketing.recommendations.v1",
        "send",
        "user_id",
        "Recommendation triggers, at least once each: deduplicate by trigger_id.",
        ("recommendationTrigger",),
        _DELETE,
    ),
    "scored": Channel(
        "marketing.scored.v1",
        "send",
        "user_id",
        "Every event's scores, off by default; at least once each: deduplicate by user_id and event_id.",
        ("scoredEvent",),
        _DELETE,
    ),
    "examples": Channel(
        "marketing.examples.v1",
        "send",
        "outcome",
        "Examples for the learners, internal; kept at least the longest window and seven days.",
        ("example", "interaction"),
        _DELETE,
    ),
    "deadLetters": Channel(
        "marketing.events.v1.dlq",
        "send",
        "user_id",
        "Records that could not be used, with their bytes as they came; the key is that of the record, if it had one.",
        ("deadLetter",),
        _DELETE,
    ),
    "receipts": Channel(
        "marketing.privacy.receipts.v1",
        "send",
        "request_id",
        "What was erased, and when. Its message is not settled yet.",
        (),
        _DELETE,
    ),
}


def build_asyncapi(components: Mapping[str, Any]) -> dict[str, Any]:
    """The document. `components` are the Structs' schemas by name, referring to `#/components/schemas/`."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "nudge",
            "version": f"{SCHEMA_VERSION}.0.0",
            "description": "Marketing events in, recommendation triggers out. Topic names are defaults of settings.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {name: _build_channel(channel) for name, channel in CHANNELS.items()},
        "operations": {
            f"{channel.action}{name[0].upper()}{name[1:]}": _build_operation(name, channel)
            for name, channel in CHANNELS.items()
            if channel.messages
        },
        "components": {"messages": _build_messages(), "schemas": dict(components) | _FOREIGN},
    }


def _build_channel(channel: Channel) -> dict[str, Any]:
    binding = {"topic": channel.topic, "topicConfiguration": dict(channel.settings), "bindingVersion": KAFKA_BINDING}
    return {
        "address": channel.topic,
        "description": channel.summary + (f" Key: {channel.key}." if channel.key else ""),
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.messages},
        "bindings": {"kafka": binding},
    }


def _build_operation(name: str, channel: Channel) -> dict[str, Any]:
    return {
        "action": channel.action,
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": channel.summary,
        "messages": [{"$ref": f"#/channels/{name}/messages/{message}"} for message in channel.messages],
    }


def _build_messages() -> dict[str, Any]:
    return {
        "event": _message("Event", "A native event.", "user_id"),
        "cloudEvent": _message(
            "CloudEvent",
            "A native event as data of a CloudEvent 1.0, structured mode.",
            "user_id",
            contentType=cloudevents.STRUCTURED,
        ),
        "cloudEventBinary": _message(
            "CloudEventData",
            "A native event in CloudEvents 1.0 binary mode; what the value lacks is filled from the headers.",
            "user_id",
            headers=_headers(_CE_HEADERS, required=("ce_specversion", "ce_id", "ce_source", "ce_type")),
        ),
        "segmentCall": _message("SegmentCall", "A call of the Segment specification, one event.", "user_id"),
        "privacyRequest": _message(
            "PrivacyRequest",
            "Consent or erasure; in the events topic the header tells it from an event.",
            "user_id",
            headers=_headers(
                {
                    KIND_HEADER: {"const": "privacy"},
                    LEDGER_HEADER: {
                        "type": "string",
                        "description": "<partition>/<offset> or <partition>/<generation>/<offset> in the ledger",
                    },
                }
            ),
        ),
        "item": _message("Item", "An item of the catalogue.", "item_id"),
        "recommendationTrigger": _message("RecommendationTrigger", "A decision about one person.", "user_id"),
        "scoredEvent": _message("ScoredEvent", "What was said of one event.", "user_id"),
        "example": _message("Example", "A labelled example.", "outcome"),
        "interaction": _message("Interaction", "An item touched after others; its key is `recommend`.", "recommend"),
        "deadLetter": _build_dead_letter(),
    }


def _message(schema: str, summary: str, key: str, **more: Any) -> dict[str, Any]:
    return {
        "summary": summary,
        "payload": {"$ref": f"#/components/schemas/{schema}"},
        "bindings": {"kafka": {"key": {"type": "string", "description": key}, "bindingVersion": KAFKA_BINDING}},
        **more,
    }


def _build_dead_letter() -> dict[str, Any]:
    meaning = "; ".join(f"{reason}: {text}" for reason, text in reasons.MEANINGS.items())
    headers: dict[str, Any] = {
        reasons.REASON_HEADER: {"enum": list(reasons.REASONS), "description": meaning},
        reasons.ERROR_HEADER: {"type": "string", "description": "what was found and what to do; never a value"},
        reasons.SOURCE_HEADER: {"type": "string", "description": "where it was read: <topic>/<partition>/<offset>"},
        reasons.TIME_HEADER: {"type": "string", "description": "its Kafka timestamp, epoch milliseconds in decimal"},
    }
    field = {"type": "string", "description": "path of the field at fault; absent where it is the whole value"}
    generation = {"type": "string", "description": "how often that log was made anew before; absent for never"}
    others = {reasons.FIELD_HEADER: field, reasons.GENERATION_HEADER: generation}
    return {
        "summary": "A record that could not be used: its own bytes, why, and its own headers under original-.",
        "contentType": "application/octet-stream",
        "headers": _headers(headers | others, required=headers),
        "bindings": {
            "kafka": {"key": {"description": "the record's own key"}, "bindingVersion": KAFKA_BINDING},
        },
    }


def _headers(properties: Mapping[str, Any], required: Iterable[str] = ()) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    return schema | {"required": list(required)} if required else schema


_TEXT: Final = {"type": "string", "minLength": 1}
_CE_HEADERS: Final[Mapping[str, Any]] = {
    "ce_specversion": {"const": cloudevents.VERSION},
    "ce_id": _TEXT | {"description": "event_id, where the value has none"},
    "ce_source": _TEXT,
    "ce_type": _TEXT | {"description": "type, where the value has none"},
    "ce_time": _TEXT | {"description": "ts, where the value has none; ISO 8601"},
    "ce_subject": _TEXT | {"description": "user_id, where the value has none"},
    "content-type": {"type": "string", "description": "application/json, or absent"},
}

_FOREIGN: Final[dict[str, Any]] = {
    "CloudEventData": {
        "type": "object",
        "description": "Fields of Event; those that the attributes give may be absent.",
    },
    "CloudEvent": {
        "type": "object",
        "properties": {
            "specversion": {"const": cloudevents.VERSION},
            "id": _TEXT,
            "source": _TEXT,
            "type": _TEXT,
            "time": _TEXT,
            "subject": _TEXT,
            "datacontenttype": {"type": "string"},
            "data": {"$ref": "#/components/schemas/CloudEventData"},
            "data_base64": {"type": "string"},
        },
        "required": ["specversion", "id", "source", "type"],
    },
    "SegmentCall": {
        "type": "object",
        "properties": {
            "type": {"enum": sorted(segment.CALLS - {"group", "alias"})},
            "messageId": _TEXT,
            "userId": {"type": ["string", "integer", "null"]},
            "anonymousId": {"type": ["string", "integer", "null"]},
            "event": {"type": "string", "description": "required in track calls"},
            "properties": {"type": ["object", "null"]},
            "context": {"type": ["object", "null"]},
            "traits": {"type": ["object", "null"]},
        },
        "required": ["type", "messageId"],
        "anyOf": [{"required": ["userId"]}, {"required": ["anonymousId"]}],
    },
}
