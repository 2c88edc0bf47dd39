"""`nudge sentiment`: any file of texts, the benchmark's figures, and errors that name the column and what to do."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from models.sentiment import Cascade, Student, Transformer
from models.sentiment.corpus import Labelled
from models.sentiment.evaluation import LABELS, probabilities, recover
from models.sentiment.text import normalise
from stream.cli import app
from tests.benchmarks.sentiment import _cascade, answer, measure

ROWS: list[dict[str, Any]] = [
    {"text": "I love this phone, the battery lasts for days!", "label": "positive", "lang": "en"},
    {"text": 'The food was cold, and the waiter said "so what".\nRude.', "label": "negative", "lang": "en"},
    {"text": "They will open the new shop in London on Tuesday morning.", "label": "neutral", "lang": "en"},
    {"text": "Ich liebe dieses Handy, einfach super und sehr schnell!", "label": "positive", "lang": "de"},
    {"text": "La comida estaba fría; el camarero, muy antipático.", "label": "negative", "lang": "es"},
    {"text": "It is not what I had expected, but then I did not expect much.", "label": "neutral", "lang": "en"},
]


def write_csv(file: Path, rows: list[dict[str, Any]], **how: Any) -> Path:
    with file.open("w", encoding="utf-8-sig", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), **how)
        writer.writeheader()
        writer.writerows(rows)
    return file


def write_json(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_packed(file: Path, rows: list[dict[str, Any]]) -> Path:
    with gzip.open(file, "wt") as lines:
        lines.write("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_parquet(file: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "reviews.csv": write_csv,
    "semicolons.csv": lambda file, rows: write_csv(file, rows, delimiter=";"),
    "reviews.tsv": lambda file, rows: write_csv(file, rows, delimiter="\t"),
    "reviews.jsonl": write_json,
    "reviews.ndjson.gz": write_packed,
    "reviews.parquet": write_parquet,
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["sentiment", *map(str, arguments)])


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No nudge.yaml of the machine."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_answer(name: str, tmp_path: Path) -> None:
    file = WRITERS[name](tmp_path / name, ROWS)
    result = run(file, "--json", "--level", "2", "--out", tmp_path / "scores.jsonl")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["scored"], report["texts"], report["failures"], report["level"]) == (6, 6, 0, 2)
    assert report["languages"].keys() == {"de", "en", "es"}

    wanted = Cascade(level=2).score_many([row["text"] for row in ROWS], [row["lang"] for row in ROWS])
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [(line["row"], line["score"], line["source"], line["model"]) for line in lines] == [
        (number, each.score, each.source, each.model) for number, each in enumerate(wanted, 1)
    ]
    assert "phone" not in (tmp_path / "scores.jsonl").read_text()


@pytest.mark.parametrize("level", [0, 2, 4])
@pytest.mark.parametrize("neutral", [True, False])
def test_the_figures_are_those_of_the_benchmark(tmp_path: Path, level: int, neutral: bool) -> None:
    # given labelled texts whose language is not told, as in the benchmark
    rows = [row for row in ROWS if neutral or row["label"] != "neutral"]
    source = "umsab" if neutral else "sst2"
    labelled = [Labelled(source, normalise(row["text"]), LABELS.index(row["label"])) for row in rows]
    student = Student.load()
    found = answer(labelled, Transformer.load(), [student])
    wanted = measure(labelled, _cascade(found, student, found.students[0], level))
    # when they are judged from a file
    file = write_csv(tmp_path / "a.csv", [{"text": row["text"], "label": row["label"].upper()} for row in rows])
    report = json.loads(run(file, "--json", "--level", str(level)).stdout)
    # then the figures agree, but for the fifth digit of a probability
    assert report["texts"] == len(rows)
    assert {name: report[name] for name in wanted} == pytest.approx(wanted, abs=2e-4)


def test_a_table_is_for_people_and_without_labels_nothing_is_judged(tmp_path: Path) -> None:
    labelled = run(write_csv(tmp_path / "a.csv", ROWS), "--level", "4")
    assert labelled.exit_code == 0
    assert all(name in labelled.stdout for name in ("accuracy", "binary_accuracy", "macro_recall", "ece"))
    plain = run(write_json(tmp_path / "b.jsonl", [{"text": "Fine."}, {"text": ""}, {"text": None}]), "--level", "4")
    assert "texts 1 (" in plain.stdout
    assert "empty 2" in plain.stdout
    assert "accuracy" not in plain.stdout


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    rows = [{"tweet": row["text"], "gold": row["label"][:3], "label": "whatever"} for row in ROWS]
    file = write_parquet(tmp_path / "a.parquet", rows)
    report = json.loads(run(file, "--text", "tweet", "--label", "gold", "--level", "4", "--json").stdout)
    assert report["texts"] == 6
    assert "accuracy" in report
    passed_over = json.loads(run(file, "--text", "tweet", "--label", "", "--level", "4", "--json").stdout)
    assert "accuracy" not in passed_over


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"review,label\nFine.,positive\n", ["no column text", "found review, label", "--text"]),
        ("a.csv", b"", ["no column text", "found none"]),
        ("a.csv", b"text,label\nFine.,5\n", ["row 1, label", "'5'", "negative, neutral or positive", "--label"]),
        ("a.csv", b"text\n\n", ["no text in column text"]),
        ("a.csv", "text\nDéjà vu\n".encode("latin-1"), ["not UTF-8", "iconv"]),
        ("a.jsonl", b'{"text": "Fine."}\n{"body": "Bad."}\n', ["row 2", "found body", "--text"]),
        ("a.jsonl", b'{"text": 5}\n', ["row 1, text", "found int"]),
        ("a.jsonl", b"[]\n", ["row 1", "found list"]),
        ("a.jsonl", b"{\n", ["row 1", "not JSON"]),
        ("a.parquet", b"PAR", ["can't be read as what its name says"]),
        ("a.csv.gz", b"text\n", ["Not a gzipped file"]),
        ("a.xlsx", b"", [".xlsx", "expected .csv"]),
    ],
)
def test_what_cannot_be_read_is_told_with_its_column_and_what_to_do(
    tmp_path: Path, name: str, content: bytes, said: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    result = run(tmp_path / name, "--level", "4")
    assert result.exit_code == 1
    assert [words for words in said if words not in result.stderr] == []
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) == 1


def test_a_missing_file_a_missing_column_and_an_output_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "a.csv", ROWS)
    for arguments, said in (
        ((tmp_path / "none.csv",), "No such file"),
        ((file, "--label", "gold"), "there is no column gold"),
        ((file, "--out", tmp_path / "no" / "folder"), "name a file that can be written"),
    ):
        result = run(*arguments, "--level", "4")
        assert (result.exit_code, said in result.stderr) == (1, True), result.stderr


def test_a_transformer_that_cannot_be_loaded_is_an_error_and_the_student_alone_is_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUDGE_SENTIMENT_FOLDER", str(tmp_path / "none"))
    file = write_csv(tmp_path / "a.csv", ROWS)
    failed = run(file)
    assert failed.exit_code == 1
    assert "sentiment.folder" in failed.stderr
    assert "--level 4" in failed.stderr
    assert run(file, "--level", "4").exit_code == 0


def test_the_level_of_the_settings_counts_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUDGE_SENTIMENT_LEVEL", "4")
    file = write_csv(tmp_path / "a.csv", ROWS)
    assert json.loads(run(file, "--json").stdout)["level"] == 4
    assert json.loads(run(file, "--json", "--level", "3").stdout)["level"] == 3


def test_probabilities_come_back_from_what_a_scorer_says() -> None:
    for scorer in (Transformer.load(), Student.load()):
        for row in ROWS:
            found = scorer.score(row["text"])
            recovered = recover(found.score, found.confidence, found.label)
            assert sum(recovered) == pytest.approx(1.0, abs=1e-3)
            assert recovered[LABELS.index(found.label)] == pytest.approx(max(recovered), abs=1e-3)
            assert recovered[2] - recovered[0] == pytest.approx(found.score, abs=1e-3)
    student = Student.load()
    logits = student.logits([row["text"].replace("\n", " ") for row in ROWS])
    wanted = probabilities(logits)
    for row, each in zip(ROWS, wanted, strict=True):
        found = student.score(row["text"])
        assert recover(found.score, found.confidence, found.label) == pytest.approx(tuple(each), abs=2e-4)
