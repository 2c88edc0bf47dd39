"""What an outcome is, is a setting: click-through and churn are defined here as conversion is, and learned alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from models.lifecycle.registry import Lineup
from models.outcomes.windows import Window
from schemas.trigger import RecommendationTrigger
from stream.settings import BadSettings, Outcome, ScoreRule, load_settings
from tests.unit.factories import EventDraft
from tests.unit.reference import Reference, make_lineup, make_scorer
from tests.unit.test_features_stage import HOUR, at, examples, simple, told, write

DAY = 24 * HOUR
DAYS = 24 * 60
"""In minutes, as `at` takes them."""
ACTIVITY = ("view", "click", "intent", "conversion")

CLICK = Outcome(
    name="click",
    opened_by=("exposure",),
    fulfilled_by=("click",),
    window=DAY,
    same=("campaign", "item", "trigger"),
    other_session=False,
    once_per="event",
)
CHURN = Outcome(
    name="churn", opened_by=ACTIVITY, fulfilled_by=ACTIVITY, window=30 * DAY, after=DAY, once_per="day", inverted=True
)


def change(outcome: Outcome, **fields: Any) -> Outcome:
    return outcome.model_copy(update=fields)


def play(outcome: Outcome, *drafts: EventDraft, models: Lineup | None = None, **options: Any) -> Reference:
    return Reference(simple(outcomes=(outcome,), **options), models=models).run(write(*drafts))


def fulfilled(outcome: Outcome, *drafts: EventDraft) -> list[int]:
    """Offsets at which a window was fulfilled."""
    return [offset for _, _, offset in told(play(outcome, *drafts), "fulfilled")]


def opened(outcome: Outcome, *drafts: EventDraft) -> list[int]:
    """Offsets that opened a window."""
    return [offset for _, _, offset in told(play(outcome, *drafts), "exposed")]


def test_a_click_in_the_session_of_its_exposure_counts() -> None:
    log = (at(0, "ad_impression", session_id="s1"), at(1, "ad_click", session_id="s1"))
    assert fulfilled(CLICK, *log) == [1]
    assert fulfilled(change(CLICK, other_session=True), *log) == []


@pytest.mark.parametrize(
    ("field", "shared"), [("campaign_id", "campaign"), ("item_id", "item"), ("trigger_id", "trigger")]
)
def test_what_must_be_the_same_must_be_the_same_where_the_exposure_has_it(field: str, shared: str) -> None:
    exposure = at(0, "ad_impression", **{field: "a"})
    other, none, own = (at(1 + n, "ad_click", **fields) for n, fields in enumerate(({field: "b"}, {}, {field: "a"})))
    assert fulfilled(CLICK, exposure, other, none, own) == [3]
    assert fulfilled(CLICK, at(0, "ad_impression"), other) == [1]
    # and where the outcome does not ask for it, another will do
    rest = tuple(each for each in CLICK.same if each != shared)
    assert fulfilled(change(CLICK, same=rest), exposure, other) == [1]


def test_a_label_keeps_its_campaign_where_another_may_fulfil_it() -> None:
    outcome = change(CLICK, same=())
    found = play(outcome, at(0, "ad_impression", campaign_id="a"), at(1, "ad_click", campaign_id="b"))
    assert [one.campaign_id for one in examples(found.entries, "fulfilled")] == ["a"]


def test_what_comes_too_soon_is_no_return() -> None:
    log = (at(0), at(DAYS - 1), at(DAYS), at(1.5 * DAYS))
    assert fulfilled(CHURN, *log)[0] == 2
    assert fulfilled(change(CHURN, after=0), *log)[0] == 1


@pytest.mark.parametrize(
    ("once_per", "wanted"),
    [
        ("event", [0, 1, 2, 3, 4]),
        ("session", [0, 2, 3, 4]),
        ("item", [0, 1, 3, 4]),
        ("day", [0, 3]),
        ("window", [0]),
    ],
)
def test_what_counts_as_one_exposure_is_a_setting(once_per: str, wanted: list[int]) -> None:
    log = (
        at(0, item_id="a", session_id="s1"),
        at(1, item_id="b", session_id="s1"),
        at(2, item_id="a", session_id="s2"),
        at(DAYS),
        at(DAYS + 1),
    )
    assert opened(change(CHURN, once_per=once_per, fulfilled_by=("feedback",)), *log) == wanted


def test_churn_is_told_as_the_probability_that_nobody_comes_back() -> None:
    rule = ScoreRule(name="leaving", outcome="churn", roles=("view",), at_least=0.0)
    outcome = change(CHURN, value=20.0)
    found = play(outcome, at(0), models=make_lineup("churn"), rules=(rule,))

    person, latest = found.people["u1"].person, found.latest
    assert person is not None
    assert latest is not None
    row = latest.items[-1].row
    assert row is not None
    stays = make_scorer("churn").score_one(row)
    assert person.churn_probability == 1.0 - stays
    assert person.conversion_probability is None

    # the window keeps what the model said, by which it is judged
    (example,) = examples(found.entries, "exposed")
    assert example.prediction == stays

    # and a trigger speaks of leaving, its worth and what speaks for it
    (trigger,) = [
        msgspec.json.decode(entry.value, type=RecommendationTrigger)
        for entry in found.entries
        if entry.target == "recommendations"
    ]
    assert trigger.scores == {"churn": 1.0 - stays}
    assert trigger.expected_value == pytest.approx(20.0 * (1.0 - stays))
    assert "likely: no view or click or intent or conversion within 30 days of this view" in trigger.reason
    for_staying = make_scorer("churn").contributions(row, 5)
    assert [one.contribution for one in trigger.top_features] == [-one.contribution for one in for_staying]


def test_a_click_probability_is_the_profiles_ctr() -> None:
    found = play(CLICK, at(0, "ad_impression"), models=make_lineup("click"))
    person = found.people["u1"].person
    assert person is not None
    assert person.ctr is not None
    assert 0.0 < person.ctr < 1.0


def test_three_outcomes_are_learned_side_by_side_from_one_event() -> None:
    outcomes = (Outcome(window=HOUR), CLICK, CHURN)
    found = Reference(simple(outcomes=outcomes)).run(
        write(at(0, "ad_impression"), at(1, "ad_click"), at(2, "purchase"))
    )
    labels = {(one.outcome, one.stage, one.offset) for one in examples(found.entries)}
    assert labels == {
        ("conversion", "exposed", 0), ("click", "exposed", 0),
        ("click", "fulfilled", 1), ("churn", "exposed", 1),
        ("conversion", "fulfilled", 2), ("conversion", "exposed", 2),
    }  # fmt: skip


def test_a_window_from_before_it_knew_items_is_read() -> None:
    """State written by the version before ends earlier in the list."""
    window = Window("i", "outcome", "conversion", "u", "e", 1, 2, fulfilled=True)
    packed = msgspec.msgpack.encode(msgspec.structs.astuple(window)[:-2])
    assert msgspec.msgpack.decode(packed, type=Window) == window


def test_the_readmes_definitions_are_these() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (block,) = [part for part in text.split("```") if part.startswith("yaml\noutcomes:")]
    written = yaml.safe_load(block.removeprefix("yaml\n"))
    assert load_settings(**written).outcomes == (Outcome(), CLICK, change(CHURN, value=20.0))


@pytest.mark.parametrize(
    "fields", [{"same": ["person"]}, {"once_per": "week"}, {"value": 0}, {"after": "-1d"}, {"after": "30d"}]
)
def test_a_definition_that_cannot_be_is_told(fields: dict[str, Any]) -> None:
    with pytest.raises(BadSettings, match=next(iter(fields))):
        load_settings(outcomes=[fields])
