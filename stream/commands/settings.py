"""`nudge settings`: every option with its variable, its default and what it is for; the page in docs is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from rich.console import Console

from stream.settings import Section, Settings

INTRODUCTION = """# Settings

Every option can stand in `nudge.yaml` (or the file that `NUDGE_CONFIG` names) under its name, and in the environment
under its variable, which wins. Durations are written `500ms`, `30s`, `15m`, `6h` or `7d`; lists and mappings in the
environment are JSON. A mistake stops the start, and all mistakes are listed at once, with the file's line. This page
is what `nudge settings` prints.

| option | variable | default | what |
|---|---|---|---|
"""

SECTIONS = """
`outcomes` is a list; each has:

{outcomes}
`rules` is a list; each has a `kind`. `kind: score` fires at an event whose score is high enough:

{score}
`kind: abandoned` fires when something is *not* done:

{abandoned}"""


def describe_settings() -> str:
    """The page, in Markdown."""
    from stream.settings import AbandonedRule, Outcome, ScoreRule

    rows = "".join(_describe(*row) for row in _list_fields())
    parts: dict[str, type[BaseModel]] = {"outcomes": Outcome, "score": ScoreRule, "abandoned": AbandonedRule}
    tables = {name: _tabulate(part) for name, part in parts.items()}
    return INTRODUCTION + rows + SECTIONS.format(**tables)


def show_settings() -> None:
    """Print the page as it is, for reading and for writing it anew."""
    Console(soft_wrap=True, highlight=False, markup=False).print(describe_settings(), end="")


def _list_fields() -> Iterator[tuple[str, str, FieldInfo]]:
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for inner, part in field.annotation.model_fields.items():
                yield f"{name}.{inner}", f"NUDGE_{name}_{inner}".upper(), part
        else:
            yield name, f"NUDGE_{name}".upper(), field


def _describe(name: str, variable: str, field: FieldInfo) -> str:
    return f"| `{name}` | `{variable}` | {_show(field)} | {field.description or ''} |\n"


def _tabulate(part: type[BaseModel]) -> str:
    rows = "".join(
        f"| `{name}` | {_show(field)} | {field.description or ''} |\n" for name, field in part.model_fields.items()
    )
    return f"| option | default | what |\n|---|---|---|\n{rows}"


def _show(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if value is None or isinstance(value, SecretStr) or value == "":
        return ""
    if isinstance(value, dict) or (isinstance(value, tuple) and any(isinstance(part, BaseModel) for part in value)):
        return "see below" if isinstance(value, tuple) else ", ".join(f"`{k}: {v}`" for k, v in value.items())
    if isinstance(value, tuple):
        return ", ".join(f"`{part}`" for part in value)
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and any("parse_duration" in repr(m) for m in field.metadata)
    ):
        return f"`{_say_duration(value)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _say_duration(milliseconds: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"
