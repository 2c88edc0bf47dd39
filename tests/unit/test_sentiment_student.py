"""The student: a score depends on its text alone, to the bit, and training gives what serving reads."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.sentiment import Student, WeightsError, corpus, student_train
from models.sentiment.evaluation import LABELS
from models.sentiment.ngrams import BLOCK, BUCKETS, extract
from models.sentiment.student import FOLDER
from models.sentiment.student_card import card
from models.sentiment.text import normalise
from models.sentiment.transformer import WEIGHTS

CLEAR = [
    ("Ich liebe dieses Handy, einfach super!", "positive"),
    ("Das Essen war schlecht und der Service furchtbar.", "negative"),
    ("Muy buena comida, excelente servicio, me encanta!", "positive"),
    ("Qué asco, la peor comida y un servicio horrible.", "negative"),
    ("Excellent restaurant, très bon accueil, merci !", "positive"),
    ("Service très mauvais, quelle honte, à éviter.", "negative"),
    ("Adorei, muito bom, obrigado!", "positive"),
    ("Que merda, odeio isso, muito triste", "negative"),
    ("I love it, wonderful and great.", "positive"),
    ("Terrible, a boring waste of money.", "negative"),
]
ODD = [
    "",
    " ",
    "a",
    "😂😂😂",
    "\u202e\u0645\u0631\u062d\u0628\u0627",
    "good " * 100_000,
    "\ud800 bad",
    "x\x00y",
    "\u0915\u094d\u0937",
]
TEXTS = [text for text, _ in CLEAR] + ODD


@pytest.fixture(scope="module")
def student() -> Student:
    return Student.load()


# What a score depends on


def test_a_text_scores_alike_alone_and_in_any_batch(student: Student) -> None:
    # given each text scored alone
    many = [f"{text[:400]} {number}" for number in range(60) for text in TEXTS]
    alone = [student.score(text) for text in many]
    # when they are scored together, turned round, and in parts, across more than one pass
    # then every field is equal to the bit
    assert student.score_many(many) == alone
    assert student.score_many(many[::-1]) == alone[::-1]
    assert [s for i in range(0, len(many), 7) for s in student.score_many(many[i : i + 7])] == alone


@given(st.lists(st.text(max_size=60), min_size=1, max_size=8))
def test_the_grams_of_a_text_do_not_know_its_neighbours(texts: list[str]) -> None:
    lines = [normalise(text) for text in texts]
    together = extract(lines)
    for line, start, count in zip(lines, together.starts, together.counts, strict=True):
        alone = extract([line])
        assert together.buckets[start : start + count].tolist() == alone.buckets.tolist()
        assert alone.counts.tolist() == [len(alone.buckets)] == [len(set(alone.buckets.tolist()))]


# What the n-grams are


def test_characters_and_words_have_a_half_each() -> None:
    buckets = extract(["abc"]).buckets
    # " abc ": three of three characters, two of four, one of five; one word
    assert (buckets < BLOCK).sum() == 6
    assert ((buckets >= BLOCK) & (buckets < BUCKETS)).sum() == 1


def test_words_are_parted_by_blanks_and_signs() -> None:
    def words(line: str) -> list[int]:
        return [bucket for bucket in extract([line]).buckets.tolist() if bucket >= BLOCK]

    assert len(words("so good!")) == 3 + 2, "three words, two pairs"
    assert len(words("a 😀😡")) == 3 + 2
    assert set(words("good")) < set(words("so good!"))
    assert words("SOOOOO") == words("sooo")


def test_an_empty_text_has_no_grams() -> None:
    assert extract([""]).counts.tolist() == [0]


# What it says


def test_clear_sentences_mostly_get_their_label_in_five_languages(student: Student) -> None:
    right = [student.score(text).label == label for text, label in CLEAR]
    assert sum(right) >= len(CLEAR) - 2


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_get_a_score_in_range(student: Student, text: str) -> None:
    scored = student.score(text)
    assert -1.0 <= scored.score <= 1.0
    assert 0.3333 <= scored.confidence <= 1.0
    assert (scored.source, scored.model) == ("student", student.version)


def test_an_empty_text_is_neutral_without_doubt(student: Student) -> None:
    scored = student.score(" \u200b")
    assert (scored.score, scored.confidence, scored.label) == (0.0, 1.0, "neutral")


# What ships


def test_all_weights_together_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for folder in (WEIGHTS, FOLDER) for path in folder.iterdir()) <= 30_000_000


def test_the_report_speaks_of_the_student_that_ships(student: Student) -> None:
    report = json.loads((FOLDER / "report.json").read_text())
    assert report["model"] == student.version
    assert (FOLDER / "README.md").read_text() == card(report)
    validation = report["validation"]
    assert np.mean([validation[f"umsab {lang}"]["accuracy"] for lang in ("es", "de", "fr", "pt")]) >= 0.56
    assert not any(name.endswith(" it") for name in report["texts"]["train"] | report["texts"]["validation"])


def test_a_student_that_is_not_the_one_described_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "student"))
    with (folder / "student.npz").open("ab") as model:
        model.write(b"\0")
    with pytest.raises(WeightsError, match="SHA-256"):
        Student.load(folder)


@pytest.mark.parametrize("name", ["student.npz", "meta.json"])
def test_a_missing_file_is_a_weights_error(tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(FOLDER, tmp_path / "student"))
    (folder / name).unlink()
    with pytest.raises(WeightsError):
        Student.load(folder)


# How it is made


def test_what_is_trained_is_what_is_served_and_the_same_every_time(tmp_path: Path) -> None:
    # given texts in two languages of which some say what they mean
    told = [("gut", 2), ("schlecht", 0), ("ein Paket", 1), ("bien", 2), ("mal", 0), ("una caja", 1)]
    rows = [
        corpus.Labelled("umsab", f"{text} {end}", label, "de" if number < 3 else "es")
        for number, (text, label) in enumerate(told)
        for end in ("heute", "hoy", "1", "2")
    ]
    data = corpus.Corpus(rows, rows, [], {})
    # when a student is trained on them twice
    first = student_train.ship(student_train.train(data), data, 1, tmp_path / "a")
    second = student_train.ship(student_train.train(data), data, 1, tmp_path / "b")
    # then both are one, and serve what was taught
    assert first == second
    student = Student.load(tmp_path / "a")
    assert student.version == first["model"]
    assert [s.label for s in student.score_many([row.text for row in rows])] == [LABELS[row.label] for row in rows]


def test_no_text_that_is_tested_on_is_learned_in_any_language(tmp_path: Path) -> None:
    # given a German and an Arabic text in training and test, one that repeats, and one in Italian
    rows = [
        ("umsab", "de", "test", "Das ist ja wunderbar!", "positive"),
        ("sb10k", "de", "all", "das ist ja wunderbar", "positive"),
        ("umsab", "ar", "test", "\u0634\u0643\u0631\u0627 \u0644\u0643", "positive"),
        ("umsab", "ar", "train", "\u0634\u0643\u0631\u0627  \u0644\u0643 !", "positive"),
        ("umsab", "ar", "train", "\u0645\u0631\u062d\u0628\u0627", "neutral"),
        ("umsab", "it", "train", "che bello", "positive"),
        ("umsab", "fr", "val", "pas mal", "positive"),
        ("umsab", "fr", "train", "Pas mal.", "positive"),
        ("umsab", "fr", "train", "très mal", "negative"),
        ("umsab", "fr", "train", "Très mal!", "negative"),
        ("umsab", "en", "train", "Not bad", "positive"),
        ("umsab", "it", "test", "che bello", "positive"),
    ]
    names = ("source", "lang", "split", "text", "label")
    pq.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)}), tmp_path / "t.parquet")
    # when the corpus of all languages is parted
    found = corpus.load_all(tmp_path / "t.parquet", seed=1)
    # then what is left is what no one tests on
    assert sorted(row.text for row in found.train) == ["Not bad", "très mal", "\u0645\u0631\u062d\u0628\u0627"]
    assert [row.text for row in found.validation] == ["pas mal"]
    assert {row.lang for row in found.test} == {"de", "ar", "it"}
    assert found.left_out == {"sb10k": {"leak": 1}, "umsab": {"leak": 2, "repeat": 1}}
