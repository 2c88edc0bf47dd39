"""What the challengers promise: they learn, resume to the bit, and say what is missing when an extra is."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from models.outcomes.boosting import Boosting, ExtraMissing, load
from models.outcomes.challengers import KINDS, Replayed
from models.outcomes.contest import Contest, Contestant
from models.outcomes.f4 import F4
from models.outcomes.f4_trees import F4Trees
from models.outcomes.model import Model
from models.outcomes.policies import POLICIES
from models.outcomes.scorer import sigmoid
from models.outcomes.scorers import open_scorer
from models.outcomes.trees_scorer import LEAF, Tree, TreesScorer, TreesScoring
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
    ("renewed", partial(tree, 1_400), partial(Replayed.from_bytes, kept=1_400)),
    ("f4_trees", with_trees, restore_trees),
]


@pytest.mark.parametrize(("make", "restore"), [of[1:] for of in MODELS], ids=[of[0] for of in MODELS])
@pytest.mark.parametrize("at", [0, 1, 1_300])
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


FROZEN = ["hoeffding_adaptive_tree", "adaptive_random_forest", "boosting"]


def make(kind: str) -> Replayed | Boosting:
    return Boosting(COLUMNS, CATEGORICAL) if kind == "boosting" else Replayed(kind, COLUMNS, CATEGORICAL)


@pytest.mark.parametrize("kind", FROZEN)
def test_frozen_trees_say_what_the_living_do_whatever_the_batch(kind: str) -> None:
    model = make(kind)
    assert model.scorer(("a", "b", "c")) is None
    teach(model, 2_000)
    scorer = model.scorer(("a", "b", "c"), outcome="buy", schema="s")
    assert scorer is not None
    again = open_scorer(scorer.to_bytes())
    assert (again.outcome, again.schema, again.names) == ("buy", "s", ("a", "b", "c"))
    chance = random.Random(9)
    # A code that was never seen, too.
    rows = [(chance.random(), chance.gauss(0, 1), float(chance.randrange(5))) for _ in range(1_100)]
    said = again.score(np.array(rows)).tolist()
    assert said == pytest.approx([model.see(row).prediction for row in rows], abs=1e-12)
    assert len(set(said)) > 3
    assert [again.score_one(row) for row in rows[:50]] == said[:50]
    for size in (1, 7):
        parts = [again.score(np.array(rows[at : at + size])).tolist() for at in range(0, 70, size)]
        assert [each for part in parts for each in part] == said[:70]
    with pytest.raises(ValueError, match=r"shape \(n, 3\)"):
        again.score(np.array([[1.0, 2.0]]))


@pytest.mark.parametrize("kind", FROZEN)
def test_frozen_trees_tell_which_columns_moved_a_row(kind: str) -> None:
    model = make(kind)
    teach(model, 2_000)
    scorer = model.scorer(("a", "b", "c"))
    assert scorer is not None
    up, down = ({each.name: each.contribution for each in scorer.contributions((a, 0.0, 0.0), 3)} for a in (0.9, 0.1))
    assert up["a"] > 0.0 > down["a"]
    # The second is noise.
    assert abs(up["a"]) > abs(up["b"])


def test_added_up_contributions_lead_from_the_root_to_what_was_said() -> None:
    model = make("boosting")
    teach(model, 1_000)
    scorer = model.scorer(("a", "b", "c"))
    assert scorer is not None
    root = sum(tree.values[0] for tree in scorer.scoring.trees)
    for row in ((0.9, 0.0, 0.0), (0.2, 1.0, 3.0)):
        moved = sum(each.contribution for each in scorer.contributions(row, 3))
        assert sigmoid(root + moved) == pytest.approx(scorer.score_one(row), abs=1e-9)


@pytest.mark.parametrize(
    "tree",
    [
        Tree((), (), (), (), ()),
        Tree((0, LEAF), (1.0, 0.0), (1, 0), (1, 0), (0.5,)),
        Tree((3, LEAF, LEAF), (1.0, 0.0, 0.0), (1, 0, 0), (2, 0, 0), (0.5, 0.5, 0.5)),
        Tree((0, LEAF, LEAF), (1.0, 0.0, 0.0), (1, 0, 0), (3, 0, 0), (0.5, 0.5, 0.5)),
    ],
)
def test_a_tree_that_leads_nowhere_is_refused(tree: Tree) -> None:
    with pytest.raises(ValueError, match="tree"):
        TreesScorer(TreesScoring(outcome="", schema="", names=("a",), link="mean", trees=(tree,), weights=(1.0,)))
