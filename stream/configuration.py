"""Where settings come from: `nudge.yaml`, or the file that `NUDGE_CONFIG` names, and variables with our prefix.

What a file or a variable holds is looked at elsewhere; here is only whether it can be read, and what it is called.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

PREFIX: Final = "NUDGE_"
FOREIGN: Final = frozenset({"NUDGE_CONFIG", "NUDGE_DATA", "NUDGE_TOOLS"})
"""Variables with our prefix that are no settings."""


class Variables(EnvSettingsSource):
    """The environment; text that should be JSON and is none is a wrong value of its setting, like any other."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """The value, or its text where it can't be read."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def name_variable(place: Collection[int | str]) -> str:
    """Environment variable of a setting.

    >>> name_variable(("kafka", "bootstrap"))
    'NUDGE_KAFKA_BOOTSTRAP'
    """
    return PREFIX + "_".join(map(str, place)).upper()


def list_variables(model: type[BaseModel]) -> set[str]:
    """Every variable with our prefix that means something: the settings and sections of `model`, and foreign ones."""
    known = set(FOREIGN)
    for name, field in model.model_fields.items():
        known.add(name_variable((name,)))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            known |= {name_variable((name, inner)) for inner in field.annotation.model_fields}
    return known


def list_unknown(known: Collection[str]) -> list[str]:
    """Variables of this process with our prefix, in whatever case, that mean nothing."""
    return sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)


def find_file() -> Path:
    """Path of the configuration file: `NUDGE_CONFIG`, else `nudge.yaml` here. It need not exist."""
    return Path(os.environ.get("NUDGE_CONFIG", "nudge.yaml"))


def read_file(path: Path) -> tuple[str, list[str]]:
    """Text of the configuration file, empty where there is none, and a line for each key that is there twice.

    YAML's reader would let the last one win in silence. Raises `ValueError` with what is wrong with it as a whole.
    """
    if "NUDGE_CONFIG" in os.environ and not path.is_file():
        raise ValueError(f"NUDGE_CONFIG: there is no file {path}")
    try:
        text = path.read_text("utf-8") if path.is_file() else ""
        found = yaml.safe_load(text)
        twice = list(_find_twice(yaml.compose(text, yaml.SafeLoader)))
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not text in UTF-8") from None
    except yaml.YAMLError as error:
        # The whole message quotes the file, and so perhaps a secret.
        raise ValueError(f"{path}: not YAML{_find_mark(error)}") from None
    except RecursionError:
        raise ValueError(f"{path}: holds itself, or is nested too deep") from None
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}; write settings as `name: value`")
    return text, [f"{path}: {key.value} is there twice in one section, line {key.start_mark.line + 1}" for key in twice]


def _find_twice(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _find_twice(each)
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                yield key
            seen.add(key.value)
        yield from _find_twice(value)


def _find_mark(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return ""
    # Tags and aliases are quoted, and a password may begin like one.
    problem = re.split("['\"]", error.problem or "")[0].strip()
    return f": {problem}, line {error.problem_mark.line + 1}"
