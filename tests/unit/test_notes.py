"""What the live view explains: only what is so, in figures that add up."""

import pytest

from stream.notes import SPAN_SECONDS, Moment, Tide, say_waiting

HERE = frozenset({0, 1})


def tide(comes: float, done: float, lag: int = 5_000, seconds: int = 60) -> Tide:
    """Watched twice a second while `comes` records a second arrive and `done` are worked off."""
    made = Tide()
    for half in range(2 * seconds + 1):
        made.watch(Moment(half / 2, round(lag + (comes - done) * half / 2), round(done * half / 2)), HERE)
    return made


def test_a_worker_that_keeps_up_needs_no_explanation() -> None:
    assert Tide().say() is None
    assert tide(1_000, 1_000).say() is None
    assert tide(1_000, 2_000, lag=500_000).say() is None


def test_a_worker_that_can_not_keep_up_says_what_comes_and_what_it_does() -> None:
    said = tide(2_500, 1_500).say()
    assert said is not None
    assert "2,500 records/s come in, it does 1,500, and lag grows by 1,000/s" in said


def test_a_short_jam_is_not_told() -> None:
    assert tide(2_500, 1_500, seconds=int(SPAN_SECONDS / 2) - 1).say() is None
    assert tide(20, 0, lag=0, seconds=30).say() is None


def test_a_standstill_is_told() -> None:
    assert "it does 0," in (tide(1_000, 0).say() or "")


def test_partitions_that_come_and_go_are_no_tide() -> None:
    made = tide(1_000, 1_000)
    made.watch(Moment(60.5, 900_000, 60_500), HERE | {2})
    made.watch(Moment(61.0, 900_000, 61_000), HERE | {2})
    assert made.say() is None


@pytest.mark.parametrize(("days", "words"), [(None, "nothing of it was read"), (2.0, "2.0 days of it were read")])
def test_a_silent_model_says_what_it_waits_for(days: float | None, words: str) -> None:
    said = say_waiting("churn", 0, 200, 90, days)
    assert said.startswith("model churn waits for its first labels: 0 of 200 matured")
    assert "close after 90 days" in said
    assert words in said
