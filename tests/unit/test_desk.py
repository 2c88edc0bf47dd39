"""The desk: levels move between batches alone, nobody waits for a model to load, and who answered is told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from models.sentiment import Cascade, Sentiment
from models.sentiment.levels import CALM, LEVELS, LOWEST, Throttle
from stream.desk import Desk
from tests.unit.factories import NOON, event
from tests.unit.reference import Reference, WordScorer, open_to_all, write_records

ENGLISH = [f"The parcel came late and the box was torn, but it works, number {n}." for n in range(20)]


class Watch:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Laborious(WordScorer):
    """Takes a second a text at level 0, half as long at each level below, and nothing at the lowest."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def score_many(self, texts: Sequence[str], langs: Sequence[str | None] | None = None) -> list[Sentiment]:
        self.watch.now += 0.0 if self.level == LOWEST else len(texts) * 0.5**self.level
        return super().score_many(texts, langs)


def open_desk(deadline: float) -> tuple[Desk, Watch]:
    watch = Watch()
    desk = Desk(Laborious(watch), deadline, watch)
    desk.open()
    return desk, watch


def run(desk: Desk, watch: Watch, texts: int = 1, waited: float = 0.0) -> int:
    return desk.score(["good"] * texts, [None] * texts, watch.now - waited).level


# Levels


def test_a_batch_that_takes_too_long_lowers_the_level_of_the_next() -> None:
    desk, watch = open_desk(1.0)
    assert [run(desk, watch) for _ in range(3)] == [0, 1, 1]


def test_a_batch_that_would_take_too_long_lowers_its_own() -> None:
    desk, watch = open_desk(2.0)
    assert [run(desk, watch), run(desk, watch, texts=1_000)] == [0, LOWEST]


def test_waiting_for_the_thread_counts_as_load() -> None:
    desk, watch = open_desk(10.0)
    assert [run(desk, watch, waited=100.0)] == [LOWEST]


def test_the_level_comes_back_when_the_load_is_gone() -> None:
    desk, watch = open_desk(10.0)
    run(desk, watch, waited=1e9)
    levels = [run(desk, watch) for _ in range(LEVELS * CALM)]
    assert levels[0] == LOWEST
    assert levels[-1] == 0
    assert all(later <= earlier for earlier, later in pairwise(levels))


def test_a_level_that_was_dear_once_is_tried_again_in_the_end() -> None:
    throttle = Throttle(1.0)
    throttle.brace(1, 0.0)
    throttle.relate(1, 0.0, 5.0)
    levels = []
    for _ in range(2_000):
        levels.append(throttle.brace(1, 0.0))
        throttle.relate(1, 0.0, 0.001)
    assert levels[0] > 0
    assert levels[-1] == 0


def test_a_fixed_level_stays_whatever_the_load() -> None:
    watch = Watch()
    scorer = Laborious(watch)
    scorer.level = 2
    desk = Desk(scorer, None, watch)
    assert [run(desk, watch, texts=1_000, waited=1e6) for _ in range(3)] == [2, 2, 2]


def test_a_deadline_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="deadline: found 0"):
        Throttle(0.0)


def test_the_level_does_not_move_within_a_batch() -> None:
    # given the scorer that ships, at the highest level, in the middle of a batch
    cascade = Cascade()
    desk = Desk(cascade, 60.0)
    desk.open()
    found: list[list[Sentiment]] = []
    thread = threading.Thread(
        target=lambda: found.append(desk.score(ENGLISH, [None] * len(ENGLISH), time.perf_counter()).sentiments)
    )
    thread.start()
    while cascade.steps < 3:
        time.sleep(0.0001)
    # when another level is asked for
    cascade.level = LOWEST
    thread.join()
    # then it counts from the next batch on
    assert {s.level for s in found[0]} == {0}


# Loading


class Loading(WordScorer):
    """Loads until it is told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def load(self) -> bool:
        return self.go_on.wait(10)


def test_no_batch_waits_for_what_is_being_loaded_while_the_level_is_automatic() -> None:
    scorer = Loading()
    desk = Desk(scorer, 10.0)
    thread = threading.Thread(target=desk.open)
    thread.start()
    before = desk.score(["good"], [None], time.perf_counter())
    scorer.go_on.set()
    thread.join()
    after = desk.score(["good"], [None], time.perf_counter())
    assert (before.level, after.level) == (LOWEST, 0)


# What is told


def test_who_answered_is_told_by_batch() -> None:
    desk = Desk(Cascade(), None)
    texts = [*ENGLISH[:2], "Ich liebe dieses Handy, einfach super!"]
    first, again = (desk.score(texts, [None] * 3, time.perf_counter()) for _ in range(2))
    assert (first.answered, first.failures) == ({"transformer": 2, "student": 1}, 0)
    assert again.answered == {"cache": 3}
    assert first.sentiments == again.sentiments


def test_a_transformer_that_is_not_there_is_told_once_and_counted_by_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(Cascade(tmp_path / "none"), 10.0)
    with caplog.at_level(logging.WARNING):
        desk.open()
        scored = [desk.score(ENGLISH[:2], [None] * 2, time.perf_counter()) for _ in range(2)]
    assert [(each.answered, each.failures) for each in scored] == [({"student": 2}, 2)] * 2
    assert len(caplog.messages) == 1
    assert "cannot be loaded" in caplog.messages[0]
    assert not any(text in caplog.text for text in ENGLISH)


def test_the_scorer_that_ships_shows_that_it_moves_within_a_batch() -> None:
    cascade = Cascade(level=0)
    cascade.score_many(ENGLISH)
    assert cascade.steps > len(ENGLISH)
    cascade.level, before = LOWEST, cascade.steps
    cascade.score_many([f"number {n}" for n in range(1_000)])
    assert cascade.steps - before == 4


# The stage


def test_the_language_that_an_event_brings_decides_who_is_asked() -> None:
    drafts = [event("u1").of_type("review").known_as(f"r{n}") for n in range(4)]
    said = [drafts[0].saying("Ok", "en-GB"), drafts[1].saying("Ok"), drafts[2].saying(ENGLISH[0], "fr"), drafts[3]]
    records = write_records(*(draft.as_json() for draft in said), at=NOON)
    reference = Reference(open_to_all(), scorer=Cascade(level=0)).run(records)
    assert reference.latest is not None
    assert reference.latest.scored is not None
    found = reference.latest.scored.sentiments
    assert [each.source for each in found] == ["transformer", "student", "student"]
    assert [item.sentiment for item in reference.latest.items] == [*(each.score for each in found), None]
    assert all(each.level == 0 and each.model for each in found)
