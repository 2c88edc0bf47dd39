"""Reports on outcomes: the numbers are the evaluation's, the curve stays small, and the page asks for nothing."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from models.outcomes.contest import Contest, Contestant
from models.outcomes.curve import BLOCKS, FIRST, Point
from models.outcomes.evaluation import Evaluation, EvaluationState, log_loss
from models.outcomes.grade import Quality, grade_data
from models.outcomes.learner import OutcomeLearner
from models.outcomes.policies import Wait
from models.outcomes.regression import Regression
from models.outcomes.report import OutcomeReport, find_trend, report_contest, report_learner
from models.outcomes.shift import BLOCK, EVERY
from stream.commands import CommandError
from stream.commands.charts import draw_calibration, draw_drift, draw_losses
from stream.commands.report import describe_health, print_report, write_page
from tests.unit.test_outcomes_contest import delayed


def taught(rows: int) -> OutcomeLearner:
    learner = OutcomeLearner("buy", ("a", "b"), "s1")
    for each in delayed(0.2, rows, 100):
        served = msgspec.structs.replace(each, prediction=0.3, channel="email" if each.offset % 3 else "push")
        learner.learn(served)
    return learner


@pytest.fixture(scope="module")
def learner() -> OutcomeLearner:
    return taught(1_500)


@pytest.fixture(scope="module")
def report(learner: OutcomeLearner) -> OutcomeReport:
    return report_learner(learner)


def judged(rows: int, seed: int = 3) -> tuple[Evaluation, list[tuple[float, int]]]:
    chance = random.Random(seed)
    pairs = [(p := chance.random(), int(chance.random() < p)) for _ in range(rows)]
    evaluation = Evaluation()
    for prediction, label in pairs:
        evaluation.add(prediction, label)
    return evaluation, pairs


def test_a_report_holds_what_the_evaluations_say(learner: OutcomeLearner, report: OutcomeReport) -> None:
    assert (report.outcome, report.champion, report.cold) == ("buy", learner.champion, False)
    assert report.rows == learner.rows
    assert [each.name for each in report.judged] == ["served", *learner.championship.names]
    assert {each.name: each.metrics for each in report.contestants} == learner.contest.metrics()
    served = report.served
    assert served.metrics == learner.served.metrics()
    assert served.metrics["rows"] == report.rows["matured"] == 1_500
    assert served.segments.keys() == {"channel=email", "channel=push"}
    assert sum(of.rows for of in served.segments.values()) == 1_500
    assert [part.rows for part in served.deciles] == [150] * 10
    assert report.evidence == learner.championship.evidence()


def test_nothing_of_a_report_moves_with_the_learner() -> None:
    learner = taught(700)
    report = report_learner(learner)
    before = msgspec.json.encode(report)
    for each in delayed(0.2, 300, 100, seed=8):
        learner.learn(each)
    assert msgspec.json.encode(report) == before


def test_a_contest_without_a_champion_can_be_reported() -> None:
    contest = Contest([Contestant("wait", Regression(2), Wait())])
    for each in delayed(0.2, 600, 100):
        contest.take(each)
    report = report_contest("buy", contest, Evaluation(), {"matured": contest.matured})
    assert (report.champion, report.threshold, report.rows) == (None, None, {"matured": 600})
    assert report.served.metrics["rows"] == 0
    assert report.contestants[0].metrics["rows"] == 600 - 299  # so many were exposed when 200 had matured


def test_a_curve_adds_up_to_the_whole_run() -> None:
    evaluation, pairs = judged(1_000)
    curve = evaluation.curve()
    assert [point.rows for point in curve] == [FIRST] * (1_000 // FIRST) + [1_000 % FIRST]
    assert curve[-1].until == 1_000
    metrics = evaluation.metrics()
    for name in ("log_loss", "base_log_loss"):
        whole = math.fsum(getattr(point, name) * point.rows for point in curve) / 1_000
        assert whole == pytest.approx(metrics[name], rel=1e-12)
    third = pairs[2 * FIRST : 3 * FIRST]
    assert curve[2].log_loss == pytest.approx(math.fsum(log_loss(*pair) for pair in third) / FIRST)
    assert curve[2].calibration_ratio == pytest.approx(sum(p for p, _ in third) / sum(y for _, y in third))


def test_a_curve_stays_small_and_its_blocks_equally_long() -> None:
    evaluation = Evaluation()
    for number in range(20_000):
        evaluation.add(0.25, int(number % 4 == 0))
        assert len(evaluation.curve()) <= BLOCKS
    curve = evaluation.curve()
    assert len(curve) > BLOCKS // 2
    assert {point.rows for point in curve[:-1]} == {512}
    assert {point.calibration_ratio for point in curve[:-1]} == {1.0}
    assert curve[-1].until == 20_000


def test_a_block_without_a_positive_has_no_ratio() -> None:
    evaluation = Evaluation()
    evaluation.add(0.1, 0)
    assert evaluation.curve()[0].calibration_ratio is None


@pytest.mark.parametrize("rows", [0, 7, FIRST * BLOCKS, FIRST * BLOCKS + 1, 3_000])
def test_a_restored_curve_goes_on_to_the_bit(rows: int) -> None:
    undisturbed, _ = judged(rows)
    data = msgspec.msgpack.encode(undisturbed.state())
    resumed = Evaluation.restore(msgspec.msgpack.decode(data, type=EvaluationState))
    for evaluation in (undisturbed, resumed):
        for number in range(1_500):
            evaluation.add(1.0 / (number + 2), number % 2)
    assert msgspec.msgpack.encode(resumed.state()) == msgspec.msgpack.encode(undisturbed.state())


def test_a_state_of_before_there_were_curves_begins_one() -> None:
    evaluation, _ = judged(100)
    old = msgspec.to_builtins(evaluation.state())
    del old["curve"]
    resumed = Evaluation.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=EvaluationState))
    assert resumed.curve() == []
    resumed.add(0.5, 1)
    assert resumed.metrics()["rows"] == 101
    assert [point.rows for point in resumed.curve()] == [1]


def test_tables_name_everybody_and_the_champion(report: OutcomeReport, capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report)
    printed = capsys.readouterr().out
    assert printed.startswith(f"buy: champion {report.champion}, crowned {report.crowned} times; 1,500 exposed, ")
    assert all(f"\n {each.name} " in printed for each in report.judged)
    assert str(round(report.contestants[0].metrics["log_loss"], 4)) in printed


def test_a_report_says_what_the_champion_goes_by(learner: OutcomeLearner, report: OutcomeReport) -> None:
    """Would have caught: weights of nothing, or of the wrong columns."""
    scorer = learner.scorer()
    assert scorer is not None
    rows = learner.shift.rows().tolist()
    assert len(rows) == 1_500 // EVERY
    # Twice as likely where the first feature is 1; the second means nothing.
    assert [each.name for each in report.features] == ["a", "b"]
    sizes = [abs(moved.contribution) for row in rows for moved in scorer.contributions(row, 2) if moved.name == "a"]
    assert report.features[0].importance == pytest.approx(math.fsum(sizes) / len(rows))
    assert report.features[0].psi is None
    assert report.features[1].share == 1 / len(rows)
    assert report.features[0].share == pytest.approx(0.5, abs=0.1)


def test_a_cold_learner_goes_by_nothing() -> None:
    report = report_learner(OutcomeLearner("buy", ("a",), "s1"))
    assert (report.features, report.trend) == ([], None)
    assert report.quality == Quality(
        "C", [f"0 {kind} labels judged so far: a model needs 100 or more" for kind in ("positive", "negative")]
    )


def points(*losses: float) -> list[Point]:
    return [Point((place + 1) * 200, 200, loss, 0.5, 1.0) for place, loss in enumerate(losses)]


def test_a_trend_compares_the_newest_quarter_with_the_one_before() -> None:
    assert find_trend(points(0.9, 0.9, 0.9, 0.9, 0.4, 0.4, 0.3, 0.3)) == pytest.approx(0.2)
    assert find_trend(points(0.1, 0.1, 0.1, 0.1, 0.3, 0.3, 0.4, 0.4)) == pytest.approx(-0.2)
    assert find_trend(points(0.4, 0.3)) is None
    assert find_trend([]) is None


def test_data_is_graded_by_what_is_found(learner: OutcomeLearner) -> None:
    assert grade_data(learner) == Quality("A", [])
    poor = OutcomeLearner("buy", ("a", "b", *[f"silent{n}" for n in range(6)]), "s1")
    found = []
    for each in delayed(0.2, 3 * EVERY * BLOCK, 100):
        a, b = each.features
        moved = 3.0 if each.offset >= 2 * EVERY * BLOCK else 0.0
        stored = None if each.offset % 10 == 0 else 0.3
        poor.learn(msgspec.structs.replace(each, features=(a, b + moved, *[1.0] * 6), prediction=stored))
        if each.stage == "exposed" and each.offset in (350, 3_000, 3 * EVERY * BLOCK - 1):
            found.append(grade_data(poor))
    unscored = "10% of the matured labels have no stored prediction"
    silent = "6 of 8 columns never change: silent0, silent1, silent2, silent3, silent4, ..."
    few, some, many = found
    assert (few.grade, few.findings[1:]) == ("C", [unscored])
    assert few.findings[0].endswith(" positive labels judged so far: a model needs 100 or more")
    assert some == Quality("C", [unscored, silent])
    assert many == Quality("D", [unscored, silent, "1 columns have shifted: b"])


def test_health_is_told_in_words(report: OutcomeReport) -> None:
    assert describe_health(report)[0] == "data quality A: nothing found"
    told = msgspec.structs.replace(
        report,
        quality=Quality("B", ["1 columns have shifted: b"]),
        trend=-0.031,
        drifts=2,
        drift_severity=0.0724,
        shifts=1,
        shift_severity=0.418,
    )
    assert describe_health(told) == [
        "data quality B: 1 columns have shifted: b",
        "trend worse: -0.031 relative cross-entropy, newest quarter against the one before",
        "2 drifts of what the champion gets wrong, the last by 0.072",
        "1 shifts of the features, the last by an index of 0.42",
    ]
    assert describe_health(msgspec.structs.replace(report, trend=0.019))[1].startswith("trend steady: +0.019")


def test_a_chart_is_a_picture_and_the_same_each_time(report: OutcomeReport) -> None:
    for draw in (draw_calibration, draw_losses, draw_drift):
        picture = draw(report)
        assert picture == draw(report)
        root = ElementTree.fromstring(picture)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        texts = {node.text for node in root.iter()}
        assert {each.name for each in report.judged} <= texts
        assert "script" not in picture


def test_charts_can_be_drawn_of_nothing() -> None:
    report = report_learner(OutcomeLearner("buy", ("a",), "s1"))
    for draw in (draw_calibration, draw_losses, draw_drift):
        assert draw(report).startswith("<svg")


def test_the_page_is_whole_and_fetches_nothing(report: OutcomeReport, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    odd = msgspec.structs.replace(report, outcome='"><script>alert(1)</script>')
    write_page(file, "A & B", {"file": "<log>", "rows": 1_500}, [report, odd])
    page = file.read_text()
    assert page.count("<svg") == 6
    assert "<h1>A &amp; B</h1>" in page
    assert "&lt;log&gt;" in page
    assert "1,500" in page
    assert "<h3>Features, " in page
    assert "data quality A: nothing found" in page
    assert "<script" not in page
    assert "default-src 'none'" in page
    linked = page.replace("http://www.w3.org/2000/svg", "")
    assert not any(word in linked for word in ("http:", "https:", "src=", "@import", "xml-stylesheet"))


def test_a_page_that_can_not_be_written_is_told(report: OutcomeReport, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="name a file that can be written"):
        write_page(tmp_path / "none" / "page.html", "t", {}, [report])


def test_what_draws_leaves_no_finder_behind() -> None:
    """Would have caught: a warning, and so an error here, at every import that comes later."""
    assert not [finder for finder in sys.meta_path if not hasattr(finder, "find_spec")]
