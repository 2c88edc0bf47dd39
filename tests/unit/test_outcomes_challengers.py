"""What the challengers promise: they learn, resume to the bit, and say what is missing when an extra is."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import partial

import pytest

from models.outcomes.boosting import Boosting, ExtraMissing, load
from models.outcomes.challengers import KINDS, Replayed
from models.outcomes.contest import Contest, Contestant
from models.outcomes.f4 import F4
from models.outcomes.f4_trees import F4Trees
from models.outcomes.model import Model
from models.outcomes.policies import POLICIES
from tests.unit.test_outcomes_contest import delayed

COLUMNS, CATEGORICAL = 3, (2,)


def with_trees() -> F4Trees:
    return F4Trees(F4(COLUMNS, CATEGORICAL, remembers=True), {"tree": tree()})


def tree(kept: int = 20_000) -> Replayed:
    return Replayed("hoeffding_adaptive_tree", COLUMNS, CATEGORICAL, kept=kept)


def restore_trees(data: bytes) -> F4Trees:
    return F4Trees.from_bytes(data, {"tree": Replayed.from_bytes})


def teach(model: Model, rows: int, seed: int = 1) -> list[float]:
    chance, said = random.Random(seed), []
    for _ in range(rows):
        row = (chance.random(), chance.gauss(0, 1), float(chance.randrange(4)))
        label = chance.random() < (0.8 if (row[0] > 0.5) != (row[2] == 3.0) else 0.1)
        sight = model.see(row)
        model.combine(sight, label)
        model.learn(row, label)
        said.append(sight.prediction)
    return said


MODELS: list[tuple[str, Callable[[], Model], Callable[[bytes], Model]]] = [
    *((kind, partial(Replayed, kind, COLUMNS, CATEGORICAL), Replayed.from_bytes) for kind in KINDS),
    ("renewed", partial(tree, 150), partial(Replayed.from_bytes, kept=150)),
    ("f4_trees", with_trees, restore_trees),
]


@pytest.mark.parametrize(("make", "restore"), [of[1:] for of in MODELS], ids=[of[0] for of in MODELS])
@pytest.mark.parametrize("at", [0, 1, 180])
def test_a_restored_challenger_goes_on_to_the_bit(
    at: int, make: Callable[[], Model], restore: Callable[[bytes], Model]
) -> None:
    undisturbed = make()
    teach(undisturbed, at)
    resumed = restore(undisturbed.to_bytes())
    assert teach(resumed, 150, seed=2) == teach(undisturbed, 150, seed=2)
    assert resumed.to_bytes() == undisturbed.to_bytes()


@pytest.mark.parametrize("make", [of[1] for of in MODELS], ids=[of[0] for of in MODELS])
def test_a_challenger_learns_and_never_says_never(make: Callable[[], Model]) -> None:
    model = make()
    said = teach(model, 1_500)
    assert 0.0 < min(said) < max(said) < 1.0
    assert model.see((0.9, 0.0, 0.0)).prediction > 1.3 * model.see((0.1, 0.0, 0.0)).prediction


def test_trees_add_to_the_stack_what_they_know() -> None:
    class Oracle:
        """Knows the sign of the product of three columns, which no cross of two shows."""

        def see(self, row: tuple[float, ...]) -> object:
            return type("Said", (), {"prediction": 0.9 if row[0] * row[1] * row[2] > 0 else 0.1})()

        def learn(self, row: tuple[float, ...], label: bool, weight: float = 1.0) -> None: ...

    model = F4Trees(F4(3), {"oracle": Oracle()})  # type: ignore[dict-item]
    chance, sure = random.Random(3), 0
    for n in range(3_000):
        row = tuple(chance.choice((-1.0, 1.0)) for _ in range(3))
        label = row[0] * row[1] * row[2] > 0
        sight = model.see(row)
        model.combine(sight, label)
        model.learn(row, label)
        sure += n >= 1_500 and (sight.prediction > 0.8) == label
    assert sure > 1_450


def test_challengers_take_part_in_a_contest_that_resumes() -> None:
    entries = {"tree": (Replayed.from_bytes, POLICIES["wait"]), "f4": (F4.from_bytes, POLICIES["wait"])}
    contest = Contest(
        [
            Contestant("tree", Replayed("hoeffding_adaptive_tree", 2), POLICIES["wait"]),
            Contestant("f4", F4(2), POLICIES["wait"]),
        ]
    )
    log = list(delayed(0.3, 700, 50))
    for each in log[:1_000]:
        contest.take(each)
    resumed = Contest.from_bytes(contest.to_bytes(), entries)
    for each in log[1_000:]:
        contest.take(each)
        resumed.take(each)
    assert contest.to_bytes() == resumed.to_bytes()


def test_without_the_extra_boosting_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ExtraMissing, match=r"nudge-stream\[trees\]"):
        Boosting(3)


def test_bytes_of_an_unknown_kind_are_refused() -> None:
    data = Replayed("logistic_regression", 1).to_bytes().replace(b"logistic_regression", b"logistic_regressor!")
    with pytest.raises(ValueError, match="logistic_regressor!"):
        Replayed.from_bytes(data)


def test_boosted_trees_resume_to_the_bit_across_a_fit() -> None:
    try:
        load()
    except ExtraMissing as missing:
        pytest.skip(str(missing))
    undisturbed = Boosting(COLUMNS, CATEGORICAL)
    teach(undisturbed, 520)
    resumed = Boosting.from_bytes(undisturbed.to_bytes())
    assert teach(resumed, 200, seed=2) == teach(undisturbed, 200, seed=2)
    assert resumed.to_bytes() == undisturbed.to_bytes()
    assert undisturbed.see((0.9, 0.0, 0.0)).prediction > 2.0 * undisturbed.see((0.1, 0.0, 0.0)).prediction
