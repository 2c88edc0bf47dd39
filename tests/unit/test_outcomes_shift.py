"""What a watch over rows promises: moves are found, noise is not, and a restored one goes on to the bit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.outcomes.shift import BLOCK, EVERY, Shift, ShiftState, measure_stability

FULL = EVERY * BLOCK
Row = tuple[float, ...]
counts = st.lists(st.integers(0, 1_000), min_size=2, max_size=12)


def rows(number: int, seed: int, zeros: float = 0.6, mean: float = 0.0, usual: float = 0.7) -> Iterator[Row]:
    """A count that is often zero, a measure, and a code."""
    chance = random.Random(seed)
    for _ in range(number):
        count = 0.0 if chance.random() < zeros else math.log1p(chance.randrange(1, 5))
        yield (count, chance.gauss(mean, 1.0), 7.0 if chance.random() < usual else chance.choice((8.0, 9.0)))


def watch(blocks: int, seed: int) -> Shift:
    found = Shift(3, categorical=(2,))
    for row in rows(blocks * FULL, seed):
        found.add(row)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_shift_however_long_it_goes_on(seed: int) -> None:
    steady = watch(10, seed)
    assert steady.found == 0
    assert len(steady.psi) == 3
    assert steady.worst < 0.1


@pytest.mark.parametrize(
    ("column", "move"),
    [
        (0, lambda number: rows(number, 2, zeros=0.2)),
        (1, lambda number: rows(number, 2, mean=1.0)),
        (2, lambda number: rows(number, 2, usual=0.2)),
        # A code that was never there before.
        (2, lambda number: ((a, b, 11.0) for a, b, _ in rows(number, 2))),
    ],
)
def test_a_column_that_moves_is_found_and_named(column: int, move: Callable[[int], Iterator[Row]]) -> None:
    moved = watch(2, 1)
    assert [moved.add(row) for row in move(FULL)].count(True) == 1
    assert moved.found == 1
    assert moved.shifted == [column]
    assert moved.psi[column] == moved.worst == moved.severity > 0.25
    assert max(index for place, index in enumerate(moved.psi) if place != column) < 0.1


def test_what_has_become_usual_is_told_once() -> None:
    moved = watch(2, 1)
    found = [moved.add(row) for row in rows(4 * FULL, 2, mean=2.0)]
    assert found.count(True) == 1
    assert moved.worst < 0.1


def test_a_column_that_moves_by_itself_is_no_news() -> None:
    moved = Shift(2, moving=(1,))
    for number in range(4 * FULL):
        assert not moved.add((number % 3, float(number)))
    assert moved.psi[1] > 1.0
    assert (moved.found, moved.worst, moved.shifted) == (0, 0.0, [])


@pytest.mark.parametrize("at", [0, 1, EVERY, FULL - 1, FULL, FULL + 9, 2 * FULL])
def test_a_restored_watch_goes_on_to_the_bit(at: int) -> None:
    undisturbed, resumed = Shift(3, categorical=(2,)), Shift(3, categorical=(2,))
    log = [*rows(FULL + 500, 3), *rows(2 * FULL, 4, mean=0.8)]
    for row in log[:at]:
        undisturbed.add(row)
    written = msgspec.msgpack.encode(undisturbed.state())
    resumed.resume(msgspec.msgpack.decode(written, type=ShiftState))
    assert [resumed.add(row) for row in log[at:]] == [undisturbed.add(row) for row in log[at:]]
    assert resumed.state() == undisturbed.state()
    assert undisturbed.found > 0


@given(counts)
def test_the_same_shares_are_steady_and_others_are_not_however_compared(before: list[int]) -> None:
    after = [*before[1:], before[0]]
    index = measure_stability(before, after)
    assert measure_stability(before, before) == 0.0
    assert index >= 0.0
    assert measure_stability(after, before) == pytest.approx(index)
    assert (index > 0.0) == (before != after)
