"""What a drift watch promises: changes are found, noise is not, and a restored one goes on to the bit."""

from __future__ import annotations

import random

import msgspec
import pytest

from models.outcomes.drift import KEPT, Drift, DriftState


def residuals(rate: float, number: int, seed: int, said: float = 0.2) -> list[float]:
    chance = random.Random(seed)
    return [float(chance.random() < rate) - said for _ in range(number)]


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_drift_however_long_it_goes_on(seed: int) -> None:
    watch = Drift()
    assert [watch.add(each) for each in residuals(0.2, 20_000, seed)].count(True) == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_base_rate_that_doubles_is_found_within_some_hundred_labels(seed: int) -> None:
    watch = Drift()
    for each in residuals(0.2, 3_000, seed):
        watch.add(each)
    found = [watch.add(each) for each in residuals(0.4, 800, seed)]
    assert any(found)
    assert watch.found == sum(found)
    assert 0.02 < watch.severity < 0.4


def test_another_champion_begins_at_its_own_level() -> None:
    """Would have caught: a change of champion that is taken for a change of the world."""
    watch = Drift()
    for each in residuals(0.2, 3_000, 1):
        watch.add(each)
    watch.begin()
    assert [watch.add(each) for each in residuals(0.5, 2_000, 2)].count(True) == 0


@pytest.mark.parametrize("at", [0, 10, 3_000, KEPT - 1, KEPT, KEPT + 1])
def test_a_restored_watch_goes_on_to_the_bit(at: int) -> None:
    undisturbed = Drift()
    log = [*residuals(0.2, KEPT - 500, 3), *residuals(0.35, 2_000, 4)]
    for each in log[:at]:
        undisturbed.add(each)
    written = msgspec.msgpack.encode(undisturbed.state())
    resumed = Drift.restore(msgspec.msgpack.decode(written, type=DriftState))
    assert [resumed.add(each) for each in log[at:]] == [undisturbed.add(each) for each in log[at:]]
    assert resumed.state() == undisturbed.state()
