"""What F4 promises: River's contract, the same bits in any batch, exact resumption, and learning what is there."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np
import pytest
from river.checks import yield_checks

from models.outcomes.bins import Floats
from models.outcomes.classifier import F4Classifier
from models.outcomes.f4 import F4
from models.outcomes.f4_scorer import F4Scorer

CATEGORICAL = (2,)


def rows(n: int, seed: int = 1) -> Floats:
    """Columns: a normal, a count, a category, a constant that wakes up, and one that is often missing."""
    chance = np.random.default_rng(seed)
    return np.column_stack(
        [
            chance.normal(size=n),
            chance.poisson(2.0, n).astype(float),
            chance.integers(0, 5, n) * 1e6,
            np.where(np.arange(n) < 2_500, 1.0, chance.normal(size=n)),
            np.where(chance.random(n) < 0.3, np.nan, chance.exponential(size=n)),
        ]
    )


def labels(table: Floats, seed: int = 2) -> list[bool]:
    """Either of the first two columns high, not both; and the category counts."""
    high = (table[:, 0] > 0) ^ (table[:, 1] > 2)
    chance = 0.1 + 0.6 * high + 0.2 * (table[:, 2] == 3e6)
    return list(np.random.default_rng(seed).random(len(table)) < chance)


def taught(n: int, *, remembers: bool = False) -> F4:
    model, table = F4(5, CATEGORICAL, remembers=remembers), rows(n)
    for row, label in zip(table, labels(table), strict=True):
        model.update(row, bool(label))
    return model


@pytest.mark.parametrize(
    "check", list(yield_checks(F4Classifier())), ids=lambda check: getattr(check, "__name__", "check")
)
def test_it_keeps_the_contract_of_a_river_classifier(check: Callable[[F4Classifier], None]) -> None:
    check(F4Classifier())


@pytest.mark.parametrize("remembers", [False, True])
def test_a_row_has_the_same_bits_alone_and_in_any_batch(remembers: bool) -> None:
    model = taught(2_600, remembers=remembers)
    scorer = model.scorer(tuple("abcde"), outcome="buy", schema="s1")
    assert scorer is not None
    assert (scorer.outcome, scorer.schema) == ("buy", "s1")
    table = rows(500, seed=3)
    table[7] = (math.inf, -math.inf, -0.0, 1e300, math.nan)

    alone = [model.predict(row) for row in table]

    order = list(range(500))
    random.Random(4).shuffle(order)
    assert model.predict_batch(table).tolist() == alone
    assert model.predict_batch(table[order]).tolist() == [alone[place] for place in order]
    for start in range(0, 500, 7):
        assert scorer.score(table[start : start + 7]).tolist() == alone[start : start + 7]
    assert [scorer.score_one(row.tolist()) for row in table] == alone
    assert F4Scorer.from_bytes(scorer.to_bytes()).score(table).tolist() == alone


@pytest.mark.parametrize("at", [0, 60, 125, 400, 1_999, 2_000, 2_300])
def test_a_restored_f4_goes_on_to_the_bit(at: int) -> None:
    undisturbed = taught(at, remembers=True)
    resumed = F4.from_bytes(undisturbed.to_bytes())

    table = rows(300, seed=5)
    for row, label in zip(table, labels(table), strict=True):
        assert resumed.update(row, bool(label)) == undisturbed.update(row, bool(label))
    assert resumed.to_bytes() == undisturbed.to_bytes()
    assert resumed.predict_batch(table).tolist() == undisturbed.predict_batch(table).tolist()


@pytest.mark.parametrize("at", [30, 125, 700])
def test_a_restored_classifier_goes_on_to_the_bit(at: int) -> None:
    chance = random.Random(6)

    def draw() -> tuple[dict[str, float | str], bool]:
        return {"shop": chance.choice("abc"), "age": chance.random(), "n": chance.randrange(9)}, chance.random() < 0.3

    undisturbed = F4Classifier()
    for _ in range(at):
        undisturbed.learn_one(*draw())
    resumed = F4Classifier.from_bytes(undisturbed.to_bytes())
    for _ in range(200):
        row, label = draw()
        undisturbed.learn_one(row, label)
        resumed.learn_one(row, label)
    assert resumed.to_bytes() == undisturbed.to_bytes()


def loss(model: F4, table: Floats, truth: list[bool]) -> float:
    said = model.predict_batch(table)
    return float(-np.mean(np.log(np.where(truth, said, 1.0 - said))))


def test_it_learns_what_only_two_columns_together_tell() -> None:
    model, table = taught(6_000), rows(3_000, seed=7)
    truth = labels(table, seed=8)
    exact = 0.1 + 0.6 * ((table[:, 0] > 0) ^ (table[:, 1] > 2)) + 0.2 * (table[:, 2] == 3e6)
    best = float(-np.mean(np.log(np.where(truth, exact, 1.0 - exact))))
    assert loss(model, table, truth) < best + 0.06
    assert model.predict_batch(table).mean() == pytest.approx(np.mean(truth), rel=0.05)


def test_noise_costs_hardly_more_than_the_base_rate() -> None:
    chance = random.Random(9)
    model, total, base = F4(20), 0.0, 0.0
    for n in range(5_000):
        label = chance.random() < 0.02
        said = model.update([chance.random() for _ in range(20)], label)
        if n >= 1_000:
            total -= math.log(said if label else 1.0 - said)
            base -= math.log(0.02 if label else 0.98)
    assert total / 4_000 < base / 4_000 + 0.005


def test_the_memory_of_residuals_follows_a_level_that_jumps() -> None:
    chance, losses = random.Random(10), {}
    stream = [([chance.random()], chance.random() < (0.9 if n // 60 % 2 else 0.1)) for n in range(6_000)]
    for remembers in (False, True):
        model = F4(1, remembers=remembers)
        said = [(model.update(row, label), label) for row, label in stream]
        losses[remembers] = -sum(math.log(p if label else 1.0 - p) for p, label in said[1_000:]) / 5_000
    assert losses[True] < losses[False] - 0.1


def test_a_weight_counts_like_that_many_rows() -> None:
    sampled, whole = F4(1), F4(1)
    chance = random.Random(11)
    for _ in range(20_000):
        high = chance.random() < 0.5
        label = chance.random() < (0.10 if high else 0.02)
        whole.update([float(high)], label)
        if label or chance.random() < 0.25:
            sampled.update([float(high)], label, 1.0 if label else 4.0)
    for high in (0.0, 1.0):
        assert sampled.predict([high]) == pytest.approx(whole.predict([high]), rel=0.35)


def test_the_column_that_decides_comes_first_among_the_contributions() -> None:
    model = F4(3)
    chance = random.Random(12)
    for _ in range(3_000):
        row = [chance.random() for _ in range(3)]
        model.update(row, row[1] > 0.7)
    scorer = model.scorer(("a", "b", "c"))
    assert scorer is not None
    first, _ = scorer.contributions((0.5, 0.95, 0.5), 2)
    assert (first.name, first.value) == ("b", 0.95)
    assert first.contribution > 0.0


@pytest.mark.parametrize("call", [partial(F4(3).update, [1.0], True), partial(F4(3).predict_batch, np.zeros((2, 4)))])
def test_rows_of_another_width_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="shape"):
        call()


@pytest.mark.parametrize("rows_before", [0, 300, 2_100])
def test_a_row_of_another_width_is_refused_and_changes_nothing(rows_before: int) -> None:
    model = taught(rows_before)
    before = model.to_bytes()
    for row in ([1.0] * 4, [1.0] * 6):
        with pytest.raises(ValueError, match="shape"):
            model.update(row, True)
    assert model.to_bytes() == before


def test_foreign_bytes_are_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        F4.from_bytes(b"\x93\x01\x02")
    state = taught(200).to_bytes()
    with pytest.raises((msgspec.DecodeError, ValueError)):
        F4.from_bytes(state[: len(state) // 2])
