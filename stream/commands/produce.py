"""`nudge produce FILE`: sends a file of JSON lines to a topic, with a progress bar on standard error.

Lines go as they stand, keyed by user id. A line that does not decode is named by its number and left out; with `raw`
it is sent as well, for the dead-letter topic to show.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stream.commands import CommandError
from stream.commands.connections import list_options, name_outages
from stream.commands.output import escape, print_line
from stream.produce import FileReport, Refused, produce_file, read_lines
from stream.settings import Settings

NAMED: Final = 20
"""Refused lines that are named one by one; the others are only counted."""


def send_file(
    settings: Settings, path: Path, *, topic: str | None, rate: float | None, raw: bool, requests: bool = False
) -> FileReport:
    """Send the file, of events or of privacy requests, and print what became of its lines.

    Raises `CommandError` when the file can't be read and `Unreachable` when the broker is away.
    """
    client = list_options(settings)
    bootstrap = client.pop("bootstrap_servers")
    try:
        total = sum(1 for _ in read_lines(path))
        with name_outages(settings), _open_bar() as bar:
            task = bar.add_task("sent", total=total)
            report = asyncio.run(
                produce_file(
                    path,
                    bootstrap,
                    topic or (settings.topics.privacy if requests else settings.topics.events),
                    raw=raw,
                    requests=requests,
                    rate=rate,
                    on_progress=lambda sent: bar.update(task, completed=sent),
                    on_refused=_Refusals(bar.console),
                    partitioner=settings.partitioner,
                    client=client,
                )
            )
    except OSError as error:
        raise CommandError(f"{path}: can't be read ({error.strerror or error})") from error
    print_line(f"{report.acknowledged} of {report.lines} lines sent, {report.refused} refused")
    return report


def _open_bar() -> Progress:
    console = Console(stderr=True, markup=False, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not sys.stderr.isatty())


class _Refusals:
    """Names the first refused lines on standard error, above the bar."""

    def __init__(self, console: Console) -> None:
        self._console, self._told = console, 0

    def __call__(self, refused: Refused) -> None:
        self._told += 1
        if self._told <= NAMED:
            self._console.print(escape(f"line {refused.position}: {refused.reason}"))
        if self._told == NAMED:
            self._console.print("further refused lines are only counted")
