"""`nudge backtest` and `nudge train`: a configuration judged over files before it goes live, no server asked.

A table is played to a learner row by row, its labels as late as they are said to be; an event log goes through the
worker's own stages. What was learned is reported as tables, JSON or a page, and `train` writes it down, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from models.lifecycle.learners import take_snapshot
from models.outcomes.boosting import ExtraMissing
from models.outcomes.learner import OutcomeLearner
from models.outcomes.rehearsal import Rehearsal
from models.outcomes.report import report_learner
from stream.commands import CommandError
from stream.commands.logs import play_logs
from stream.commands.output import print_line
from stream.commands.runs import Run, find_key, show_run, write_snapshots
from stream.commands.tables import SUFFIXES, Columns, Table, is_table, read_table
from stream.settings import Settings


def backtest(
    settings: Settings,
    files: Sequence[Path],
    columns: Columns | None,
    *,
    delay: int = 0,
    consents: Path | None = None,
    partitions: int = 1,
    every: int = 500,
    as_json: bool = False,
    page: Path | None = None,
    out: Path | None = None,
) -> None:
    """Judge what `settings` make of the files, a table's with `columns` and a log's without; print what was found.

    Writes the page and, into the folder `out`, sealed snapshots, where asked. Raises `CommandError` for files that
    can't be read or learned from, and where something can't be written.
    """
    if out is not None:
        find_key(settings)
    try:
        if columns is None:
            run = play_logs(settings, files, consents=consents, partitions=partitions, every=every)
        else:
            run = rehearse_table(files, columns, delay=delay, every=every, entrants=settings.models.entrants)
    except ExtraMissing as error:
        raise CommandError(f"models.entrants: {error}") from error
    show_run(run, as_json=as_json, page=page)
    for file in () if out is None else write_snapshots(settings, run, out):
        if not as_json:
            print_line(f"written {file}")


def rehearse_table(
    files: Sequence[Path], columns: Columns, *, delay: int = 0, every: int = 500, entrants: Sequence[str] = ()
) -> Run:
    """Learn a table, its labels `delay` milliseconds after their rows; a new scorer after every `every` examples.

    Raises `CommandError` where it is no table, or one that can't be learned from.
    """
    for file in files:
        if not is_table(file):
            raise CommandError(f"{file}: --label is for tables, whose names end in {', '.join(SUFFIXES)}; leave it out")
    if delay and columns.time is None:
        raise CommandError("--delay says how long after its row a label comes: name the column of the row's --time")
    table = read_table(files, columns)
    learner = OutcomeLearner(columns.label, table.names, hash_names(table.names), categorical=table.categorical)
    learner.admit(entrants)
    began = perf_counter()
    rehearsal = Rehearsal(learner, delay=delay, every=every)
    rehearsal.play(table.rows)
    facts = describe_table(files, table) | {
        "delay_ms": delay,
        "examples": rehearsal.examples,
        "swaps": rehearsal.swaps,
        "seconds": round(perf_counter() - began, 2),
    }
    newest = 0 if columns.time is None else int(table.rows.times[-1])
    snapshot = take_snapshot(learner, rehearsal.examples - 1, newest, {})
    return Run(facts, [report_learner(learner)], [snapshot])


def describe_table(files: Sequence[Path], table: Table) -> dict[str, Any]:
    """What was read, for the report."""
    return {
        "files": [str(file) for file in files],
        "rows": len(table.rows.labels),
        "positives": sum(table.rows.labels),
        "unlabelled": table.unlabelled,
        "columns": list(table.names),
        "categories": [table.names[place] for place in table.categorical],
        "missing": table.missing,
    }


def hash_names(names: Sequence[str]) -> str:
    """Name of a table's layout: rows of other columns are refused by who learned on these."""
    return hashlib.blake2b("\n".join(names).encode(), digest_size=6).hexdigest()
