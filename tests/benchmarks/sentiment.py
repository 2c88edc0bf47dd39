"""Sentiment on every test split by every path, beside VADER: how right, how well calibrated, how fast.

Prints tables and, as its last line, one JSON object: `splits` is data set -> path -> measures, `levels` level of the
cascade -> share that the transformer answers and macro recall on tweets, `paths` path -> speed. With `--write` the
tables go into a page. Nothing else reads the test splits. Reads `sentiment/texts.parquet` below NUDGE_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from models.sentiment import Student, Transformer, corpus
from models.sentiment.cascade import Cascade
from models.sentiment.corpus import Labelled
from models.sentiment.evaluation import Floats, Measures, probabilities
from models.sentiment.evaluation import measure as measure_labels
from models.sentiment.language import is_english
from models.sentiment.levels import LEVELS
from models.sentiment.student_train import SEED
from models.sentiment.transformer import logits_of, token_ids

HALF: Final = 2
"""The level at which about half of the English validation texts are the transformer's."""

TWEETS: Final = "tweeteval en"
NEUTRAL_BELOW: Final = 0.05
"""VADER's own limit for its compound score."""

AT_ONCE: Final = 256
TIMED: Final = 300
BEGIN, END = "<!-- figures: make bench-sentiment -->", "<!-- end of figures -->"

Splits: TypeAlias = dict[str, dict[str, Measures]]


class Answers(NamedTuple):
    """Logits (texts, 3) of one split by each path, temperature in them, and which of its texts are English."""

    transformer: Floats
    students: list[Floats]
    vader: Floats
    english: np.ndarray[Any, np.dtype[np.bool_]]


def main() -> int:
    """Measure; the exit status."""
    arguments = _arguments()
    if arguments.data is None:
        reason = "NUDGE_DATA is unset: it names the folder with sentiment/texts.parquet"
        print(f"skipped: {reason}", file=sys.stderr)
        print(json.dumps({"skipped": reason}))
        return 0
    transformer = Transformer.load()
    students = [Student.load(folder) for folder in arguments.student or [None]]
    splits = dict(_splits(arguments.data / "sentiment" / "texts.parquet", arguments.limit))
    answers = {name: answer(rows, transformer, students) for name, rows in splits.items()}
    found: dict[str, Any] = {
        "splits": {name: judge(rows, answers[name], students) for name, rows in splits.items()},
        "levels": {str(level): _at_level(splits, answers, students[0], level) for level in range(LEVELS)},
        "paths": _speeds(transformer, students[0], splits),
        "models": {"transformer": transformer.version, "student": [student.version for student in students]},
        "machine": {
            "processor": _processor(),
            "vnni": _has_vnni(),
            "cores_used": 1,
            "python": platform.python_version(),
        },
    }
    page = tables(found)
    print(page)
    if arguments.write:
        write(arguments.write, page)
    print(json.dumps(found))
    return 0


def _splits(path: Path, limit: int | None) -> Iterator[tuple[str, list[Labelled]]]:
    rows = corpus.load_all(path, SEED).test
    for name in sorted({f"{row.source} {row.lang}" for row in rows}):
        yield name, [row for row in rows if f"{row.source} {row.lang}" == name][:limit]


def answer(rows: list[Labelled], transformer: Transformer, students: list[Student]) -> Answers:
    """Ask every path about every text of a split."""
    lines = [row.text for row in rows]
    return Answers(
        np.array([_ask(transformer, line) for line in lines]),
        [np.array(student.logits(lines)) for student in students],
        _vader(lines),
        np.array([is_english(line) for line in lines]),
    )


def _ask(transformer: Transformer, line: str) -> Floats:
    logits = logits_of(transformer._session, token_ids(transformer._tokenizer, line))
    return np.asarray(logits, dtype=np.float64).reshape(3) / transformer._meta.temperature


def _vader(lines: list[str]) -> Floats:
    """Logits whose order says what VADER says; it gives no probability."""
    analyser = SentimentIntensityAnalyzer()
    compound = np.array([analyser.polarity_scores(line)["compound"] for line in lines])
    return np.stack([-compound, np.full(len(lines), NEUTRAL_BELOW), compound], axis=1)


def judge(rows: list[Labelled], of: Answers, students: list[Student]) -> dict[str, Measures]:
    """Path -> measures of one split; the student's are means over the students given."""
    by_student = [measure(rows, logits) for logits in of.students]
    cascades = [measure(rows, _cascade(of, s, logits, HALF)) for s, logits in zip(students, of.students, strict=True)]
    return {
        "transformer": measure(rows, of.transformer),
        "student": _mean(by_student),
        "cascade": _mean(cascades),
        "vader": measure(rows, of.vader) | {"ece": None},
    }


def measure(rows: list[Labelled], logits: Floats) -> Measures:
    """The measures of a split."""
    return measure_labels(logits, np.array([row.label for row in rows]), two_class=rows[0].two_class)


def _mean(found: list[Measures]) -> Measures:
    return {name: round(float(np.mean([one[name] for one in found])), 4) for name in found[0]} | {
        "texts": found[0]["texts"]
    }


def _cascade(of: Answers, student: Student, logits: Floats, level: int) -> Floats:
    """What `Cascade` answers at a level, from answers that are there already."""
    return np.where(_asked(of, student, logits, level)[:, None], of.transformer, logits)


def _asked(of: Answers, student: Student, logits: Floats, level: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    asked: np.ndarray[Any, np.dtype[np.bool_]] = of.english & (
        probabilities(logits).max(axis=1).round(4) < student.thresholds[level]
    )
    return asked


def _at_level(
    splits: dict[str, list[Labelled]], answers: dict[str, Answers], student: Student, level: int
) -> dict[str, float | None]:
    of, rows = answers[TWEETS], splits[TWEETS]
    measures = measure(rows, _cascade(of, student, of.students[0], level))
    share = float(_asked(of, student, of.students[0], level).mean())
    return {"transformer_share": round(share, 4)} | {
        name: measures[name] for name in ("accuracy", "macro_recall", "ece")
    }


def _speeds(transformer: Transformer, student: Student, splits: dict[str, list[Labelled]]) -> dict[str, Any]:
    """Path -> speed at tweet length, and by length; one text at a time but for the student's rate, in batches."""
    analyser = SentimentIntensityAnalyzer()
    long = [row.text for name in splits if name.startswith("uci_imdb") for row in splits[name]]
    joined = [" ".join(long[i : i + 8]) for i in range(0, len(long), 8)]
    texts = {"tweet": [row.text for row in splits[TWEETS]], "sentence": long, "review": joined}
    found: dict[str, Any] = {}
    for path, score in (
        ("transformer", lambda batch: [transformer.score(text) for text in batch]),
        ("student", student.score_many),
        ("cascade", _at_half().score_many),
        ("vader", lambda batch: [analyser.polarity_scores(text) for text in batch]),
    ):
        lengths = {length: _speed(score, of[:TIMED], of if path == "student" else None) for length, of in texts.items()}
        found[path] = lengths["tweet"] | {"by_length": lengths}
    return found


def _at_half() -> Cascade:
    cascade = Cascade(level=HALF)
    cascade.load()
    return cascade


def _speed(score: Callable[[Sequence[str]], Any], texts: list[str], many: list[str] | None) -> dict[str, float]:
    taken = []
    for text in texts:
        begun = time.perf_counter()
        score([text])
        taken.append(time.perf_counter() - begun)
    rate = 1 / float(np.mean(taken))
    if many is not None:
        begun = time.perf_counter()
        for start in range(0, len(many), AT_ONCE):
            score(many[start : start + AT_ONCE])
        rate = len(many) / (time.perf_counter() - begun)
    return {
        "texts_per_second": round(rate, 1),
        "p50_seconds": round(float(np.quantile(taken, 0.5)), 6),
        "p99_seconds": round(float(np.quantile(taken, 0.99)), 6),
    }


def tables(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    machine = found["machine"]
    lines = [
        f"Transformer `{found['models']['transformer']}`, student `{'`, `'.join(found['models']['student'])}`, on one "
        f"core of {machine['processor']} ({'with' if machine['vnni'] else 'without'} VNNI). The cascade is at level "
        f"{HALF}.",
        "",
        "| test texts | path | accuracy | binary accuracy | macro recall | ECE | texts |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, paths in found["splits"].items():
        for path, of in paths.items():
            cells = [_cell(of[key]) for key in ("accuracy", "binary_accuracy", "macro_recall", "ece")]
            lines.append(f"| {name} | {path} | {' | '.join(cells)} | {of['texts']} |")
    lines += ["", "| level | transformer's share of tweets | accuracy | macro recall | ECE |", "|---|---|---|---|---|"]
    for level, of in found["levels"].items():
        cells = [_cell(of[key]) for key in ("transformer_share", "accuracy", "macro_recall", "ece")]
        lines.append(f"| {level} | {' | '.join(cells)} |")
    lines += ["", "| path | length | texts a second | median, ms | p99, ms |", "|---|---|---|---|---|"]
    for path, speed in found["paths"].items():
        for length, of in speed["by_length"].items():
            times = f"{of['p50_seconds'] * 1e3:.2f} | {of['p99_seconds'] * 1e3:.2f}"
            lines.append(f"| {path} | {length} | {of['texts_per_second']:,.0f} | {times} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def write(page: Path, text: str) -> None:
    """Put `text` between the marks of a page. Raises `ValueError` when it has none."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: no place for figures, expected the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _processor() -> str:
    return _from_cpuinfo("model name") or platform.processor() or platform.machine()


def _has_vnni() -> bool:
    return "vnni" in _from_cpuinfo("flags")


def _from_cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    folder = os.environ.get("NUDGE_DATA")
    parser.add_argument("--data", type=Path, default=folder, help="default: $NUDGE_DATA")
    parser.add_argument("--student", type=Path, action="append", help="a student's folder; means of several")
    parser.add_argument("--limit", type=int, help="only so many texts of a split")
    parser.add_argument("--write", type=Path, help="a page between whose marks the tables go")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
