"""Event logs out of files, played to the worker's twin, and what is to be told of it.

That is what was decided and learned, the first line that could not be used, and why no label came of a log.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, Final, NamedTuple

from models.outcomes.report import report_learner
from models.sentiment import Cascade, WeightsError
from schemas.reasons import ERROR_HEADER
from stream.commands import CommandError
from stream.commands.runs import Run
from stream.commands.tables import is_table
from stream.desk import Desk
from stream.durations import spell_duration
from stream.produce import read_lines
from stream.settings import Settings
from stream.stages.batch import Entry
from stream.twin import AT_ONCE, Twin

COUNTS: Final = ("scored", "late", "duplicates", "denied", "windows_refused")
"""What the stages count that belongs into the report, where there is any."""


class Place(NamedTuple):
    """Where a line stands."""

    file: Path
    number: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.number}"


def play_logs(
    settings: Settings, files: Sequence[Path], *, consents: Path | None = None, partitions: int = 1, every: int = 500
) -> Run:
    """Play the files, one after the other as one log, after the privacy requests in `consents`.

    `settings` are those of the twin: see `stream.twin.Twin`. Raises `CommandError` where a file can't be read, or
    holds nothing that a label came of.
    """
    for file in files:
        if is_table(file):
            raise CommandError(f"{file}: a table; say with --label which column tells how its rows turned out")
    began = perf_counter()
    cascade = _open_cascade(settings) if settings.sentiment.enabled else None
    refused: dict[str, str] = {}
    with ThreadPoolExecutor(1) as executor:
        desk = None if cascade is None else Desk(cascade)
        twin = Twin(settings, executor, partitions=partitions, every=every, desk=desk)
        if consents is not None:
            asyncio.run(_play(twin, [consents], refused, requests=True))
        asyncio.run(_play(twin, files, refused))
    _check(settings, files, twin, refused)
    reports = [report_learner(learner) for _, learner in sorted(twin.learners.outcomes.items())]
    facts = describe_run(files, twin) | {"first_refused": refused, "seconds": round(perf_counter() - began, 2)}
    if cascade is not None and cascade.error is not None:
        facts["sentiment"] = f"{cascade.error}; the student answered {cascade.failures} texts in its place"
    return Run(facts, reports, twin.snapshots())


def describe_run(files: Sequence[Path], twin: Twin) -> dict[str, Any]:
    """What became of the lines, for the report."""
    counts = twin.counts
    return {
        "files": [str(file) for file in files],
        "lines": twin.lines,
        "people": sum(len(shard.people) for shard in twin.shards),
        **{name: counts[name] for name in COUNTS},
        "dead_letters": _of(counts, "dead_letters:"),
        "triggers": _of(counts, "triggers:"),
        "suppressed": _of(counts, "suppressed:"),
        "open_windows": sum(len(shard.windows()) for shard in twin.shards),
        "examples": twin.examples,
        "swaps": twin.swaps,
    }


def _open_cascade(settings: Settings) -> Cascade:
    options = settings.sentiment
    try:
        # A level that follows the load would make each run another one.
        return Cascade(options.folder, options.student, options.cache, options.fixed_level or 0)
    except WeightsError as error:
        raise CommandError(f"sentiment.student: {error}") from None


async def _play(twin: Twin, files: Sequence[Path], refused: dict[str, str], *, requests: bool = False) -> None:
    source = _read(files)
    while some := list(islice(source, AT_ONCE)):
        entries = await twin.take([line for _, line in some], requests=requests)
        _note(refused, {line: place for place, line in reversed(some)}, entries)


def _read(files: Sequence[Path]) -> Iterator[tuple[Place, bytes]]:
    for file in files:
        try:
            for number, line in read_lines(file):
                yield Place(file, number), line
        except (OSError, EOFError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CommandError(f"{file}: can't be read ({reason})") from None


def _note(refused: dict[str, str], places: dict[bytes, Place], entries: Sequence[Entry]) -> None:
    """Keep the first line that was refused, by its place, and why."""
    for entry in entries:
        if entry.target == "dead_letters" and not refused and entry.value in places:
            error = dict(entry.headers)[ERROR_HEADER] or b""
            refused[str(places[entry.value])] = error.decode()


def _check(settings: Settings, files: Sequence[Path], twin: Twin, refused: dict[str, str]) -> None:
    """Raise `CommandError`, and say what is missing, where no label matured."""
    name = ", ".join(map(str, files))
    if not twin.lines:
        raise CommandError(f"{name}: found no line, expected JSON lines of events, native or Segment")
    if any(learner.rows["matured"] for learner in twin.learners.outcomes.values()):
        return
    counts = twin.counts
    if counts["dead_letters"] == twin.lines:
        place, error = next(iter(refused.items()), (name, "no line can be used"))
        raise CommandError(f"{place}: {error} (and so {twin.lines:,} lines of {twin.lines:,})")
    if counts["denied"] and not counts["scored"]:
        raise CommandError(
            f"{name}: all events are of people without consent ({counts['denied']:,} denied); give their consents with "
            "--consents FILE, or play it with --consent optional"
        )
    if not twin.learners.outcomes:
        roles = sorted({role for outcome in settings.outcomes for role in outcome.opened_by})
        raise CommandError(
            f"{name}: no event opened a window: none has a type that means {' or '.join(roles)}; say under `roles` in "
            "nudge.yaml what your types mean"
        )
    shortest = min(outcome.window for outcome in settings.outcomes)
    raise CommandError(
        f"{name}: no label has matured: the log ends before the first window of {spell_duration(shortest)} is over; "
        "give a longer log, or shorter windows under `outcomes` in nudge.yaml"
    )


def _of(counts: Counter[str], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): number for name, number in sorted(counts.items()) if name.startswith(prefix)}
