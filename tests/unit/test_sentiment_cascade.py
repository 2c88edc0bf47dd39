"""The cascade of levels: who answers follows from the text and the level alone, and failure costs no batch."""

import functools
import json
import shutil
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.sentiment import Cascade, Student, Transformer
from models.sentiment.cache import ScoreCache
from models.sentiment.language import detect, is_english
from models.sentiment.levels import CALM, FALL, LEVELS, LOWEST, RISE, Pace, advance
from models.sentiment.transformer import WEIGHTS, Sentiment

ENGLISH = [
    "I love this phone, the battery lasts for days and days!",
    "The food was cold and the waiter was rude to everyone.",
    "They will open the new shop in London on Tuesday morning.",
    "It is not what I had expected, but then I did not expect much.",
    "Terrible. It broke after one day and nobody answers the phone.",
    "The seat is grey and its width is forty centimetres.",
]
OTHERS = [
    "Ich liebe dieses Handy, einfach super und sehr schnell!",
    "La comida estaba fría y el camarero era muy antipático.",
    "Le magasin ouvre ses portes mardi matin à neuf heures.",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643\u0645",
    "😀😀",
    "",
]
TEXTS = ENGLISH + OTHERS


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return Cascade()


@functools.cache
def _shared() -> Cascade:
    return Cascade()


# Who answers


def test_at_the_highest_level_english_is_the_transformers_and_the_rest_the_students(cascade: Cascade) -> None:
    cascade.level = 0
    scored = cascade.score_many(TEXTS)
    assert [s.source for s in scored] == ["transformer"] * len(ENGLISH) + ["student"] * len(OTHERS)
    transformer, student = Transformer.load(), Student.load()
    for text, found in zip(TEXTS, scored, strict=True):
        expected = (transformer if found.source == "transformer" else student).score(text)
        assert (found.score, found.confidence, found.label, found.model) == (
            expected.score,
            expected.confidence,
            expected.label,
            expected.model,
        )


def test_at_the_lowest_level_the_student_answers_alone_and_the_transformer_is_not_even_loaded() -> None:
    cascade = Cascade(level=LOWEST)
    assert {s.source for s in cascade.score_many(TEXTS)} == {"student"}
    assert not cascade.loaded


def test_each_level_asks_the_transformer_about_no_text_that_the_one_above_did_not(cascade: Cascade) -> None:
    asked = []
    for level in range(LEVELS):
        cascade.level = level
        scored = cascade.score_many(TEXTS)
        assert {s.level for s in scored} == {level}
        asked.append({text for text, s in zip(TEXTS, scored, strict=True) if s.source == "transformer"})
    assert all(lower <= upper for upper, lower in pairwise(asked))
    assert asked[0]
    assert not asked[-1]
    assert sorted(Student.load().thresholds, reverse=True) == list(Student.load().thresholds)


def test_a_language_that_came_with_the_text_is_believed(cascade: Cascade) -> None:
    cascade.level = 0
    found = cascade.score_many(["Ok", "Ok", "Ok", ENGLISH[0]], ["en-GB", "de", None, "fr"])
    assert [s.source for s in found] == ["transformer", "student", "student", "student"]


def test_languages_are_told_apart() -> None:
    assert all(is_english(text) for text in ENGLISH)
    assert not any(is_english(text) for text in OTHERS)
    assert [detect(text) for text in OTHERS[:3]] == ["de", "es", "fr"]


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=400), st.sampled_from([None, "en", "de", "a thing that is no code"]))
def test_any_text_is_scored_in_range_and_again_the_same(text: str, lang: str | None) -> None:
    first, second = _shared().score_many([text, text], [lang, lang])
    assert -1.0 <= first.score <= 1.0
    assert first == second
    assert _shared().failures == 0


@given(st.text(max_size=80))
def test_any_text_has_a_language_or_none(text: str) -> None:
    line = text.encode("utf-8", "ignore").decode()
    assert detect(line) == detect(line)


# What a score depends on


def test_a_text_scores_alike_alone_and_in_any_batch_at_every_level() -> None:
    for level in range(LEVELS):
        expected = Cascade(level=level).score_many(TEXTS)
        assert Cascade(level=level).score_many(TEXTS[::-1]) == expected[::-1]
        warm = Cascade(level=level)
        assert [warm.score_many([text])[0] for text in TEXTS] == expected
        assert warm.score_many(TEXTS) == expected, "and from the cache"


def test_a_change_of_level_does_not_reach_back_through_the_cache(cascade: Cascade) -> None:
    fresh = Cascade(level=LOWEST).score_many(ENGLISH)
    for level in (0, LOWEST, 0, LOWEST):
        cascade.level = level
        scored = cascade.score_many(ENGLISH)
    assert scored == fresh


def test_an_unknown_level_is_refused(cascade: Cascade) -> None:
    for level in (-1, LEVELS):
        with pytest.raises(ValueError, match=f"level: found {level}"):
            cascade.level = level


# The cache


def test_a_text_is_scored_once_however_often_it_comes() -> None:
    cascade = Cascade(level=LOWEST)
    first, again = cascade.score_many([OTHERS[0], f" {OTHERS[0]}\n"])
    assert cascade.score_many([OTHERS[0]]) == [first] == [again]
    assert (cascade.answered["student"], cascade.answered["cache"], len(cascade)) == (1, 2, 1)


def _sentiment(score: float) -> Sentiment:
    return Sentiment(score, 1.0, "neutral", "student", "1")


def test_the_cache_forgets_what_was_longest_unused() -> None:
    cache = ScoreCache(2)
    one, two, three = (cache.key(text, "0 v") for text in ("one", "two", "three"))
    cache.put(one, _sentiment(0.1))
    cache.put(two, _sentiment(0.2))
    assert cache.get(one) == _sentiment(0.1)
    cache.put(three, _sentiment(0.3))
    assert (cache.get(two), cache.get(one), len(cache)) == (None, _sentiment(0.1), 2)
    assert cache.hit_ratio == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="capacity: found -1"):
        ScoreCache(-1)


def test_a_cache_of_no_size_keeps_nothing_and_changes_no_score() -> None:
    cascade = Cascade(capacity=0, level=LOWEST)
    assert cascade.score_many(TEXTS) == cascade.score_many(TEXTS) == Cascade(level=LOWEST).score_many(TEXTS)
    assert (len(cascade), cascade.answered["cache"]) == (0, 0)


def test_the_cache_holds_nothing_to_guess_a_text_from() -> None:
    cache, other = ScoreCache(), ScoreCache()
    assert cache.key("my own words", "0 v") == cache.key("my own words", "0 v") != other.key("my own words", "0 v")
    assert len({cache.key("my own words", maker) for maker in ("0 v", "1 v", "0 w")}) == 3
    cache.put(cache.key("my own words", "0 v"), _sentiment(0.1))
    assert "words" not in repr(vars(cache))


# When the transformer is not there


def test_without_the_transformer_the_student_answers_and_it_is_counted(tmp_path: Path) -> None:
    cascade = Cascade(tmp_path / "none")
    scored = cascade.score_many(TEXTS)
    assert {s.source for s in scored} == {"student"}
    assert cascade.failures == len(ENGLISH)
    assert cascade.error is not None
    assert cascade.model == Student.load().version


def test_a_text_that_the_transformer_fails_on_costs_that_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a transformer that fails on one text, once
    right, failed = Transformer.score_normal, []

    def fail_once(self: Transformer, line: str) -> Sentiment:
        if line == ENGLISH[1] and not failed:
            failed.append(line)
            raise RuntimeError("a node of the graph failed")
        return right(self, line)

    monkeypatch.setattr(Transformer, "score_normal", fail_once)
    cascade = Cascade()
    # when it is scored amid others, twice
    sources = [[s.source for s in cascade.score_many(ENGLISH[:3])] for _ in range(2)]
    # then the student answers for it, and the transformer is asked again next time
    assert sources == [["transformer", "student", "transformer"], ["transformer"] * 3]
    assert cascade.failures == 1
    assert ENGLISH[1] not in str(cascade.error)


def test_weights_that_are_not_those_described_are_not_used(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(WEIGHTS, tmp_path / "weights"))
    with (folder / "model.onnx").open("ab") as model:
        model.write(b"\0")
    cascade = Cascade(folder)
    assert not cascade.load()
    assert "SHA-256" in str(cascade.error)


def test_a_text_on_which_the_model_itself_fails_costs_only_itself(tmp_path: Path) -> None:
    # given a tokenizer that knows one word by a number that the model does not
    folder = Path(shutil.copytree(WEIGHTS, tmp_path / "weights"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["good"] = 10**6
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    cascade = Cascade(folder)
    # when that word is in the middle of a batch
    scored = cascade.score_many(["fine", "good", "fine again"], ["en"] * 3)
    # then the student answers for it, and nothing of it is told
    assert [s.source for s in scored] == ["transformer", "student", "transformer"]
    assert cascade.failures == 1
    assert "good" not in str(cascade.error)


def test_the_model_is_loaded_once_whoever_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cascade, loads = Cascade(), []
    right = Transformer.load
    monkeypatch.setattr(Transformer, "load", lambda folder: loads.append(folder) or right(folder))
    found: list[list[Sentiment]] = []
    threads = [threading.Thread(target=lambda: found.append(cascade.score_many(ENGLISH[:1]))) for _ in range(4)]
    threads.append(threading.Thread(target=cascade.load))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [found[0]] * 4
    assert found[0][0].source == "transformer"
    assert (len(loads), cascade.answered["cache"]) == (1, 3)


# Levels

LOADS = st.floats(0, 1e6, allow_nan=False)


def _run(loads: Sequence[float], pace: Pace = Pace()) -> list[int]:  # noqa: B008 frozen
    levels = []
    for load in loads:
        pace = advance(pace, load)
        levels.append(pace.level)
    return levels


@given(st.lists(LOADS, max_size=200))
def test_levels_stay_in_range_and_follow_from_the_loads_alone(loads: list[float]) -> None:
    levels = _run(loads)
    assert all(0 <= level <= LOWEST for level in levels)
    assert levels == _run(loads)


@given(st.integers(0, LOWEST), st.integers(0, CALM - 1), LOADS, LOADS)
def test_more_load_never_means_more_transformer(level: int, calm: int, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert advance(Pace(level, calm), less).level <= advance(Pace(level, calm), more).level


@given(st.integers(0, LOWEST), st.lists(st.floats(FALL, RISE), max_size=100))
def test_between_the_bounds_nothing_moves(level: int, loads: list[float]) -> None:
    assert set(_run(loads, Pace(level))) <= {level}


@given(st.integers(0, LOWEST), st.lists(st.floats(0, FALL, exclude_max=True), max_size=LEVELS * CALM + 5))
def test_the_transformer_comes_back_one_level_a_calm_while(level: int, loads: list[float]) -> None:
    assert _run(loads, Pace(level)) == [max(0, level - (n + 1) // CALM) for n in range(len(loads))]


@given(st.lists(LOADS, max_size=200))
def test_a_level_gained_is_not_lost_again_at_once(loads: list[float]) -> None:
    levels = _run(loads)
    risen = -CALM
    for place, (before, after) in enumerate(zip([0, *levels], levels, strict=False)):
        if after > before:
            risen = place
        assert not (after < before and place - risen < CALM)


def test_an_overload_goes_straight_to_the_student() -> None:
    assert _run([float("inf")]) == _run([100.0]) == [LOWEST]
    assert _run([RISE * 1.01]) == [1]
    for load in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="load: found"):
            advance(Pace(), load)
