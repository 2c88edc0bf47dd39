"""The generated documents: fresh, of one mind with the codec, and whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas.documents import CONTRACTS, FOLDER, build_documents, build_schema, find_stale, write_documents
from schemas.event import MAX_ID, MAX_NAME, Event
from schemas.reasons import REASONS, Rejected
from schemas.trigger import Contribution, RecommendationTrigger, RecommendedItem
from schemas.wire import decode_record
from tests.unit.factories import NOON, event

accepts = Draft202012Validator(build_schema("event")).is_valid


def decodes(value: bytes) -> bool:
    try:
        decode_record(value, max_bytes=200_000)
    except Rejected:
        return False
    return True


def test_the_documents_in_the_tree_are_fresh() -> None:
    assert find_stale() == [], "write them again: nudge schemas --write schemas/generated"


def test_a_changed_a_missing_and_a_left_over_document_are_stale(tmp_path: Path) -> None:
    write_documents(tmp_path)
    assert find_stale(tmp_path) == []
    (tmp_path / "event.schema.json").write_bytes(b"{}")
    (tmp_path / "profile.schema.json").unlink()
    (tmp_path / "gone.schema.json").touch()
    assert find_stale(tmp_path) == ["event.schema.json", "gone.schema.json", "profile.schema.json"]


def test_the_same_structs_give_the_same_bytes() -> None:
    assert build_documents() == build_documents()


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_schema_is_a_schema_and_describes_every_field(name: str) -> None:
    schema = json.loads((FOLDER / f"{name}.schema.json").read_bytes())
    Draft202012Validator.check_schema(schema)
    struct = CONTRACTS[name]
    assert set(struct.__struct_fields__) <= schema["$defs"][struct.__name__]["properties"].keys()
    resolve_all(schema)


def texts(smallest: int, longest: int) -> st.SearchStrategy[str]:
    return st.text(min_size=smallest, max_size=6) | st.sampled_from(["x" * longest, "\N{GRINNING FACE}" * longest])


leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(-1e9, 1e9) | st.text(max_size=5)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
moments = st.integers(0, 253_402_300_799_999)
dates = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 30)).map(datetime.isoformat)
good = st.fixed_dictionaries(
    {"event_id": texts(1, MAX_ID), "user_id": texts(1, MAX_ID), "type": texts(1, MAX_NAME), "ts": moments | dates},
    optional={
        "channel": st.none() | texts(1, MAX_NAME),
        "price": st.none() | st.floats(-1e12, 1e12) | st.integers(-(10**12), 10**12),
        "quantity": st.floats(-1e9, 1e9),
        "currency": st.text(min_size=3, max_size=3),
        "content": texts(0, 20_000),
        "lang": texts(2, 35),
        "traits": st.dictionaries(st.text(max_size=5), leaves, max_size=3),
        "properties": st.dictionaries(st.text(max_size=5), trees, max_size=3),
        "version": st.just(1),
        "not_in_the_contract": trees,
    },
)
BAD: dict[str, st.SearchStrategy[Any]] = {
    "event_id": st.sampled_from(["", "x" * (MAX_ID + 1), None, 5]),
    "type": st.sampled_from(["", "x" * (MAX_NAME + 1), ["a"]]),
    "ts": st.sampled_from([-1, 253_402_300_800_000, 1.5, "noon", "2024-05-01", "2024-13-01T00:00:00Z", True, None]),
    "price": st.sampled_from([1.1e12, -1.1e12, "1", True, []]),
    "currency": st.sampled_from(["EU", "EURO", 5]),
    "lang": st.sampled_from(["e", "x" * 36]),
    "content": st.sampled_from(["x" * 20_001, 5, {}]),
    "properties": st.sampled_from([[], "text", {"a": [[[[[[[[]]]]]]]]}]),
    "traits": st.sampled_from([5, {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}}}]),
    "version": st.sampled_from([0, 2, "1", None]),
}


@settings(deadline=None)
@given(good)
def test_codec_and_schema_agree_on_any_event(payload: dict[str, Any]) -> None:
    value = msgspec.json.encode(payload)
    assert decodes(value) == accepts(payload)


@settings(deadline=None)
@given(good, st.sampled_from(sorted(BAD)).flatmap(lambda name: st.tuples(st.just(name), BAD[name])))
def test_what_the_codec_rejects_the_schema_refuses(payload: dict[str, Any], spoilt: tuple[str, Any]) -> None:
    name, value = spoilt
    wrong = payload | {name: value}
    assert not decodes(msgspec.json.encode(wrong))
    assert not accepts(wrong)


@pytest.mark.parametrize("name", ["event_id", "user_id", "type", "ts"])
def test_required_fields_are_required_by_both(name: str) -> None:
    lacking = event().without(name)
    assert not decodes(lacking.as_json())
    assert not accepts(lacking.as_dict())


def test_a_plain_event_passes_both() -> None:
    full = event(properties={"a": [[[[[[[1]]]]]]]}, price=1, lang="en")
    assert decodes(full.as_json())
    assert accepts(full.as_dict())


def test_what_nudge_writes_passes_its_schema() -> None:
    trigger = RecommendationTrigger(
        trigger_id="t1",
        user_id="u1",
        rule="likely_to_buy",
        event_id="e1",
        decided_at=NOON,
        expires_at=NOON + 1,
        reason="p is high",
        items=(RecommendedItem(item_id="i1", score=0.5, reason="popular"),),
        top_features=(Contribution(name="views", value=1.0, contribution=0.2),),
    )
    written = msgspec.json.decode(msgspec.json.encode(trigger))
    validator = Draft202012Validator(build_schema("recommendation_trigger"))
    assert validator.is_valid(written)
    assert not validator.is_valid(written | {"items": [{"item_id": "i1"}]})


def refs_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from refs_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from refs_in(value)


def resolve_all(document: Any) -> int:
    """Follow every `$ref`, and say how many there were; a dangling one is a KeyError."""
    count = 0
    for count, ref in enumerate(refs_in(document), 1):  # noqa: B007
        node = document
        for part in ref.removeprefix("#/").split("/"):
            node = node[part]
        assert ref.startswith("#/")
        assert isinstance(node, dict)
    return count


@pytest.fixture(scope="module")
def asyncapi() -> Any:
    return yaml.safe_load((FOLDER / "asyncapi.yaml").read_bytes())


def test_every_reference_of_the_asyncapi_document_resolves(asyncapi: Any) -> None:
    assert resolve_all(asyncapi) > 30


def test_the_asyncapi_document_names_every_topic_and_uses_every_message(asyncapi: Any) -> None:
    addresses = {channel["address"] for channel in asyncapi["channels"].values()}
    assert addresses == {
        "marketing.events.v1",
        "marketing.privacy.v1",
        "marketing.items.v1",
        "marketing.recommendations.v1",
        "marketing.scored.v1",
        "marketing.examples.v1",
        "marketing.events.v1.dlq",
        "marketing.privacy.receipts.v1",
    }
    used = {name for channel in asyncapi["channels"].values() for name in channel["messages"]}
    assert used == asyncapi["components"]["messages"].keys()


def test_a_dead_letters_headers_are_told(asyncapi: Any) -> None:
    headers = asyncapi["components"]["messages"]["deadLetter"]["headers"]
    assert headers["properties"]["nudge-reason"]["enum"] == list(REASONS)
    assert set(headers["required"]) == {"nudge-reason", "nudge-error", "nudge-source", "nudge-time"}
    assert headers["properties"].keys() - headers["required"] == {"nudge-field", "nudge-generation"}


def test_the_fields_of_an_event_are_explained() -> None:
    properties = build_schema("event")["$defs"]["Event"]["properties"]
    assert [name for name in Event.__struct_fields__ if "description" not in properties[name]] == []
