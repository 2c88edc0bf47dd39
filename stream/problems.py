"""What is wrong with the settings, in words: which field, what was found and what is wanted, and the file's line.

pydantic's errors and conflicts between fields go in, one line each comes out. No message repeats a secret.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from stream.configuration import name_variable
from stream.conflicts import Conflict, Location
from stream.durations import parse_duration, spell_duration

GONE: Final = object()
STAND_INS: Final[Mapping[int | str, object]] = {"at_least": 0.0, "name": "standin"}
"""Values that the rest is looked at with where a required one is wrong or missing."""
ITEMS: Final[Mapping[int | str, object]] = {
    "outcomes": {"name": "standin"},
    "rules": {"kind": "abandoned", "name": "standin"},
}
"""What stands in for one of a list, so that those behind it keep their places."""
BOUNDS: Final = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
SHAPES: Final = frozenset({"model_type", "model_attributes_type", "dict_type", "tuple_type", "list_type"})


def suggest(name: str, known: Iterable[str]) -> str:
    """What to do about a name that does not exist.

    >>> suggest("max_recods", ["max_records", "app"])
    'no such setting; did you mean max_records?'
    """
    near = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"no such setting; did you mean {near[0]}?" if near else "no such setting; remove it or correct its name"


def join_problems(title: str, errors: Iterable[ErrorDetails], conflicts: Iterable[Conflict]) -> ValidationError:
    """One error of pydantic's that holds both kinds."""
    found: list[InitErrorDetails] = [
        {"type": _quote(error), "loc": error["loc"], "input": error["input"]} for error in errors
    ]
    for each in conflicts:
        kind = PydanticCustomError("conflict", "{text}", {"text": each.text})
        found.append({"type": kind, "loc": each.about[0], "input": None})
    return ValidationError.from_exception_data(title, found)


def _quote(error: ErrorDetails) -> PydanticCustomError:
    # An error of our own validators has pydantic's prefix in its message.
    text = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
    return PydanticCustomError(error["type"], "{text}", {**error.get("ctx", {}), "text": text})


def strike(data: Any, places: Iterable[Location]) -> Any:
    """A copy of nested mappings and lists without what stands at `places`, so that the rest can be looked at.

    >>> strike({"app": "a", "batch": {"max_records": 0, "cached_people": 100}}, [("batch", "max_records")])
    {'app': 'a', 'batch': {'cached_people': 100}}
    """
    copy = {"": _thaw(data)}
    for place in places:
        node: Any = copy[""]
        above: Any = copy
        key: Any = ""
        part: Any
        for part in place:
            # A discriminated union adds its tag to the path; the data have no such level.
            if (isinstance(node, dict) and part in node) or (isinstance(node, list) and part in range(len(node))):
                node, above, key = node[part], node, part
        if place and place[-1] in STAND_INS:
            (above if key == place[-1] else node)[place[-1]] = STAND_INS[place[-1]]
        else:
            above[key] = ITEMS.get(place[0], GONE) if isinstance(above, list) else GONE
    return _sweep(copy).get("", {})


def _thaw(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _thaw(value) for key, value in node.items()}
    return [_thaw(value) for value in node] if isinstance(node, list | tuple) else node


def _sweep(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _sweep(value) for key, value in node.items() if value is not GONE}
    return [_sweep(value) for value in node if value is not GONE] if isinstance(node, list) else node


def overlap(conflict: Conflict, places: Iterable[Location]) -> bool:
    """Whether a setting that the conflict is about stands at, above or below one of `places`."""
    return any(all(a == b for a, b in zip(one, other, strict=False)) for one in conflict.about for other in places)


class Describer:
    """Words for the errors of `model`, with the lines of the configuration file `text` or the name of the variable."""

    def __init__(self, model: type[BaseModel], text: str, variables: Collection[str]) -> None:
        self._model, self._root, self._variables = model, yaml.compose(text), variables

    def describe(self, error: ErrorDetails) -> str:
        """`field: what is wrong (found ...), where it stands`."""
        where = ".".join(str(part) for part in error["loc"]) or "settings"
        source = self._find_source(error["loc"], error["type"])
        return f"{where}: {self._say(error, where)}{f', {source}' if source else ''}"

    def _find_source(self, place: Location, kind: str) -> str:
        # An unknown variable is told as such; here the file is meant.
        if kind != "extra_forbidden" and (name := name_variable(place[:2])) in self._variables:
            return name
        line = self.find_line(place)
        if (name := name_variable(place[:1])) in self._variables and not self.holds(place):
            return name
        return f"line {line}" if line else ""

    def _say(self, error: ErrorDetails, where: str) -> str:
        kind, found = error["type"], error["input"]
        if kind == "extra_forbidden":
            # Silent on what was found: it may be a misspelt secret.
            return suggest(str(error["loc"][-1]), self._list_siblings(error["loc"]))
        if kind in SHAPES and isinstance(found, str):
            return "a section, list or mapping is wanted, in a variable as JSON (found text)"
        bounded = BOUNDS.keys() & error.get("ctx", {}).keys()
        if bounded and self._is_duration(error["loc"]):
            (bound,) = bounded
            return f"must be {BOUNDS[bound]} {_spell(error['ctx'][bound])} (found {_spell(found)})"
        message = error["msg"]
        silent = isinstance(found, dict | BaseModel) or kind in ("missing", "conflict")
        return message if silent else f"{message} (found {_show(where, found)})"

    def _list_siblings(self, place: Location) -> Iterator[str]:
        for model in _walk(self._model, place[:-1]):
            yield from model.model_fields

    def _is_duration(self, place: Location) -> bool:
        fields = (model.model_fields.get(str(place[-1])) for model in _walk(self._model, place[:-1]) if place)
        return any(field is not None and "parse_duration" in repr(field.metadata) for field in fields)

    def find_line(self, place: Location) -> int | None:
        """Line (from 1) of the deepest node that the path reaches; None if the file does not hold its first key."""
        steps = self._follow(place)
        return steps[-1][1] if steps else None

    def holds(self, place: Location) -> bool:
        """Whether the file holds the last key of the path."""
        steps = self._follow(place)
        return bool(steps) and steps[-1][0] == place[-1]

    def _follow(self, place: Location) -> list[tuple[int | str, int]]:
        node, steps = self._root, list[tuple[int | str, int]]()
        for part in place:
            child = _step(node, part)
            # None at the tag of a union again.
            if child is not None:
                line, node = child
                steps.append((part, line))
        return steps


def _walk(model: Any, place: Location) -> list[type[BaseModel]]:
    """The models that may stand at a path of keys."""
    found = _list_models(model)
    for part in place:
        if isinstance(part, str):
            inner = [m.model_fields[part].annotation for m in found if part in m.model_fields]
            # A part that is no field is the tag of a union, and chooses among its models.
            found = (
                [each for annotation in inner for each in _list_models(annotation)]
                if inner
                else [m for m in found if "kind" in m.model_fields and m.model_fields["kind"].default == part]
            )
    return found


def _list_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _list_models(part)]


def _spell(value: Any) -> str:
    return spell_duration(parse_duration(value))


def _show(where: str, found: object) -> str:
    """What was found, but never a secret."""
    if re.search("pas|key|secret|token|redis|url|cred", where) or "@" in str(found):
        return type(found).__name__
    return f"{found!r:.80}"


def _step(node: yaml.Node | None, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        value = node.value[part]
        return value.start_mark.line + 1, value
    return None
