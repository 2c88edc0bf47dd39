"""What an outcome learner promises: a champion that speaks, honest judgement, exact resumption, refusal of misfits."""

from __future__ import annotations

import math
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from models.outcomes.evaluation import log_loss
from models.outcomes.f4 import F4
from models.outcomes.features import CATEGORICAL, FEATURES, SCHEMA
from models.outcomes.learner import FIRST, FRESH, WARM, ExampleRefused, OutcomeLearner
from models.outcomes.recalibration import Recalibration
from models.outcomes.regression import Regression
from models.outcomes.scorers import RecalibratedScorer, open_scorer
from models.outcomes.shift import BLOCK, EVERY, ShiftState
from models.outcomes.trees_scorer import TreesScorer
from schemas.example import Example, Stage
from tests.unit.test_outcomes_contest import delayed

NAMES = ("a", "b")
NAMES_OF_TIME = ("tenure", "hour_sin", "hour_cos", "weekday_sin", "weekday_cos", "month_sin", "month_cos")


def example(
    features: tuple[float, ...] = (0.5, -1.0),
    stage: Stage = "exposed",
    label: int = 0,
    prediction: float | None = None,
    **changes: object,
) -> Example:
    fields: dict[str, object] = {
        "example_id": "e",
        "outcome": "buy",
        "partition": 0,
        "offset": 0,
        "index": 0,
        "exposed_at": 0,
        "schema": "s1",
    }
    row = {"features": features, "stage": stage, "label": label, "prediction": prediction}
    return Example(**(fields | row | changes))  # type: ignore[arg-type]


def learner() -> OutcomeLearner:
    return OutcomeLearner("buy", NAMES, "s1", window=50)


def taught(rows: int, window: int = 100) -> OutcomeLearner:
    learner = OutcomeLearner("buy", NAMES, "s1")
    for each in delayed(0.2, rows, window):
        learner.learn(each)
    return learner


@pytest.fixture(scope="module")
def warm() -> OutcomeLearner:
    return taught(3_000)


finite = st.floats(-1e6, 1e6)
stages = st.sampled_from([("exposed", 0), ("fulfilled", 1), ("matured", 0), ("matured", 1)])
predictions = st.none() | st.floats(0.0, 1.0)
rows = st.builds(
    lambda features, stage, p, number: example(features, *stage, p, example_id=str(number), exposed_at=number),
    st.tuples(finite, finite),
    stages,
    predictions,
    st.integers(0, 9),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(rows, max_size=30), st.lists(rows, max_size=30))
def test_a_restored_learner_goes_on_to_the_bit(before: list[Example], after: list[Example]) -> None:
    undisturbed = learner()
    for row in before:
        undisturbed.learn(row)
    resumed = OutcomeLearner.from_bytes(undisturbed.to_bytes())
    for row in after:
        undisturbed.learn(row)
        resumed.learn(row)
    assert resumed.to_bytes() == undisturbed.to_bytes()


def test_a_warm_learner_restored_in_the_middle_ends_as_the_undisturbed_one(warm: OutcomeLearner) -> None:
    log = list(delayed(0.2, 3_000, 100))
    resumed = OutcomeLearner("buy", NAMES, "s1")
    for number, row in enumerate(log):
        if number % 1_500 == 700:
            resumed = OutcomeLearner.from_bytes(resumed.to_bytes())
        resumed.learn(row)
    assert resumed.to_bytes() == warm.to_bytes()


def test_a_learner_is_silent_until_enough_labels_have_matured() -> None:
    silent = learner()
    for number in range(WARM - 1):
        silent.learn(example(stage="matured", label=number % 2))
    assert silent.cold
    assert silent.scorer() is None
    silent.learn(example(stage="matured", label=1))
    assert not silent.cold
    assert silent.scorer() is not None


def test_the_scorer_is_the_champions_to_the_bit(warm: OutcomeLearner) -> None:
    row = (1.0, 0.3)
    for name in warm.championship.names:
        named = OutcomeLearner.from_bytes(warm.to_bytes())
        named.championship.crown(name)
        scorer = named.scorer()
        assert scorer is not None
        again = open_scorer(scorer.to_bytes())
        assert again.score_one(row) == pytest.approx(named.contest.find(name).model.see(row).prediction, abs=1e-12)
        assert (again.names, again.outcome, again.schema) == (NAMES, "buy", "s1")
        assert [each.name for each in again.contributions(row, 1)] == ["a"]


def capped(rows: int, seed: int = 1) -> list[Example]:
    """Matured labels whose chance rises with the first feature to a half and no further: no logistic curve does so."""
    chance = random.Random(seed)
    drawn = [chance.uniform(-2.0, 2.0) for _ in range(rows)]
    labels = [int(chance.random() < 0.5 / (1.0 + math.exp(-4.0 * x))) for x in drawn]
    return [
        example((x, 0.0), "matured", label, example_id=str(number))
        for number, (x, label) in enumerate(zip(drawn, labels, strict=True))
    ]


def test_what_a_champion_says_is_recalibrated_while_it_is_better_for_it() -> None:
    learner = OutcomeLearner("buy", NAMES, "s1")
    learner.championship.crown("regression-wait")
    for each in capped(4_000):
        learner.learn(each)
    assert learner.metrics()["recalibrated"] == 1.0
    scorer, resumed = learner.scorer(), OutcomeLearner.from_bytes(learner.to_bytes()).scorer()
    assert isinstance(scorer, RecalibratedScorer)
    assert resumed is not None
    assert resumed.to_bytes() == scorer.to_bytes()
    fresh = capped(4_000, seed=2)
    rows = np.array([each.features for each in fresh])
    said, raw = scorer.score(rows).tolist(), scorer.raw.score(rows).tolist()
    gained = [
        log_loss(before, each.label) - log_loss(after, each.label)
        for before, after, each in zip(raw, said, fresh, strict=True)
    ]
    assert sum(gained) / len(gained) > 0.005
    again = open_scorer(scorer.to_bytes())
    assert [again.score_one(each.features) for each in fresh] == said
    assert again.contributions(fresh[0].features, 1) == scorer.raw.contributions(fresh[0].features, 1)
    # The map is the champion's alone.
    promoted = learner.scorer("regression-fnw")
    assert promoted is not None
    assert not isinstance(promoted, RecalibratedScorer)


def test_a_new_champion_begins_without_a_map(warm: OutcomeLearner) -> None:
    learner = OutcomeLearner.from_bytes(warm.to_bytes())
    said = tuple({**dict.fromkeys(learner.championship.names, 0.9), "regression-fnw": 0.1}.values())
    learner.contest.take = lambda example, negative: said  # type: ignore[method-assign]
    while learner.champion == FIRST:
        assert learner.recalibration.state() != Recalibration().state()
        learner.learn(example(stage="matured"))
    assert learner.champion == "regression-fnw"
    assert learner.recalibration.state() == Recalibration().state()


@pytest.mark.parametrize("champion", ["f4-wait", "f4-fnw"])
def test_what_is_right_is_left_as_it_is(champion: str) -> None:
    learner = OutcomeLearner("buy", NAMES, "s1")
    learner.championship.crown(champion)
    for each in delayed(0.2, 3_000, 300):
        learner.learn(each)
        assert not learner.recalibration.used


def test_entrants_are_judged_on_the_same_windows_and_change_nothing_for_the_others() -> None:
    log, names = list(delayed(0.2, 900, 100)), ("tree-wait", "boosting-wait")
    learner, plain = OutcomeLearner("buy", NAMES, "s1"), OutcomeLearner("buy", NAMES, "s1")
    for place, each in enumerate(log):
        if place == 600:
            learner.admit(names)
        if place == 1_400:
            learner = OutcomeLearner.from_bytes(learner.to_bytes())
        learner.learn(each)
        plain.learn(each)
    metrics = learner.metrics()
    assert metrics["tree-wait.rows"] == metrics["boosting-wait.rows"] > 300
    assert metrics["tree-wait.log_loss"] < 1.05 * metrics["tree-wait.base_log_loss"]
    assert learner.find_speaker("tree-wait") == "tree-wait"
    assert isinstance(learner.scorer("boosting-wait"), TreesScorer)
    # Without them it would have been the same.
    scorer, wanted = learner.scorer(), plain.scorer()
    assert scorer is not None
    assert wanted is not None
    assert scorer.to_bytes() == wanted.to_bytes()
    learner.admit(())
    assert learner.to_bytes() == plain.to_bytes()


def test_an_entrant_that_wins_speaks_until_it_leaves() -> None:
    learner = OutcomeLearner("buy", NAMES, "s1")
    for place, each in enumerate(delayed(0.2, 900, 100)):
        learner.learn(each)
        if place == 100:
            learner.admit(("tree-wait",))
    said = tuple({**dict.fromkeys(learner.championship.names, 0.9), "tree-wait": 0.1}.values())
    while learner.champion != "tree-wait":
        learner.championship.judge(said, 0)
    learner = OutcomeLearner.from_bytes(learner.to_bytes())
    assert isinstance(learner.scorer(), TreesScorer)
    learner.admit(())
    assert learner.champion == FIRST
    assert not isinstance(learner.scorer(), TreesScorer)


def test_codes_reach_every_model_and_are_remembered() -> None:
    learner = OutcomeLearner("buy", NAMES, "s1", categorical=(1,))
    for each in delayed(0.2, 600, 100):
        learner.learn(each)
    resumed = OutcomeLearner.from_bytes(learner.to_bytes())
    assert resumed.categorical == (1,)
    for name in learner.championship.names:
        model = resumed.contest.find(name).model
        assert isinstance(model, F4 | Regression)
        assert model.categorical == (1,)
    spoken = resumed.contest.find("regression-wait").model
    assert spoken.see((1.0, 0.3)) == spoken.see((1.0, 7e8))


def test_every_contestant_is_judged_beside_what_was_served(warm: OutcomeLearner) -> None:
    metrics = warm.metrics()
    assert metrics["unscored"] == 3_000
    for name in warm.championship.names:
        assert metrics[f"{name}.rows"] > 2_000
        assert metrics[f"{name}.log_loss"] < metrics[f"{name}.base_log_loss"]
        assert metrics[f"{name}.calibration_ratio"] == pytest.approx(1.0, abs=0.1)


def test_the_champion_is_deposed_by_a_contestant_that_is_better() -> None:
    learner = taught(600)
    assert learner.champion == FIRST
    better, others = "regression-fnw", dict.fromkeys(learner.championship.names, 0.9)
    said = tuple({**others, better: 0.1}.values())
    for _ in range(50):
        learner.championship.judge(said, 0)
    assert learner.champion == better
    assert learner.metrics()["crowned"] == 1
    assert OutcomeLearner.from_bytes(learner.to_bytes()).champion == better


def test_served_predictions_are_judged_by_segment() -> None:
    judged = learner()
    judged.learn(example(stage="matured", label=1, prediction=0.25, channel="email"))
    judged.learn(example(stage="matured", label=1, prediction=None))
    metrics = judged.metrics()
    assert (metrics["rows"], metrics["unscored"], metrics["calibration_ratio"]) == (1.0, 1.0, 0.25)
    assert judged.served.segments()["channel=email"].predicted == 0.25
    assert judged.rows == {"exposed": 0, "fulfilled": 0, "matured": 2}


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (example(schema="s2"), "schema"),
        (example(outcome="churn"), "outcome"),
        (example((1.0, 2.0, 3.0)), "number of features"),
        (example((1.0, math.nan)), "features"),
        (example((math.inf, -math.inf)), "features"),
        (example(label=2), "label"),
        (example(stage="matured", prediction=1.5), "prediction"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_and_changes_nothing(bad: Example, named: str) -> None:
    guarded = learner()
    guarded.learn(example())
    before = guarded.to_bytes()
    with pytest.raises(ExampleRefused, match=named):
        guarded.learn(bad)
    assert guarded.to_bytes() == before


def test_a_state_of_other_models_is_refused() -> None:
    """Would have caught: a learner resumed from the state of a release that had other models."""
    state = learner().to_bytes()
    with pytest.raises(KeyError):
        OutcomeLearner.from_bytes(state.replace(b"f4-wait", b"f5-wait"))


def test_a_copy_of_an_example_changes_what_it_should() -> None:
    """An example is told apart by its place, not here; but a window that matures twice is judged once."""
    learner = taught(600)
    judged = learner.championship.judged
    again = replace(next(each for each in delayed(0.2, 600, 100) if each.stage == "matured"))
    learner.learn(again)
    assert learner.championship.judged == judged


def turned(rows: int, at: int) -> list[Example]:
    """A log whose first feature means the opposite from row `at` on."""
    log = delayed(0.45, rows, 600)
    return [
        replace(each, features=(1.0 - each.features[0], each.features[1])) if each.exposed_at >= at else each
        for each in log
    ]


def test_a_fresh_challenger_enters_when_the_world_has_turned() -> None:
    """Would have caught: a drift that is told and changes nothing."""
    learner, undisturbed = OutcomeLearner("buy", NAMES, "s1"), OutcomeLearner("buy", NAMES, "s1")
    log = turned(6_000, 3_000)
    for place, each in enumerate(log):
        if place == len(log) * 2 // 3:
            learner = OutcomeLearner.from_bytes(learner.to_bytes())
        learner.learn(each)
        undisturbed.learn(each)
    assert undisturbed.to_bytes() == learner.to_bytes()
    metrics = learner.metrics()
    assert metrics["drifts"] >= 1
    assert 0.0 < metrics["drift_severity"] < 1.0
    assert f"{FRESH}.rows" in metrics


def test_without_a_change_nobody_fresh_enters(warm: OutcomeLearner) -> None:
    assert warm.metrics()["drifts"] == 0
    assert FRESH not in warm.championship.names


def test_rows_that_shift_are_told_and_let_somebody_fresh_in() -> None:
    """Would have caught: a stability index that nobody acts on, or that a restored learner forgets."""
    learner, undisturbed = OutcomeLearner("buy", NAMES, "s1"), OutcomeLearner("buy", NAMES, "s1")
    at = 2 * EVERY * BLOCK
    log = delayed(0.2, at + EVERY * BLOCK, 100)
    for place, each in enumerate(log):
        moved = replace(each, features=(each.features[0], each.features[1] + 2.0)) if each.offset >= at else each
        if place == at:
            assert FRESH not in learner.championship.names
            learner = OutcomeLearner.from_bytes(learner.to_bytes())
        learner.learn(moved)
        undisturbed.learn(moved)
    assert undisturbed.to_bytes() == learner.to_bytes()
    metrics = learner.metrics()
    assert metrics["shifts"] == 1
    assert metrics["psi"] == metrics["shift_severity"] == learner.shift.psi[1] > 1.0
    assert FRESH in learner.championship.names


def test_columns_that_move_with_time_let_nobody_in() -> None:
    known = OutcomeLearner("buy", [feature.name for feature in FEATURES], SCHEMA, categorical=CATEGORICAL)
    clock = [place for place, name in enumerate(known.names) if name in NAMES_OF_TIME]
    for each in delayed(0.2, 3 * EVERY * BLOCK, 100):
        row = tuple([float(each.offset) if place in clock else 1.0 for place in range(len(FEATURES))])
        known.learn(replace(each, features=row, schema=SCHEMA))
    assert len(clock) == len(NAMES_OF_TIME)
    assert max(known.shift.psi) > 1.0
    assert known.metrics()["shifts"] == 0


def test_a_learner_written_before_rows_were_watched_is_read(warm: OutcomeLearner) -> None:
    before = msgspec.msgpack.decode(warm.to_bytes())
    del before["shift"]
    resumed = OutcomeLearner.from_bytes(msgspec.msgpack.encode(before))
    assert resumed.shift.state() == ShiftState()
    assert resumed.metrics()["rows"] == warm.metrics()["rows"]
