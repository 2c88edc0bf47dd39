"""The sentiment benchmark: what it measures is what its names say, and its tables land between their marks."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vaderSentiment")
from models.sentiment import Cascade, Student, Transformer
from models.sentiment.corpus import Labelled
from models.sentiment.evaluation import probabilities
from models.sentiment.levels import LEVELS
from tests.benchmarks.sentiment import BEGIN, END, _cascade, answer, measure, write

ROWS = [
    Labelled("tweeteval", "I love this phone, the battery lasts for days!", 2),
    Labelled("tweeteval", "The food was cold and the waiter was rude to us.", 0),
    Labelled("tweeteval", "They will open the new shop in London on Tuesday.", 1),
    Labelled("umsab", "Ich liebe dieses Handy, einfach super und sehr schnell!", 2, "de"),
]


def test_measures_of_known_answers() -> None:
    # given a right answer, a neutral one where negative was right, and a positive one where neutral was
    logits = np.array([[0.0, 0.0, 9.0], [5.0, 9.0, 0.0], [0.0, 0.0, 9.0], [0.0, 0.0, 9.0]])
    # then neutral texts count for accuracy alone, and neutral answers are not there for the binary one
    found = measure(ROWS, logits)
    assert (found["accuracy"], found["binary_accuracy"], found["texts"]) == (0.5, 1.0, 4)
    assert found["macro_recall"] == pytest.approx(1 / 3, abs=1e-4)


def test_a_source_that_knows_no_neutral_is_not_asked_for_it() -> None:
    rows = [Labelled("sst2", "a", 0), Labelled("sst2", "b", 2)]
    found = measure(rows, np.array([[5.0, 9.0, 0.0], [0.0, 9.0, 5.0]]))
    assert (found["accuracy"], found["binary_accuracy"], found["macro_recall"]) == (0.0, 1.0, 1.0)


def test_the_cascade_that_is_measured_is_the_one_that_serves() -> None:
    student = Student.load()
    found = answer(ROWS, Transformer.load(), [student])
    for level in range(LEVELS):
        probability = probabilities(_cascade(found, student, found.students[0], level))
        served = Cascade(level=level).score_many([row.text for row in ROWS])
        assert [round(float(p[2] - p[0]), 4) for p in probability] == [s.score for s in served]


def test_tables_go_between_their_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(page, "new")
    write(page, "newer")
    assert page.read_text() == f"before\n{BEGIN}\nnewer\n{END}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="no place for figures"):
        write(page, "new")
