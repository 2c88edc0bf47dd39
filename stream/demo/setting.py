"""The demo's settings: the operator's own, with what the demo needs over them, for the parent and for its worker.

The worker is another process and takes its settings from the environment; both see the same values.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import stream
from stream.configuration import find_file
from stream.embedded import Servers
from stream.settings import Settings, load_settings

PARTITIONS: Final = 4
ROOT: Final = Path(stream.__file__).parents[1]


def choose_overrides(servers: Servers, port: int) -> dict[str, Any]:
    """What the demo sets, as nested settings. Topics are kept for ever: the log is from years ago.

    `reveal` is allowed because the sample's user ids are numbers of a published data set.
    """
    return {
        "kafka": {"bootstrap": servers.kafka_bootstrap},
        "redis": {"url": servers.redis_url},
        "topics": {"create": True, "partitions": PARTITIONS, "retention": 0, "retention_examples": 0},
        "models": {"snapshot_key": secrets.token_hex(32)},
        "http": {"host": "127.0.0.1", "port": port, "reveal": True},
        "clock": "event",
        "log_level": "WARNING",
    }


def build_settings(overrides: Mapping[str, Any]) -> Settings:
    """The settings as the parent uses them; raises `BadSettings`."""
    return load_settings(**overrides)


def write_environment(overrides: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    """This process' environment, with `overrides` as `NUDGE_*` variables for a worker that runs in another folder."""
    found = {**os.environ, **dict(_flatten(overrides))}
    file = find_file()
    if file.is_file():
        found["NUDGE_CONFIG"] = str(file.resolve())
    for name, path in (
        ("NUDGE_SENTIMENT_FOLDER", settings.sentiment.folder),
        ("NUDGE_SENTIMENT_STUDENT", settings.sentiment.student),
        ("NUDGE_KAFKA_CA_FILE", settings.kafka.ca_file),
    ):
        if path is not None:
            found[name] = str(path.resolve())
    # A checkout that is not installed is importable from its own folder alone.
    found["PYTHONPATH"] = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    return found


def _flatten(overrides: Mapping[str, Any], prefix: str = "NUDGE") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for name, value in overrides.items():
        full = f"{prefix}_{name}".upper()
        if isinstance(value, Mapping):
            flat += _flatten(value, full)
        else:
            flat.append((full, json.dumps(value) if isinstance(value, list) else str(value)))
    return flat
