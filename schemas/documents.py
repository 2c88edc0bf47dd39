"""The contracts as documents: a JSON Schema (2020-12) per Struct and one AsyncAPI 3.0 document, made from the Structs.

The same Structs give the same bytes, so that `schemas/generated/` can be compared with what would be made now. The
schemas of events and privacy requests describe the wire: `ts` may be text there, and nesting is bounded.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from schemas import asyncapi
from schemas.event import SCHEMA_VERSION, Event
from schemas.example import Example, Interaction
from schemas.item import Item
from schemas.privacy import PrivacyRequest
from schemas.profile import Profile
from schemas.scored import ScoredEvent
from schemas.timestamps import ISO_PATTERN
from schemas.trigger import RecommendationTrigger
from schemas.validation import MAX_DEPTH

CONTRACTS: Final[dict[str, type[msgspec.Struct]]] = {
    "event": Event,
    "privacy_request": PrivacyRequest,
    "item": Item,
    "profile": Profile,
    "recommendation_trigger": RecommendationTrigger,
    "scored_event": ScoredEvent,
    "example": Example,
    "interaction": Interaction,
}
"""Name of a schema's file, and the Struct."""

ON_THE_WIRE: Final = frozenset({"Event", "PrivacyRequest"})
"""Structs that others write and `schemas.wire` reads."""

_ANYTHING: Final = {"description": "Any JSON value."}  # msgspec takes an empty schema for none

FOLDER: Final = Path(__file__).parent / "generated"


def build_documents() -> dict[str, bytes]:
    """File name to content, for every document."""
    documents = {f"{name}.schema.json": _encode(build_schema(name)) for name in CONTRACTS}
    document = asyncapi.build_asyncapi(_build_components("#/components/schemas/{name}"))
    plain = msgspec.json.decode(
        msgspec.json.encode(document)
    )  # without shared parts, which YAML would write as aliases
    text = yaml.safe_dump(plain, sort_keys=True, allow_unicode=True, width=110)
    return documents | {"asyncapi.yaml": text.encode()}


def write_documents(folder: Path = FOLDER) -> None:
    """Write every document into `folder`, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in build_documents().items():
        (folder / name).write_bytes(content)


def find_stale(folder: Path = FOLDER) -> list[str]:
    """Names of documents that `folder` lacks, holds with other bytes, or holds beyond what is made; in order."""
    wanted = build_documents()
    there = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


def build_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of the contract of that name, complete in itself."""
    title = CONTRACTS[name].__name__
    components = _build_components("#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:nudge:{name}:{SCHEMA_VERSION}",
        "$ref": f"#/$defs/{title}",
        "$defs": {each: components[each] for each in _reach(components, title)},
    }


def _build_components(template: str) -> dict[str, Any]:
    _, components = msgspec.json.schema_components(
        CONTRACTS.values(), schema_hook=lambda kind: dict(_ANYTHING), ref_template=template
    )
    for struct in _find_structs(list(CONTRACTS.values())):
        component = components[struct.__name__]
        component["description"] = inspect.getdoc(struct)
        properties = component["properties"]
        for field, text in _read_docs(struct).items():
            properties[field]["description"] = text
    for name in ON_THE_WIRE:
        _describe_wire(components[name]["properties"], template)
    return components | _build_levels(template)


def _describe_wire(properties: dict[str, Any], template: str) -> None:
    """What the wire allows beyond the Struct (text for `ts`) and forbids beyond it (other versions, deep nesting)."""
    moment = properties["ts"]
    bounds = {key: moment.pop(key) for key in ("type", "minimum", "maximum")}
    moment["anyOf"] = [bounds, {"type": "string", "pattern": ISO_PATTERN}]
    properties["version"]["const"] = SCHEMA_VERSION
    for field in {"properties", "traits"} & properties.keys():
        for option in properties[field]["anyOf"]:
            if option["type"] == "object":
                option["additionalProperties"] = _refer(template, MAX_DEPTH - 1)


def _build_levels(template: str) -> dict[str, Any]:
    """`Nested0` is any scalar; `Nested<n>` may hold `n` levels of lists and objects."""
    scalars = ["string", "number", "boolean", "null"]
    levels: dict[str, Any] = {"Nested0": {"type": scalars, "description": "A value that holds no others."}}
    for level in range(1, MAX_DEPTH):
        below = _refer(template, level - 1)
        levels[f"Nested{level}"] = {
            "type": [*scalars, "array", "object"],
            "items": below,
            "additionalProperties": below,
            "description": f"Any value of at most {level} levels.",
        }
    return levels


def _refer(template: str, level: int) -> dict[str, str]:
    return {"$ref": template.format(name=f"Nested{level}")}


def _find_structs(contracts: list[type[msgspec.Struct]]) -> list[type[msgspec.Struct]]:
    """The contracts and the Structs that they hold in tuples."""
    found = list(contracts)
    for struct in found:
        for field in msgspec.structs.fields(struct):
            for inner in getattr(field.type, "__args__", ()):
                if isinstance(inner, type) and issubclass(inner, msgspec.Struct) and inner not in found:
                    found.append(inner)
    return found


def _read_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The text below each field of a Struct, which Python itself does not keep."""
    body = ast.parse(textwrap.dedent(inspect.getsource(struct))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for line, below in zip(body.body, body.body[1:], strict=False):
        match line, below:
            case ast.AnnAssign(target=ast.Name(id=field)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[field] = inspect.cleandoc(text)
    return docs


def _reach(components: dict[str, Any], start: str) -> list[str]:
    """Names of the components that `start` refers to, itself included."""
    reached = [start]
    for name in reached:
        text = msgspec.json.encode(components[name]).decode()
        reached += [other for other in components if f'/{other}"' in text and other not in reached]
    return reached


def _encode(schema: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=2) + b"\n"
