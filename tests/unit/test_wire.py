"""What any bytes on the events topic become, and what every refusal says."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from schemas.event import MAX_ID, Event
from schemas.privacy import PrivacyRequest
from schemas.reasons import MEANINGS, Reason, Rejected
from schemas.timestamps import read_millis
from schemas.wire import Decoded, Incoming, check_future, count_unknown, decode_record, decode_request
from tests.unit.factories import NOON, event

PRIVACY = (("nudge-kind", b"privacy"),)


def refuse(value: bytes | None, headers: Any = (), **options: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        decode_record(value, headers, **options)
    return caught.value


def nest(levels: int) -> dict[str, Any]:
    node: dict[str, Any] = {"leaf": 1}
    for _ in range(levels - 1):
        node = {"a": node}
    return node


def test_a_native_event_comes_through_field_by_field() -> None:
    draft = event().having(
        channel="web",
        item_id="i1",
        price=2.5,
        quantity=3,
        currency="EUR",
        properties={"a": [1, None]},
        traits={"b": "c"},
    )
    assert asdict(decode_record(draft.as_json())) == asdict(draft.build())


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-01T12:00:00Z",
        "2024-05-01T12:00:00",
        "2024-05-01 12:00",
        "2024-05-01T14:00:00.000+02:00",
        "2024-05-01T14:00:00,0004+0200",
    ],
)
def test_iso_text_and_milliseconds_say_the_same_moment(text: str) -> None:
    assert asdict(decode_record(event().known_as("e").at(text).as_json())) == asdict(
        event().known_as("e").at(NOON).build()
    )


def test_a_fraction_finer_than_a_millisecond_is_cut_off() -> None:
    assert read_millis("2024-05-01T12:00:00.999999Z", "ts") == NOON + 999


@pytest.mark.parametrize("ts", ["2024-05-01", "2024-02-30T12:00:00Z", "1714564800000", "noon", 1.5, True, None, [1]])
def test_what_is_no_moment_is_of_the_wrong_type(ts: Any) -> None:
    rejected = refuse(event().known_as("e").at(ts).as_json())
    assert (rejected.reason, rejected.field) == ("wrong_type", "ts")


@pytest.mark.parametrize(
    ("value", "reason", "field"),
    [
        (None, "empty", None),
        (b"", "empty", None),
        (b" ", "not_json", None),
        (b"{", "not_json", None),
        (b'{"ts": NaN}', "not_json", None),
        (b'{"price": Infinity}', "not_json", None),
        (b"\xff\xfe", "not_json", None),
        (b'{"unknown": "\xff"}', "not_json", None),
        (b'\xef\xbb\xbf{"ts": 1}', "not_json", None),
        (b'{"event_id": "\\ud800"}', "not_json", None),
        (b"[]", "wrong_type", None),
        (b'"text"', "wrong_type", None),
        (b"null", "wrong_type", None),
        (b"17", "wrong_type", None),
        (b"{}", "missing_field", "event_id"),
        (event().without("user_id").as_json(), "missing_field", "user_id"),
        (event().without("ts").as_json(), "missing_field", "ts"),
        (event("u" * (MAX_ID + 1)).known_as("e").as_json(), "over_long", "user_id"),
        (event().saying("x" * 20_001).as_json(), "over_long", "content"),
        (event("").as_json(), "out_of_range", "user_id"),
        (event(price=1e13).as_json(), "out_of_range", "price"),
        (event(currency="EURO").as_json(), "over_long", "currency"),
        (event(currency="E").as_json(), "out_of_range", "currency"),
        (event().at(-1).as_json(), "out_of_range", "ts"),
        (event(price="2.50").as_json(), "wrong_type", "price"),
        (event(properties=[]).as_json(), "wrong_type", "properties"),
        (event(version=2).as_json(), "unknown_version", "version"),
        (event(version=0).as_json(), "unknown_version", "version"),
        (event(version="1").as_json(), "wrong_type", "version"),
        (event(properties=nest(9)).as_json(), "too_deep", "properties"),
        (event(traits={"a": [[[[[[[[1]]]]]]]]}).as_json(), "too_deep", "traits"),
        (event(properties={"a": 2**63}).as_json(), "out_of_range", "properties"),
    ],
)
def test_every_kind_of_bad_record_has_its_reason(value: bytes | None, reason: Reason, field: str | None) -> None:
    rejected = refuse(value)
    assert (rejected.reason, rejected.field) == (reason, field)


def test_eight_levels_are_deep_enough() -> None:
    draft = event(properties=nest(8), traits={"a": [[[[[[[1]]]]]]]})
    assert asdict(decode_record(draft.as_json())) == asdict(draft.build())


@pytest.mark.parametrize("opening", ['{"a":', "[", '[{"a":'])
def test_a_hostile_depth_is_refused_not_suffered(opening: str) -> None:
    hostile = event(properties=0).as_json().replace(b'"properties":0', b'"properties":{"x":' + opening.encode() * 6_000)
    closing = {'{"a":': "1" + "}" * 6_000, "[": "]" * 6_000, '[{"a":': "1" + "}]" * 6_000}[opening]
    assert refuse(hostile[:-1] + closing.encode() + b"}}").reason == "too_deep"
    assert refuse(opening.encode() * 6_000).reason in ("too_deep", "not_json", "wrong_type")


def test_the_limit_in_bytes_holds_exactly() -> None:
    value = event().as_json()
    assert asdict(decode_record(value, max_bytes=len(value))) == asdict(event().build())
    assert refuse(value, max_bytes=len(value) - 1).reason == "over_long"


def test_a_refusal_never_repeats_the_value() -> None:
    secret = "alice@example.org"
    for draft in (
        event(price=secret),
        event(traits=secret),
        event(secret * 20),
        event(lang=secret * 3),
        event(traits={secret: nest(9)}),
        event().at(secret),
        event(version=secret),
    ):
        rejected = refuse(draft.known_as("e").as_json())
        assert secret not in str(rejected)
        assert rejected.field
        assert rejected.field in str(rejected)
    choice = {"request_id": "r", "user_id": "u", "ts": 1, "action": secret}
    for request in (choice, choice | {"action": "consent", "consent": {secret: True}}):
        assert secret not in str(refuse(json.dumps(request).encode(), PRIVACY))


def test_the_message_names_type_and_length() -> None:
    assert "a string of length 300" in refuse(event("u" * 300).known_as("e").as_json()).message
    assert "a string of length 3" in refuse(event(price="2.5").as_json()).message


def test_every_reason_has_a_meaning() -> None:
    assert MEANINGS.keys() == set(get_args(Reason))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=12,
)
SEGMENT_NAMES = "type event messageId userId anonymousId timestamp sentAt receivedAt originalTimestamp context traits"
NAMES = [*Event.__struct_fields__, *SEGMENT_NAMES.split(), "specversion", "id", "source", "data", "data_base64", "time"]
TELLING = st.sampled_from(["track", "identify", "1.0", "2024-05-01T12:00:00Z", "purchase", "e1", 1, {}, {"price": "1"}])
payloads = st.dictionaries(st.sampled_from(NAMES), TELLING | json_values, max_size=12)
header_names = st.sampled_from(["nudge-kind", "ce_specversion", "ce_id", "ce_type", "ce_time", "content-type", "x"])
header_values = st.sampled_from([b"privacy", b"1.0", b"e1", b"application/json", b"application/cloudevents+json"])
headers = st.lists(st.tuples(header_names, header_values | st.binary(max_size=9)), max_size=6)


@given(st.none() | st.binary(max_size=200) | st.text().map(str.encode), headers)
def test_any_bytes_are_decoded_or_rejected(value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
    hold_promise(value, headers)


@given(payloads, headers)
def test_any_json_is_decoded_or_rejected(payload: dict[str, Any], headers: list[tuple[str, bytes]]) -> None:
    hold_promise(json.dumps(payload).encode(), headers)


def hold_promise(value: bytes | None, headers: list[tuple[str, bytes]]) -> None:
    outcome: Decoded | Rejected
    try:
        outcome = decode_record(value, headers)
    except Rejected as rejected:
        outcome = rejected
    if isinstance(outcome, Rejected):
        assert outcome.reason in MEANINGS
        assert outcome.message
        return
    whole = outcome.event if isinstance(outcome, Incoming) else outcome
    assert msgspec.convert(msgspec.to_builtins(whole), type(whole)) == whole
    assert value is None or count_unknown(value) >= 0


def test_the_header_tells_a_privacy_request() -> None:
    request = {"request_id": "r", "user_id": "u", "ts": "2024-05-01T12:00:00Z", "consent": {"marketing": False}}
    expected = PrivacyRequest(request_id="r", user_id="u", ts=NOON, consent={"marketing": False})
    value = json.dumps(request).encode()
    assert decode_record(value, PRIVACY) == decode_request(value) == expected
    assert decode_record(msgspec.json.encode(expected), PRIVACY) == expected
    assert refuse(value).reason == "missing_field"
    assert refuse(event().as_json(), PRIVACY).field == "request_id"
    assert asdict(decode_record(event().as_json(), (("nudge-kind", b"event"),))) == asdict(event().build())
    assert refuse(value, (("nudge-kind", b"other"),)).reason == "unsupported"


def test_a_purpose_that_does_not_exist_is_refused() -> None:
    request = {"request_id": "r", "user_id": "u", "ts": 1, "consent": {"profit": True}}
    assert refuse(json.dumps(request).encode(), PRIVACY).reason == "wrong_type"


def test_the_future_begins_after_the_tolerance() -> None:
    check_future(NOON + 1_000, NOON, 1_000)
    with pytest.raises(Rejected) as caught:
        check_future(NOON + 1_001, NOON, 1_000)
    assert caught.value.reason == "future_timestamp"


def test_unknown_fields_are_counted_and_kept_in_none() -> None:
    odd = event().known_as("e").having(colour="red", size=4)
    assert count_unknown(odd.as_json()) == 2
    assert count_unknown(odd.at("2024-05-01T12:00:00Z").as_json()) == 2
    assert count_unknown(event().as_json()) == 0
    assert count_unknown(b'{"type": "track", "messageId": "m"}') == count_unknown(b"{") == 0
    assert asdict(decode_record(odd.as_json())) == asdict(event().known_as("e").build())
