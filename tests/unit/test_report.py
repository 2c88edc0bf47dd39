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
from models.outcomes.curve import BLOCKS, FIRST
from models.outcomes.evaluation import Evaluation, EvaluationState, log_loss
from models.outcomes.learner import OutcomeLearner
from models.outcomes.policies import Wait
from models.outcomes.regression import Regression
from models.outcomes.report import OutcomeReport, report_contest, report_learner
from stream.commands import CommandError
from stream.commands.charts import draw_calibration, draw_drift, draw_losses
from stream.commands.report import print_report, write_page
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
