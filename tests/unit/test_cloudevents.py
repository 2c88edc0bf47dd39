"""CloudEvents 1.0 in Kafka's binary and structured mode."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from schemas.event import Event
from schemas.reasons import Rejected
from schemas.wire import decode_record
from tests.unit.factories import NOON, event

ATTRIBUTES = {"specversion": "1.0", "id": "e1", "source": "/shop", "type": "purchase", "subject": "u1"}
TIMED = ATTRIBUTES | {"time": "2024-05-01T12:00:00Z"}
EXPECTED = Event(event_id="e1", user_id="u1", type="purchase", ts=NOON, price=9.5)


def headers_of(attributes: dict[str, str], content_type: str = "application/json") -> list[tuple[str, bytes]]:
    headers = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    return [*headers, ("content-type", content_type.encode())]


def structured(**fields: Any) -> bytes:
    return json.dumps(TIMED | fields).encode()


def refuse(value: bytes | None, headers: list[tuple[str, bytes]] | None = None) -> Rejected:
    with pytest.raises(Rejected) as caught:
        decode_record(value, headers or [])
    return caught.value


def test_binary_mode_fills_what_the_data_lacks() -> None:
    assert decode_record(b'{"price": 9.5}', headers_of(TIMED)) == EXPECTED


def test_binary_mode_needs_no_data() -> None:
    assert decode_record(None, headers_of(TIMED)) == Event(event_id="e1", user_id="u1", type="purchase", ts=NOON)


def test_the_data_knows_better_than_its_envelope() -> None:
    draft = event("u2").of_type("signup").known_as("e2").at(NOON + 5)
    assert decode_record(draft.as_json(), headers_of(TIMED)) == draft.build()
    assert decode_record(structured(data=draft.as_dict())) == draft.build()


@pytest.mark.parametrize("headers", [[], [("content-type", b"application/cloudevents+json; charset=UTF-8")]])
def test_structured_mode_is_found_by_header_or_by_key(headers: list[tuple[str, bytes]]) -> None:
    assert decode_record(structured(data={"price": 9.5}), headers) == EXPECTED


def test_structured_data_may_be_base64() -> None:
    encoded = base64.b64encode(b'{"price": 9.5}').decode()
    assert decode_record(structured(data_base64=encoded)) == EXPECTED
    assert refuse(structured(data_base64="%%")).field == "data_base64"
    assert refuse(structured(data_base64=base64.b64encode(b"\xff").decode())).reason == "not_json"


@pytest.mark.parametrize("version", ["0.3", "2.0", "1"])
def test_another_specversion_is_unknown(version: str) -> None:
    assert refuse(b"{}", headers_of(TIMED | {"specversion": version})).reason == "unknown_version"
    assert refuse(structured(specversion=version)).reason == "unknown_version"


@pytest.mark.parametrize("name", ["id", "source", "type"])
def test_required_attributes_are_required(name: str) -> None:
    rest = {key: value for key, value in TIMED.items() if key != name}
    for rejected in (refuse(b"{}", headers_of(rest)), refuse(json.dumps(rest).encode())):
        assert (rejected.reason, rejected.field) == ("missing_field", name)


def test_without_subject_or_time_the_data_must_say_them() -> None:
    rejected = refuse(b'{"price": 9.5, "user_id": "u1"}', headers_of(ATTRIBUTES))
    assert (rejected.reason, rejected.field) == ("missing_field", "ts")


@pytest.mark.parametrize("media", ["application/avro", "text/plain", "application/octet-stream"])
def test_data_that_is_not_json_is_unsupported(media: str) -> None:
    assert refuse(b"{}", headers_of(TIMED, media)).reason == "unsupported"
    assert refuse(structured(datacontenttype=media, data={})).reason == "unsupported"


def test_batches_are_unsupported() -> None:
    assert refuse(b"[]", [("content-type", b"application/cloudevents-batch+json")]).reason == "unsupported"


@pytest.mark.parametrize("data", ["text", [1], 5])
def test_structured_data_must_be_an_object(data: Any) -> None:
    assert (rejected := refuse(structured(data=data))).reason == "wrong_type"
    assert rejected.field == "data"


def test_headers_that_are_not_utf8_are_refused() -> None:
    assert refuse(b"{}", [*headers_of(ATTRIBUTES), ("ce_time", b"\xff")]).field == "ce_time"
