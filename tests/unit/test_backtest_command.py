"""`nudge backtest` and `nudge train`: real files in, figures and pages out, and errors that say what to do."""

from __future__ import annotations

import csv
import gzip
import json
import random
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from models.lifecycle.snapshot import Snapshot, SnapshotRefused, open_sealed
from models.outcomes.learner import OutcomeLearner
from models.outcomes.scorers import open_scorer
from schemas.privacy import PURPOSES
from stream.cli import app
from stream.commands.tables import Columns, read_table
from stream.sample.log import SampleLog
from tests.unit.factories import NOON, event

KEY = "k" * 32
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No nudge.yaml of the machine."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [command, *map(str, arguments)])


def report(*arguments: str | Path) -> dict[str, Any]:
    result = run("backtest", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def complaint(*arguments: str | Path) -> str:
    result = run("backtest", *arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def visits(number: int, seed: int = 1) -> list[Row]:
    """Who comes by mail buys more often; ages are missing now and then."""
    chance = random.Random(seed)
    rows = []
    for place in range(number):
        source = chance.choice(("mail", "web", "shop"))
        age = chance.randrange(18, 80)
        bought = chance.random() < {"mail": 0.6, "web": 0.15, "shop": 0.3}[source]
        day = datetime.fromtimestamp(1_700_000_000 + place * 3_600, UTC).isoformat()
        rows.append({"day": day, "source": source, "age": None if place % 10 == 3 else age, "bought": int(bought)})
    return rows


def write_csv(file: Path, rows: list[Row], **how: Any) -> Path:
    with gzip.open(file, "wt", newline="") if file.suffix == ".gz" else file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), **how)
        writer.writeheader()
        writer.writerows(rows)
    return file


def write_parquet(file: Path, rows: list[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


WRITERS: dict[str, Callable[[Path, list[Row]], Path]] = {
    "a.csv": write_csv,
    "a.tsv": lambda file, rows: write_csv(file, rows, delimiter="\t"),
    "a.csv.gz": lambda file, rows: write_csv(file, rows, delimiter=";"),
    "a.parquet": write_parquet,
}


def shop_log(file: Path, number: int = 1_200, people: int = 40) -> Path:
    """Purchases of 40 people an hour apart: whoever has an even number comes back within the month, mostly."""
    chance = random.Random(9)
    lines = []
    for place in range(number):
        who = int(people * chance.random() ** 2)
        draft = event(f"u{who}").at(NOON + place * 3_600_000).of_type("purchase").known_as(f"e{place}")
        lines.append(draft.having(session_id=f"s{place}", item_id=f"i{place % 9}", channel="web").as_json())
    data = b"\n".join(lines) + b"\n"
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


def test_a_table_is_read_as_floats_in_the_order_of_its_times(folder: Path) -> None:
    rows = [
        {"day": "2026-01-03", "plan": "b", "age": "", "gone": "no", "id": "z"},
        {"day": "2026-01-01", "plan": "a", "age": "20", "gone": "Yes", "id": "y"},
        {"day": "2026-01-02T12:00:00Z", "plan": "", "age": "30", "gone": "TRUE", "id": "x"},
        {"day": "2026-01-04", "plan": "a", "age": "40", "gone": "", "id": "w"},
    ]
    table = read_table([write_csv(folder / "a.csv", rows)], Columns("gone", "day", ("id",)))
    assert (table.names, table.categorical) == (("plan", "age", "age missing"), (0,))
    code = {text: float(crc32(text.encode())) for text in ("a", "b", "")}
    assert table.rows.features == [(code["a"], 20.0, 0.0), (code[""], 30.0, 0.0), (code["b"], 25.0, 1.0)]
    assert table.rows.labels == [1, 1, 0]
    assert np.diff(table.rows.times).tolist() == [36 * 3_600_000, 12 * 3_600_000]
    assert (table.missing, table.unlabelled) == ({"plan": 1, "age": 1}, 1)


def test_every_kind_of_table_gives_the_same_answer(folder: Path) -> None:
    rows = visits(400)
    found = []
    for name, write in WRITERS.items():
        of = report(write(folder / name, rows), "--label", "bought", "--time", "day", "--delay", "2d")
        assert [of.pop(each) is not None for each in ("files", "seconds")] == [True, True]
        found.append(of)
    assert all(of == found[0] for of in found)
    of = found[0]
    assert (of["rows"], of["positives"], of["unlabelled"]) == (400, sum(row["bought"] for row in rows), 0)
    assert (of["columns"], of["categories"]) == (["source", "age", "age missing"], ["source"])
    assert of["missing"] == {"age": 40}
    assert of["examples"] == 2 * 400 + of["positives"]
    outcome = of["outcomes"][0]
    assert (outcome["outcome"], outcome["cold"]) == ("bought", False)
    assert outcome["rows"] == {"exposed": 400, "fulfilled": of["positives"], "matured": 400}
    judged = {each["name"]: each["metrics"] for each in outcome["contestants"]}
    # with two days of 24 rows open, so many were exposed when 200 labels had matured
    assert {metrics["rows"] for metrics in judged.values()} == {400.0 - 247.0}
    assert sum(point["rows"] for point in outcome["contestants"][0]["curve"]) == 153


def test_tables_of_several_files_are_one(folder: Path) -> None:
    rows = visits(300)
    whole = report(write_csv(folder / "a.csv", rows), "--label", "bought", "--time", "day")
    parts = [write_csv(folder / f"{name}.csv", part) for name, part in (("c", rows[200:]), ("b", rows[:200]))]
    split = report(*parts, "--label", "bought", "--time", "day")
    assert split["outcomes"] == whole["outcomes"]


def test_people_get_tables_and_a_page(folder: Path) -> None:
    file = write_csv(folder / "a.csv", visits(400))
    result = run("backtest", file, "--label", "bought", "--leave-out", "day", "--html", folder / "page.html")
    assert result.exit_code == 0, result.output
    assert "rows            400" in result.stdout
    assert "missing         age 40" in result.stdout
    assert "bought: champion f4-wait" in result.stdout
    page = (folder / "page.html").read_text()
    assert page.count("<svg") == 3
    assert "<script" not in page


def test_a_trained_table_can_be_opened_scored_and_learned_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUDGE_MODELS_SNAPSHOT_KEY", KEY)
    file = write_csv(folder / "a.csv", visits(600))
    columns = Columns("bought", None, ("day",))
    result = run("train", file, "--label", "bought", "--leave-out", "day", "--out", folder / "models")
    assert result.exit_code == 0, result.output
    (written,) = (folder / "models").iterdir()
    assert f"written {written}" in result.stdout
    snapshot = open_sealed(written.read_bytes(), KEY.encode())
    learner = OutcomeLearner.from_bytes(snapshot.learning)
    assert (snapshot.model, snapshot.version) == ("bought", sum(learner.rows.values()) - 1)
    scorer = open_scorer(snapshot.scoring)
    table = read_table([file], columns)
    assert scorer.names == table.names
    by_source = {
        source: scorer.score_one((float(crc32(source.encode())), 40.0, 0.0)) for source in ("mail", "web", "shop")
    }
    assert by_source["mail"] > by_source["shop"] > by_source["web"]
    with pytest.raises(SnapshotRefused):
        open_sealed(written.read_bytes(), b"another key, of 16 bytes at least")


def test_a_log_is_played_and_learned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUDGE_MODELS_SNAPSHOT_KEY", KEY)
    monkeypatch.setenv("NUDGE_OUTCOMES", '[{"window": "3d"}]')
    file = shop_log(folder / "log.jsonl.gz")
    result = run("train", file, "--out", folder / "models", "--json", "--every", "400")
    assert result.exit_code == 0, result.output
    of = json.loads(result.stdout)
    assert (of["lines"], of["people"], of["scored"], of["dead_letters"]) == (1_200, 40, 1_200, {})
    outcome = of["outcomes"][0]
    rows = outcome["rows"]
    assert of["open_windows"] == rows["exposed"] - rows["matured"] > 0
    assert of["examples"] == sum(rows.values()) + 1_200  # one interaction an order
    assert of["swaps"] > 0
    assert outcome["served"]["metrics"]["rows"] > 100
    assert outcome["served"]["segments"].keys() == {"channel=web"}
    kept: dict[str, Snapshot] = {}
    for each in (folder / "models").iterdir():
        snapshot = open_sealed(each.read_bytes(), KEY.encode())
        kept[snapshot.model] = snapshot
    assert kept.keys() == {"conversion", "recommend"}
    assert {snapshot.version for snapshot in kept.values()} == {of["examples"] - 1}
    assert OutcomeLearner.from_bytes(kept["conversion"].learning).rows == rows


def test_broken_lines_are_counted_and_the_first_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUDGE_OUTCOMES", '[{"window": "1d"}]')
    file = shop_log(folder / "log.jsonl", 120)
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:70], b"", b'{"event_id": 1}', b"{", *lines[70:]]))
    of = report(file)
    assert sum(of["dead_letters"].values()) == 2
    assert list(of["first_refused"]) == [f"{file}, line 72"]
    assert of["lines"] == 122


def test_consents_open_a_log_to_those_who_granted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUDGE_OUTCOMES", '[{"window": "1d"}]')
    file = shop_log(folder / "log.jsonl", 200)
    assert "--consents" in complaint(file, "--consent", "required")
    grants = folder / "consents.jsonl"
    request = {"request_id": "r", "user_id": "u0", "ts": NOON - 1, "consent": dict.fromkeys(PURPOSES, True)}
    grants.write_text(json.dumps(request) + "\n")
    of = report(file, "--consent", "required", "--consents", grants, "--partitions", "3")
    assert of["scored"] == sum(b'"u0"' in line for line in file.read_bytes().splitlines())
    assert of["scored"] + of["denied"] == 200


@pytest.mark.parametrize(
    ("content", "arguments", "parts"),
    [
        ("", ["--label", "y"], ["a.csv: found nothing"]),
        ("x,y\n", ["--label", "y"], ["a.csv: there is no row under the header"]),
        ("x,z\n1,0\n", ["--label", "y"], ["a.csv: there is no column y (found x, z)", "--label"]),
        ("x,y\n1,0\n2,maybe\n", ["--label", "y"], ["a.csv, line 3, column y: found 'maybe', expected 0 or 1"]),
        ("x,y\n1,\n2,\n", ["--label", "y"], ["a.csv, column y: no row has a label"]),
        ("x,y\n1,0,3\n", ["--label", "y"], ["a.csv, line 2: found 3 cells, expected 2"]),
        ("x,x,y\n1,0,3\n", ["--label", "y"], ["a.csv: two columns are called 'x'"]),
        ("y\n1\n", ["--label", "y"], ["a.csv: there is no column beside y"]),
        ("t,x,y\nsoon,1,1\n", ["--label", "y", "--time", "t"], ["line 2, column t: found 'soon'", "--time"]),
        ("x,y\n1,1\n", ["--label", "y", "--delay", "3d"], ["--time"]),
        ("x,y\n1,1\n", [], ["a.csv: a table", "--label"]),
    ],
)
def test_a_table_that_can_not_be_used_is_told(
    content: str, arguments: list[str], parts: list[str], folder: Path
) -> None:
    (folder / "a.csv").write_text(content)
    told = complaint("a.csv", *arguments)
    assert all(part in told for part in parts), told


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["log.jsonl: found no line"]),
        (b"{\n", ["log.jsonl, line 1", "1 lines of 1"]),
        (event().as_json(), ["no event opened a window", "exposure", "roles"]),
        (event().of_type("purchase").as_json(), ["no label has matured", "30 days"]),
    ],
)
def test_a_log_that_gives_no_label_is_told(content: bytes, parts: list[str], folder: Path) -> None:
    (folder / "log.jsonl").write_bytes(content)
    told = complaint("log.jsonl")
    assert all(part in told for part in parts), told


def test_what_can_not_be_read_or_written_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "none.jsonl: can't be read (No such file" in complaint("none.jsonl")
    assert "none.csv: No such file" in complaint("none.csv", "--label", "y")
    (folder / "bad.parquet").write_bytes(b"no parquet")
    assert "bad.parquet: can't be read as what its name says" in complaint("bad.parquet", "--label", "y")
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 1_000)[:-12])
    assert "cut.jsonl.gz: can't be read" in complaint("cut.jsonl.gz")
    assert "log.jsonl: --label is for tables" in complaint("log.jsonl", "--label", "y")
    assert "--label" in run("backtest", "a.jsonl", "--delay", "3d").stderr
    file = write_csv(folder / "a.csv", visits(30))
    assert "name a file that can be written" in complaint(file, "--label", "bought", "--html", "none/page.html")
    result = run("train", file, "--label", "bought", "--out", "models")
    assert result.exit_code == 1
    assert "NUDGE_MODELS_SNAPSHOT_KEY" in result.stderr
    monkeypatch.setenv("NUDGE_MODELS_SNAPSHOT_KEY", KEY)
    assert "a folder that can be written" in run("train", file, "--label", "bought", "--out", file).stderr


def test_few_rows_are_reported_as_too_few(folder: Path) -> None:
    of = report(write_csv(folder / "a.csv", visits(150)), "--label", "bought")
    assert of["outcomes"][0]["cold"]
    assert of["swaps"] == 0
    assert "too few labels" in run("backtest", folder / "a.csv", "--label", "bought").stdout


def test_entrants_are_judged_in_files_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUDGE_MODELS_ENTRANTS", '["tree-wait", "boosting-wait"]')
    of = report(write_csv(folder / "a.csv", visits(900)), "--label", "bought")
    judged = {each["name"]: each["metrics"]["rows"] for each in of["outcomes"][0]["contestants"]}
    assert judged["tree-wait"] == judged["boosting-wait"] == judged["f4-wait"] > 500
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert "models.entrants: no LightGBM" in complaint(folder / "a.csv", "--label", "bought")


def test_the_demos_log_teaches_a_model_that_is_calibrated_and_says_more_than_the_base_rate(folder: Path) -> None:
    """What the live demo may show depends on how fast it is replayed; what its log can teach does not."""
    (folder / "log.jsonl").write_bytes(b"\n".join(value for _, value, _ in SampleLog.load().events(25_000)))
    told = report("log.jsonl")
    assert told["people"] >= 1_000
    assert sum(told["triggers"].values()) >= 100
    served = told["outcomes"][0]["served"]["metrics"]
    assert served["rows"] > 5_000
    assert served["log_loss"] < 0.75 * served["base_log_loss"]
    assert served["calibration_ratio"] == pytest.approx(1.0, abs=0.1)
