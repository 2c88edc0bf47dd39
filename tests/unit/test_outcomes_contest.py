"""What a contest promises: each policy's true bias, honest predictions, and exact resumption."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.outcomes.contest import WARM, Contest, Contestant, weigh_negative
from models.outcomes.f4 import F4
from models.outcomes.model import Sight
from models.outcomes.policies import POLICIES
from schemas.example import Example, Stage

ENTRIES = {name: (F4.from_bytes, policy) for name, policy in POLICIES.items()}


def example(number: int, stage: Stage, label: int, features: tuple[float, ...]) -> Example:
    return Example(
        example_id=str(number),
        outcome="buy",
        stage=stage,
        label=label,
        partition=0,
        offset=number,
        index=0,
        exposed_at=number,
        features=features,
        schema="s1",
    )


def delayed(rate: float, rows: int, window: int, seed: int = 7) -> Iterator[Example]:
    """Exposures, one a millisecond, twice as likely to be fulfilled where the first feature is 1, within `window`."""
    chance = random.Random(seed)
    due: dict[int, list[Example]] = {}
    for number in range(rows + window + 1):
        yield from due.pop(number, ())
        if number >= rows:
            continue
        features = (float(chance.random() < 0.5), chance.gauss(0, 1))
        label = int(chance.random() < rate * (1.0 + features[0]))
        yield example(number, "exposed", 0, features)
        if label:
            late = number + chance.randrange(1, window)
            due.setdefault(late, []).append(example(number, "fulfilled", 1, features))
        due.setdefault(number + window, []).append(example(number, "matured", label, features))


@given(st.text(max_size=12), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_what_is_sampled_at_one_rate_is_at_every_higher_one(example_id: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert weigh_negative(example_id, low) in (0.0, 1.0 / low)
    if weigh_negative(example_id, low):
        assert weigh_negative(example_id, high) == 1.0 / high


@pytest.mark.parametrize("rates", [(0.25,), (0.5, 0.125)])
@pytest.mark.parametrize("policy", ["wait", "fake-negative-weighting"])
def test_sampled_negatives_do_not_bias_a_sound_policy(policy: str, rates: tuple[float, ...]) -> None:
    """Also where the rate has changed between a window's beginning and its end."""
    taught = Counting(2)
    judged = Contest([Contestant(policy, taught, POLICIES[policy])], window=500)
    labels = 0
    for number, each in enumerate(delayed(0.1, 12_000, 300)):
        negative = weigh_negative(each.example_id, rates[number // 400 % len(rates)])
        judged.take(each, negative)
        labels += each.label and each.stage == "matured"
    metrics = judged.metrics()[policy]
    assert 1_000 < metrics["rows"] < 6_000
    assert metrics["rows"] + metrics["unscored"] == 12_000
    assert metrics["calibration_ratio"] == pytest.approx(1.0, abs=0.1)
    assert metrics["log_loss"] < metrics["base_log_loss"]
    assert taught.positives == pytest.approx(labels, abs=WARM)
    assert taught.negatives < 5_000


class Counting(F4):
    """Counts what it is taught."""

    positives = negatives = 0

    def learn(self, row: Sequence[float], label: bool, weight: float = 1.0) -> None:
        self.positives += label
        self.negatives += not label
        super().learn(row, label, weight)


def contest() -> Contest:
    return Contest([Contestant(name, F4(2), policy) for name, policy in POLICIES.items()], window=500)


@pytest.fixture(scope="module")
def run() -> Contest:
    judged = contest()
    for each in delayed(0.2, 6_000, 300):
        judged.take(each)
    return judged


@pytest.mark.parametrize("policy", ["wait", "fake-negative-weighting"])
def test_late_positives_do_not_bias_a_sound_policy(run: Contest, policy: str) -> None:
    metrics = run.metrics()[policy]
    assert metrics["rows"] > 5_000
    assert metrics["calibration_ratio"] == pytest.approx(1.0, abs=0.06)
    assert metrics["log_loss"] < metrics["base_log_loss"]


def test_the_immediate_policy_is_biased_as_theory_says(run: Contest) -> None:
    # Of rates 0.2 and 0.4 it makes 1/6 and 2/7.
    expected = (1 / 6 + 2 / 7) / (0.2 + 0.4)
    assert run.metrics()["immediate"]["calibration_ratio"] == pytest.approx(expected, abs=0.06)


def test_everybody_is_judged_on_the_same_windows(run: Contest) -> None:
    assert len({(of["rows"], of["unscored"]) for of in run.metrics().values()}) == 1
    assert run.matured == 6_000


@pytest.mark.parametrize("at", [100, 900, 4_000])
def test_a_restored_contest_goes_on_to_the_bit(at: int) -> None:
    log = list(delayed(0.2, 2_000, 200))
    undisturbed = contest()
    for each in log[:at]:
        undisturbed.take(each)
    resumed = Contest.from_bytes(undisturbed.to_bytes(), ENTRIES)
    for each in log[at : at + 600]:
        assert resumed.take(each) == undisturbed.take(each)
    assert resumed.to_bytes() == undisturbed.to_bytes()


class Recorder:
    """A model that says how many rows it has learned, in thousandths, and notes them."""

    def __init__(self) -> None:
        self.learned: list[tuple[tuple[float, ...], bool]] = []

    def see(self, row: tuple[float, ...]) -> Sight:
        return Sight(len(self.learned) / 1e4, ())

    def learn(self, row: tuple[float, ...], label: bool, weight: float = 1.0) -> None:
        self.learned.append((row, label))

    def combine(self, sight: Sight, label: bool, weight: float = 1.0) -> None: ...

    def to_bytes(self) -> bytes:
        return b""


def watch(policy: str) -> tuple[Recorder, Contest]:
    recorder = Recorder()
    return recorder, Contest([Contestant("one", recorder, POLICIES[policy])], limit=10_000)  # type: ignore[list-item]


def test_the_prediction_that_is_judged_was_made_at_exposure() -> None:
    recorder, judged = watch("wait")
    said = {}
    for each in delayed(0.3, 1_000, 100):
        if each.stage == "exposed":
            said[each.example_id] = recorder.see(each.features).prediction
        elif each.stage == "matured" and (predictions := judged.take(each)) is not None:
            assert predictions == (said[each.example_id],)
            continue
        if each.stage != "matured":
            judged.take(each)
    assert judged.metrics()["one"]["rows"] > 600


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_window_is_learned_by_one_policy_from_its_opening_to_its_end(policy: str) -> None:
    recorder, judged = watch(policy)
    labels: dict[tuple[float, ...], int] = {}
    for each in delayed(0.3, 1_000, 100):
        judged.take(each)
        if each.stage == "matured":
            labels[each.features] = each.label
    learned: dict[tuple[float, ...], list[bool]] = {}
    for row, label in recorder.learned:
        learned.setdefault(row, []).append(label)

    early = [row for row, seen in learned.items() if seen == [bool(labels[row])]]
    late = [row for row, seen in learned.items() if seen == ([False, True] if labels[row] else [False])]
    assert len(learned) == 1_000
    assert {*early, *late} == set(learned)
    # Those open when the policy began to hold wait for their end: as many as had matured, and a window's more.
    fulfilled_early = sum(labels[row] for row in early if learned[row] == [True])
    assert fulfilled_early > 0
    if policy != "wait":
        assert sum(learned[row] == [False, True] for row in late) > 0
        assert sum(learned[row] == [True] for row in early) < 2 * (WARM + 100)


def test_windows_beyond_the_limit_are_not_judged_and_still_learned() -> None:
    recorder = Recorder()
    judged = Contest([Contestant("one", recorder, POLICIES["wait"])], limit=10)  # type: ignore[list-item]
    for each in delayed(0.3, 1_000, 100):
        judged.take(each)
    metrics = judged.metrics()["one"]
    assert len(recorder.learned) == 1_000
    assert 0 < metrics["rows"] < 200
    assert metrics["rows"] + metrics["unscored"] == 1_000


def test_a_window_beyond_the_limit_that_is_fulfilled_does_not_stay_a_negative() -> None:
    """Would have caught: rates far too low once more windows are open than are kept."""
    few = Contest([Contestant(name, F4(2), policy) for name, policy in POLICIES.items()], limit=10)
    for each in delayed(0.2, 6_000, 300):
        few.take(each)
    model = few.find("fake-negative-weighting").model
    noise = [place / 10 for place in range(-20, 21)]
    low, high = (sum(model.see((first, other)).prediction for other in noise) / len(noise) for first in (0.0, 1.0))
    assert (low, high) == pytest.approx((0.2, 0.4), abs=0.08)
