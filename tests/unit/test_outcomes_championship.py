"""What a championship promises: few false changes however often one looks, true ones soon, exact resumption."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.outcomes.championship import SPAN, Championship, ChampionshipState

NAMES = ("a", "b", "c")


def play(championship: Championship, chances: tuple[float, ...], truth: float, rows: int, seed: int) -> None:
    """Labels that are true at a rate of `truth`, of which each contestant says its part of `chances`, and noise."""
    draw = random.Random(seed)
    for _ in range(rows):
        label = int(draw.random() < truth)
        championship.judge([min(max(each + draw.uniform(-0.02, 0.02), 0.001), 0.999) for each in chances], label)


def test_a_champion_as_good_as_the_others_is_hardly_ever_deposed_although_every_label_is_looked_at() -> None:
    """Would have caught: a test of significance that is repeated at each label."""
    crowned = 0
    for seed in range(100):
        championship = Championship(NAMES, "a")
        play(championship, (0.2, 0.2, 0.2), 0.2, 1_000, seed)
        crowned += championship.crowned > 0
    assert crowned <= 5


def test_a_better_challenger_wins_within_some_hundred_labels() -> None:
    championship = Championship(NAMES, "a")
    play(championship, (0.1, 0.1, 0.3), 0.3, 600, seed=1)
    assert (championship.champion, championship.crowned) == ("c", 1)


def test_a_worse_challenger_never_wins() -> None:
    championship = Championship(NAMES, "a")
    play(championship, (0.3, 0.1, 0.6), 0.3, 5_000, seed=1)
    assert championship.champion == "a"
    assert max(championship.evidence().values()) < 0


def test_a_champion_that_was_long_right_is_deposed_when_it_has_become_wrong() -> None:
    """Would have caught: evidence that outweighs for ever whatever comes."""
    championship = Championship(NAMES, "a")
    play(championship, (0.3, 0.1, 0.1), 0.3, 5 * SPAN, seed=1)
    assert championship.champion == "a"
    play(championship, (0.3, 0.1, 0.1), 0.1, SPAN + 2_000, seed=2)
    assert championship.champion in ("b", "c")


def test_one_label_cannot_decide_however_sure_a_contestant_was() -> None:
    championship = Championship(("sure", "other"), "sure")
    championship.judge((1e-15, 0.5), 1)
    assert championship.champion == "sure"


def test_a_champion_can_be_named() -> None:
    championship = Championship(NAMES, "a")
    play(championship, (0.2, 0.25, 0.2), 0.2, 50, seed=1)
    championship.crown("b")
    assert (championship.champion, championship.crowned, championship.reign) == ("b", 1, 0)
    assert championship.evidence() == {"a": 0.0, "c": 0.0}
    with pytest.raises(ValueError, match="'d'"):
        championship.crown("d")


judgements = st.lists(st.tuples(st.tuples(*[st.floats(0.0, 1.0)] * 3), st.integers(0, 1)), max_size=40)


@settings(max_examples=50, deadline=None)
@given(judgements, judgements)
def test_a_restored_championship_goes_on_to_the_bit(
    before: list[tuple[tuple[float, ...], int]], after: list[tuple[tuple[float, ...], int]]
) -> None:
    undisturbed = Championship(NAMES, "a")
    for said, label in before:
        undisturbed.judge(said, label)
    written = msgspec.msgpack.encode(undisturbed.state())
    resumed = Championship.restore(msgspec.msgpack.decode(written, type=ChampionshipState))
    for said, label in after:
        undisturbed.judge(said, label)
        resumed.judge(said, label)
    assert msgspec.msgpack.encode(resumed.state()) == msgspec.msgpack.encode(undisturbed.state())
    assert resumed.evidence() == undisturbed.evidence()
