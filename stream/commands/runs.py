"""What came of a run over files, printed or written down: facts, a report an outcome, and a snapshot a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from models.lifecycle.snapshot import Snapshot, seal
from models.outcomes.report import OutcomeReport
from stream.commands import CommandError
from stream.commands.output import escape, print_json, print_line
from stream.commands.report import print_report, write_page
from stream.settings import Settings

UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


class Run(NamedTuple):
    """What came of a run: facts about it by name, a report an outcome, and a snapshot a model."""

    facts: dict[str, Any]
    reports: list[OutcomeReport]
    snapshots: list[Snapshot]


def show_run(run: Run, *, as_json: bool = False, page: Path | None = None) -> None:
    """Print the run and, if asked, write its page. Raises `CommandError` where that can't be done."""
    if page is not None:
        write_page(page, "Judged before it goes live", _spell(run.facts), run.reports)
    if as_json:
        print_json(run.facts | {"outcomes": [msgspec.to_builtins(report) for report in run.reports]})
        return
    for name, value in _spell(run.facts).items():
        print_line(f"{name:<16}{escape(str(value))}")
    for report in run.reports:
        print_line("")
        print_report(report)


def write_snapshots(settings: Settings, run: Run, folder: Path) -> list[Path]:
    """Seal each model's snapshot into a file of `folder`; the files. Raises `CommandError` where that can't be done."""
    key = find_key(settings)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for snapshot in run.snapshots:
            file = folder / f"{UNSAFE.sub('_', snapshot.model)}-{snapshot.version}.snapshot"
            file.write_bytes(seal(snapshot, key))
            written.append(file)
    except OSError as error:
        raise CommandError(f"{folder}: {error.strerror}; name a folder that can be written with --out") from None
    except ValueError as error:
        raise CommandError(f"models.snapshot_key: {error}; openssl rand -hex 32 makes one") from None
    return written


def find_key(settings: Settings) -> bytes:
    """The key that signs snapshots; raises `CommandError` where none is set."""
    key = settings.models.snapshot_key
    if key is None:
        raise CommandError(
            "models.snapshot_key: unset, and what is trained is signed with it; set NUDGE_MODELS_SNAPSHOT_KEY, "
            "openssl rand -hex 32 makes one"
        )
    return key.get_secret_value().encode()


def _spell(facts: dict[str, Any]) -> dict[str, object]:
    """The facts in words: lists and mappings as what is in them."""
    return {name: _join(value) for name, value in facts.items() if value not in ([], {}, None)}


def _join(value: Any) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count:,}" for name, count in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value
