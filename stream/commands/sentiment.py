"""`nudge sentiment`: scores the texts of a file with the scorer that the worker has, and judges it where labels are.

The measures are those of the benchmark, so that both can be compared. No server is asked and nothing is sent anywhere.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import orjson
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

from models.sentiment import Cascade, Sentiment, WeightsError
from models.sentiment.evaluation import LABELS, Measures, measure, recover
from models.sentiment.levels import LOWEST
from stream.commands import CommandError
from stream.commands.output import print_json, print_line, print_table
from stream.commands.texts import Columns, Row, read_rows
from stream.settings import Settings

AT_ONCE: Final = 256
MEASURES: Final = ("accuracy", "binary_accuracy", "macro_recall", "ece")


class Judge:
    """Gathers what was said of labelled texts; `measures` compares it with their labels, all and by language."""

    def __init__(self) -> None:
        self._said: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
        self._labels: defaultdict[str, list[int]] = defaultdict(list)

    def take(self, row: Row, found: Sentiment) -> None:
        """Take note of one text; one without a label is passed over."""
        if row.label is not None:
            language = row.lang or ""
            self._said[language].append(recover(found.score, found.confidence, found.label))
            self._labels[language].append(row.label)

    def measures(self) -> dict[str, Measures]:
        """By language (empty for texts without) and, under "all", of all; empty where no text had a label."""
        if not self._labels:
            return {}
        two_class = all(LABELS.index("neutral") not in labels for labels in self._labels.values())
        names = sorted(self._labels)
        parts = {name: (np.array(self._said[name]), np.array(self._labels[name])) for name in names}
        said, labels = (np.concatenate([part[place] for part in parts.values()]) for place in range(2))
        return {
            name: measure(np.log(np.maximum(said, 1e-9)), labels, two_class=two_class)
            for name, (said, labels) in [("all", (said, labels)), *parts.items()]
        }


def score_file(
    settings: Settings,
    file: Path,
    columns: Columns,
    *,
    level: int | None = None,
    out: Path | None = None,
    as_json: bool = False,
) -> None:
    """Score `file` at `level` (unset, the settings' fixed one, else 0), print what was found, write scores to `out`.

    Raises `CommandError` when the file or a model can't be read, or `out` can't be written.
    """
    level = level if level is not None else settings.sentiment.fixed_level or 0
    cascade = _open_cascade(settings, level)
    judge, labels, scores, skipped = Judge(), Counter[str](), list[float](), 0
    began = time.perf_counter()
    with ExitStack() as stack:
        sheet = stack.enter_context(_create(out)) if out is not None else None
        for rows in _chunk(_show_progress(read_rows(file, columns), stack)):
            wanted = [row for row in rows if row.text is not None]
            skipped += len(rows) - len(wanted)
            found = cascade.score_many([row.text or "" for row in wanted], [row.lang for row in wanted])
            for row, each in zip(wanted, found, strict=True):
                judge.take(row, each)
                labels[each.label] += 1
                scores.append(each.score)
                if sheet is not None:
                    sheet.write(_write_score(row, each))
    if not scores:
        raise CommandError(f"{file}: there is no text in column {columns.text}")
    spent = time.perf_counter() - began
    measures = judge.measures()
    report = {
        "scored": len(scores),
        "skipped": skipped,
        **measures.get("all", {"texts": len(scores)}),
        "mean_score": round(float(np.mean(scores)), 4),
        "labels": {label: labels[label] for label in LABELS},
        "sources": dict(cascade.answered),
        "failures": cascade.failures,
        "level": level,
        "models": cascade.versions,
        "texts_per_second": round(len(scores) / spent, 1),
        "languages": {name: of for name, of in measures.items() if name not in ("all", "")},
    }
    if as_json:
        print_json(report)
    else:
        _print(report, measures)
    if cascade.error is not None:
        raise CommandError(f"{cascade.error}; the student answered {cascade.failures} texts in its place")


def _open_cascade(settings: Settings, level: int) -> Cascade:
    options = settings.sentiment
    try:
        cascade = Cascade(options.folder, options.student, options.cache, level)
    except WeightsError as error:
        raise CommandError(f"sentiment.student: {error}") from None
    if level < LOWEST and not cascade.load():
        raise CommandError(f"sentiment.folder: {cascade.error}; or ask the student alone with --level {LOWEST}")
    return cascade


def _create(out: Path) -> IO[bytes]:
    try:
        return out.open("wb")
    except OSError as error:
        raise CommandError(f"{out}: {error.strerror}; name a file that can be written") from None


def _chunk(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while chunk := list(islice(rows, AT_ONCE)):
        yield chunk


def _show_progress(rows: Iterator[Row], stack: ExitStack) -> Iterator[Row]:
    """The rows, counted on standard error while a person watches."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    return iter(stack.enter_context(shown).track(rows))


def _write_score(row: Row, found: Sentiment) -> bytes:
    """One line of JSON; the text itself stays where it is."""
    said = {name: getattr(found, name) for name in ("score", "confidence", "label", "source", "model", "level")}
    return orjson.dumps({"row": row.number} | said, option=orjson.OPT_APPEND_NEWLINE)


def _print(report: dict[str, Any], measures: dict[str, Measures]) -> None:
    print_line(f"texts {report['scored']:,} ({report['texts_per_second']:,} a second), empty {report['skipped']:,}")
    print_line(f"level {report['level']}, " + ", ".join(f"{name} {of}" for name, of in report["models"].items()))
    print_line("answered by " + ", ".join(f"{name} {count:,}" for name, count in report["sources"].items() if count))
    print_line("found " + ", ".join(f"{label} {count:,}" for label, count in report["labels"].items()))
    print_line(f"mean score {report['mean_score']:+.4f}")
    if not measures:
        print_line("no labels: with a column of them (negative, neutral, positive) the scorer is judged by them")
        return
    rows = [(name or "(none)", *(of[each] for each in MEASURES), of["texts"]) for name, of in measures.items()]
    print_table(("language", *MEASURES, "texts"), rows if len(rows) > 2 else rows[:1])
