"""What every format is held to on its way to a contract: bytes within bounds, one JSON object, known fields as typed.

Each step takes what the step before gave and raises nothing but `Rejected`.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from schemas.event import SCHEMA_VERSION, Event
from schemas.privacy import PrivacyRequest
from schemas.reasons import Rejected, describe, explain
from schemas.timestamps import read_millis

MAX_BYTES: Final = 65_536
"""Longest value that is read, in bytes, unless the caller says otherwise."""

MAX_DEPTH: Final = 8
"""Levels that `properties` and `traits` may nest; `{"a": 1}` has one."""

_INT64: Final = 2**63

Contract = TypeVar("Contract", Event, PrivacyRequest)

_decode_json = msgspec.json.Decoder().decode


def check_value(value: bytes | None, max_bytes: int) -> bytes:
    """The value, if it is there, short enough, and UTF-8 throughout (msgspec looks only at what it keeps)."""
    if not value:
        raise Rejected("empty", None, "the record has no value; send a JSON object")
    if len(value) > max_bytes:
        raise Rejected("over_long", None, f"the value has {len(value)} bytes, {max_bytes} are allowed; send less")
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError:
            raise Rejected("not_json", None, "found bytes that are not UTF-8; send JSON in UTF-8") from None
    return value


def decode_object(value: bytes) -> dict[str, Any]:
    """The JSON object in `value`. Raises `Rejected`: `not_json`, `wrong_type`, `too_deep`, `out_of_range`."""
    try:
        payload = _decode_json(value)
    except msgspec.ValidationError as error:  # a number too large for any type
        raise explain(error) from None
    except UnicodeDecodeError:  # only in data_base64: a record's own value was checked before
        raise Rejected("not_json", None, "found bytes that are not UTF-8; send JSON in UTF-8") from None
    except ValueError as error:
        raise Rejected("not_json", None, f"{error}; send one JSON object") from None
    except RecursionError:
        raise _refuse_depth(None) from None
    if not isinstance(payload, dict):
        raise Rejected(
            "wrong_type", None, f"found {describe(payload)}. Expected a JSON object; send one event a record."
        )
    return payload


def convert(payload: dict[str, Any], contract: type[Contract]) -> Contract:
    """`payload` as a contract; its `ts` may be ISO 8601 text and is replaced in place."""
    if "ts" in payload:
        payload["ts"] = read_millis(payload["ts"], "ts")
    try:
        return check_contract(msgspec.convert(payload, contract))
    except msgspec.ValidationError as error:
        raise explain(error, payload) from None
    except RecursionError:
        raise _refuse_depth(None) from None


def check_contract(contract: Contract) -> Contract:
    """The contract itself, if its version is known and its free-form parts are within bounds."""
    if contract.version != SCHEMA_VERSION:
        message = f"version {SCHEMA_VERSION} is read here; send that, or bring nudge up to date first"
        raise Rejected("unknown_version", "version", message)
    if isinstance(contract, Event):
        if contract.properties is not None:
            _check_tree(contract.properties.values(), "properties", MAX_DEPTH)
        if contract.traits is not None:
            _check_tree(contract.traits.values(), "traits", MAX_DEPTH)
    return contract


def _check_tree(values: Any, field: str, levels: int) -> None:
    """Raise `Rejected` for more than `levels` levels, this one included, and for integers that other codecs refuse."""
    if levels == 0:
        raise _refuse_depth(field)
    for value in values:
        kind = type(value)
        if kind is dict:
            _check_tree(value.values(), field, levels - 1)
        elif kind is list:
            _check_tree(value, field, levels - 1)
        elif kind is int and not -_INT64 <= value < _INT64:
            raise Rejected("out_of_range", field, "an integer in it needs more than 64 bits; send it as text")


def _refuse_depth(field: str | None) -> Rejected:
    return Rejected("too_deep", field, f"it nests deeper than {MAX_DEPTH} levels; flatten it at the producer")
