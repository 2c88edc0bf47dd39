"""What a scorer promises: the same bits for a row alone or among others, and honest contributions."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.outcomes.scorer import Coefficients, LinearScorer

FEATURES = 30


def scorer(seed: int = 1, features: int = FEATURES) -> LinearScorer:
    chance = np.random.default_rng(seed)
    means, scales, weights = chance.normal(size=(3, features)) * [[3.0], [2.0], [0.7]]
    scales[0] = 0.0
    names = tuple(f"f{n}" for n in range(features))
    arrays = (tuple(v.tolist()) for v in (means, np.abs(scales), weights))
    of = dict(zip(("means", "scales", "weights"), arrays, strict=True))
    return LinearScorer(Coefficients(outcome="buy", schema="s", names=names, bias=-1.5, clip=5.0, **of))


def rows(n: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, FEATURES)) * 10.0


@pytest.mark.parametrize("size", [1, 7, 500])
def test_a_row_scores_the_same_bits_in_any_batch(size: int) -> None:
    scoring, data = scorer(), rows(2_000)
    alone = np.array([scoring.score_one(row) for row in data.tolist()])
    order = np.random.default_rng(size).permutation(len(data))

    for start in range(0, len(data), size):
        batch = order[start : start + size]
        assert scoring.score(data[batch]).tobytes() == alone[batch].tobytes()


def test_memory_layout_does_not_change_a_bit() -> None:
    scoring, data = scorer(), rows(64)
    expected = scoring.score(data).tobytes()
    assert scoring.score(np.asfortranarray(data)).tobytes() == expected
    assert scoring.score(np.repeat(data, 2, axis=0)[::2]).tobytes() == expected


def test_a_restored_scorer_scores_the_same_bits() -> None:
    data = rows(100)
    assert LinearScorer.from_bytes(scorer().to_bytes()).score(data).tobytes() == scorer().score(data).tobytes()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e300, 1e300), min_size=FEATURES, max_size=FEATURES))
def test_any_finite_row_has_a_probability(row: list[float]) -> None:
    probability = scorer().score_one(row)
    assert 0.0 <= probability <= 1.0
    assert scorer().score(np.array([row])).tolist() == [probability]


def test_contributions_add_up_to_the_log_odds_strongest_first() -> None:
    scoring, row = scorer(), rows(1)[0].tolist()
    shares = scoring.contributions(row, FEATURES)
    probability = scoring.score_one(row)

    total = scoring.coefficients.bias + math.fsum(share.contribution for share in shares)
    assert total == pytest.approx(math.log(probability / (1.0 - probability)), abs=1e-9)
    strengths = [abs(share.contribution) for share in shares]
    assert strengths == sorted(strengths, reverse=True)
    assert scoring.contributions(row, 3) == shares[:3]
    assert {share.name: share.value for share in shares} == dict(zip(scoring.coefficients.names, row, strict=True))


def test_a_feature_that_never_varied_contributes_nothing() -> None:
    shares = scorer().contributions([1e6, *[0.0] * (FEATURES - 1)], FEATURES)
    assert next(share.contribution for share in shares if share.name == "f0") == 0.0


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        scorer().score(rows(3)[:, :-1])
    with pytest.raises(ValueError, match="longer"):
        scorer().score_one([0.0])


def test_no_rows_give_no_scores() -> None:
    assert scorer().score(rows(0)).shape == (0,)


def test_foreign_bytes_are_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        LinearScorer.from_bytes(b"\x80\x04 no scorer")
