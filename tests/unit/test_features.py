"""Rows of features: one layout with a name, finite for whatever comes, and nothing in them from later."""

from __future__ import annotations

import copy
import math
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as configured
from hypothesis import strategies as st

from models.outcomes.features import (
    CATEGORICAL,
    CLICKS,
    CONVERSIONS,
    FEATURES,
    NAMES,
    SCHEMA,
    encode_text,
    freeze,
    hash_layout,
)
from models.person import Person, advance
from schemas.event import ROLES, Event, Role
from tests.unit.factories import NOON, event
from tests.unit.test_person import Arrival, any_arrival, any_event, live, plain_arrival, texts, times

HOUR = 3_600_000
DAY = 24 * HOUR

counts = st.floats(0.0, 1e6)
ORDERED = ("gap", "since_conversion", "orders", "order_rate", "order_value", "affinity", "breadth", "price_ratio")
"""Columns that depend on the order of events; the others are of the event itself and of what commutes (`COMMUTING`)."""


def row(person: Person, moment: Event, role: Role = "view", gap: int = 0, since: int | None = None) -> dict[str, float]:
    return dict(zip(NAMES, freeze(person, moment, role, gap, since), strict=True))


def seen(*moments: tuple[Any, Role]) -> Person:
    person = Person()
    for moment, role in moments:
        advance(person, moment.build(), role, None, late=False)
    return person


@configured(max_examples=60, deadline=None)
@given(st.lists(any_arrival, max_size=4), any_event, st.sampled_from(ROLES), st.integers(-(2**48), 2**48))
def test_any_event_gives_a_row_of_finite_floats(arrivals: list[Arrival], moment: Event, role: Role, gap: int) -> None:
    person = Person()
    for arrival, of, _, late in arrivals:
        advance(person, arrival, of, 0.5 if arrival.ts >= person.last_seen else None, late)
    advance(person, moment, role, None, late=False)

    for since in (None, gap):
        found = freeze(person, moment, role, gap, since)
        assert len(found) == len(FEATURES)
        assert all(type(value) is float and math.isfinite(value) for value in found)


def test_the_layout_has_a_name_of_its_own() -> None:
    assert len(set(NAMES)) == len(NAMES) == len(FEATURES)
    # Another layout must get another name, and snapshots of this one are refused then: change both knowingly.
    assert len(SCHEMA) == 12
    assert all(feature.unit and feature.meaning for feature in FEATURES)
    assert hash_layout(FEATURES) == SCHEMA


@pytest.mark.parametrize("change", [{"name": "x"}, {"unit": "x"}, {"meaning": "x"}, {"kind": "code"}])
def test_a_layout_in_which_anything_differs_has_another_name(change: dict[str, Any]) -> None:
    """Would have caught: a model that takes for a quantity what has become a code."""
    assert hash_layout([*FEATURES[:3], FEATURES[3]._replace(**change), *FEATURES[4:]]) != SCHEMA
    assert hash_layout([*FEATURES[1:], FEATURES[0]]) != SCHEMA


def test_codes_are_told_from_numbers() -> None:
    assert [NAMES[place] for place in CATEGORICAL] == ["channel", "campaign"]


@configured(max_examples=60, deadline=None)
@given(st.lists(any_arrival, max_size=4), any_event, st.sampled_from(ROLES))
def test_freezing_changes_nobody(arrivals: list[Arrival], moment: Event, role: Role) -> None:
    person = live([(of, its, None, late) for of, its, _, late in arrivals])
    before = copy.deepcopy(person)
    assert freeze(person, moment, role, 0, None) == freeze(person, moment, role, 0, None)
    assert person == before


@configured(max_examples=100, deadline=None)
@given(
    st.lists(plain_arrival, min_size=1, max_size=12).flatmap(lambda f: st.tuples(st.just(f), st.permutations(f))),
)
def test_what_commutes_gives_the_same_columns_in_any_order(drawn: Any) -> None:
    moment = event(channel="web", campaign_id="c1", price=3.0).at(NOON + 201 * DAY).build()
    found, shuffled = (
        row(live([*((*arrival, False) for arrival in arrivals), (moment, "click", None, False)]), moment, "click")
        for arrivals in drawn
    )
    for name in set(NAMES) - set(ORDERED):
        assert found[name] == pytest.approx(shuffled[name], rel=1e-9, abs=1e-9), name


def test_the_role_is_told_one_among_its_kind() -> None:
    flags = ("is_exposure", "is_click", "is_view", "is_intent", "is_conversion")
    for role in ROLES:
        moment = event()
        found = row(seen((moment, role)), moment.build(), role)
        on = [name for name in flags if found[name] == 1.0]
        assert on == ([f"is_{role}"] if f"is_{role}" in flags else [])
        assert sum(found[name] for name in flags) == len(on)


def test_counts_and_times_are_logarithms() -> None:
    first, second = event(), event().after(2 * DAY)
    person = seen((first, "view"), (second, "exposure"))
    found = row(person, second.build(), "exposure", 2 * DAY, 3 * HOUR)
    assert found["exposures"] == math.log1p(1.0)
    assert found["views"] == pytest.approx(math.log1p(2 ** (-2 / 7)))
    assert found["tenure"] == math.log1p(2.0)
    assert found["gap"] == math.log1p(48.0)
    assert found["since_conversion"] == math.log1p(3.0)


def test_no_conversion_is_told_from_one_just_now() -> None:
    person = seen((event(), "view"))
    assert row(person, event().build(), since=None)["since_conversion"] == -1.0
    assert row(person, event().build(), since=0)["since_conversion"] == 0.0
    assert row(person, event().build(), since=-5)["since_conversion"] == 0.0
    assert row(person, event().build(), gap=-5)["gap"] == 0.0


def test_orders_tell_rate_and_value() -> None:
    def buy(days: int) -> Any:
        return event(price=30, quantity=2, session_id=f"s{days}").of_type("purchase").after(days * DAY)

    person = seen((buy(0), "conversion"), (buy(60), "conversion"))
    found = row(person, buy(60).build(), "conversion")
    assert found["orders"] == math.log1p(2)
    assert found["order_rate"] == math.log1p(2 / 2)
    assert found["order_value"] == math.log1p(60.0)
    assert found["price"] == math.log1p(30.0)


def test_affinity_is_a_share() -> None:
    moments = [(event(category=name), "view") for name in ("tea", "tea", "tea", "cups")]
    person = seen(*moments)  # type: ignore[arg-type]
    assert row(person, event(category="tea").build())["affinity"] == 0.75
    assert row(person, event(category="cups").build())["affinity"] == 0.25
    assert row(person, event(category="hats").build())["affinity"] == 0.0
    assert row(person, event().build())["affinity"] == 0.0
    assert row(person, event().build())["breadth"] == 2.0


def test_hour_and_weekday_go_round() -> None:
    midnight, noon = (row(Person(), event().at(NOON + add).build()) for add in (12 * HOUR, 0))
    assert midnight["hour_cos"] == pytest.approx(1.0)
    assert noon["hour_cos"] == pytest.approx(-1.0)
    week = {(row(Person(), event().at(NOON + d * DAY).build())["weekday_sin"]) for d in range(14)}
    assert len(week) == 7


@given(times)
def test_a_month_is_the_calendars(ts: int) -> None:
    found = row(Person(), event().at(ts).build())
    month = datetime.fromtimestamp(ts // 1000, UTC).month
    turn = 2 * math.pi * (month - 1) / 12
    assert (found["month_sin"], found["month_cos"]) == (math.sin(turn), math.cos(turn))


def test_months_go_round() -> None:
    year = [row(Person(), event().at(NOON + d * DAY).build()) for d in range(366)]
    places = {(found["month_sin"], found["month_cos"]) for found in year}
    assert len(places) == 12
    december, january = (row(Person(), event().at(NOON + d * DAY).build()) for d in (244, 245))
    assert math.dist(*((of["month_sin"], of["month_cos"]) for of in (december, january))) == pytest.approx(
        0.5176, abs=1e-4
    )


def clicked(exposures: float, clicks: float, views: float = 0.0, conversions: float = 0.0) -> dict[str, float]:
    person = Person(events_exposure=exposures, events_click=clicks, events_view=views, events_conversion=conversions)
    return row(person, event().build())


@given(counts, counts, counts, counts)
def test_rates_are_bounded(exposures: float, clicks: float, views: float, conversions: float) -> None:
    found = clicked(exposures, clicks, views, conversions)
    assert 0.0 < found["click_rate"] <= 1.0
    assert 0.0 < found["conversion_rate"] <= 1.0


@given(counts, counts, counts, counts, st.floats(1e-3, 1e6))
def test_rates_rise_with_hits_and_fall_with_chances(
    exposures: float, clicks: float, views: float, conversions: float, more: float
) -> None:
    # The last bit is rounded either way.
    least = 1.0 - 1e-15
    found = clicked(exposures, clicks, views, conversions)
    assert clicked(exposures, clicks + more)["click_rate"] >= found["click_rate"] * least
    assert clicked(exposures + more, clicks)["click_rate"] * least <= found["click_rate"]
    rate = found["conversion_rate"]
    assert clicked(exposures, clicks, views, conversions + more)["conversion_rate"] >= rate * least
    assert clicked(exposures, clicks, views + more, conversions)["conversion_rate"] * least <= rate
    assert clicked(exposures, clicks + more, views, conversions)["conversion_rate"] * least <= rate


def test_rates_begin_at_the_prior_and_come_to_what_was_seen() -> None:
    nothing = clicked(0.0, 0.0)
    assert (nothing["click_rate"], nothing["conversion_rate"]) == (CLICKS, CONVERSIONS)
    assert clicked(1.0, 1.0)["click_rate"] == (1.0 + CLICKS) / 2.0
    assert clicked(3.0, 1.0)["click_rate"] == (1.0 + CLICKS) / 4.0
    assert clicked(0.0, 1.0, 2.0, 1.0)["conversion_rate"] == (1.0 + CONVERSIONS) / 4.0
    assert clicked(1e5, 1e4)["click_rate"] == pytest.approx(0.1, abs=1e-4)
    assert clicked(0.0, 0.0, 0.0, 1e6)["conversion_rate"] == pytest.approx(1.0, abs=1e-5)


def test_a_price_is_seen_against_the_orders_of_the_person() -> None:
    bought = (event(price=30.0, quantity=2).of_type("purchase"), "conversion")
    person = seen(bought)  # type: ignore[arg-type]
    assert row(person, event(price=60.0).build())["price_ratio"] == 0.0
    assert row(person, event(price=121.0).build())["price_ratio"] == pytest.approx(math.log(122 / 61))
    assert row(person, event(price=29.5).build())["price_ratio"] == pytest.approx(-math.log(2))
    assert row(person, event().build())["price_ratio"] == 0.0
    assert row(Person(), event(price=29.5).build())["price_ratio"] == 0.0


@given(texts, texts)
def test_equal_texts_and_no_others_have_equal_codes(one: str, other: str) -> None:
    found = row(Person(), event(channel=one[:128], campaign_id=other).build())
    assert found["channel"] == encode_text(one[:128])
    assert found["campaign"] == encode_text(other) > 0.0
    assert found["campaign"] == (zlib.crc32(other.encode()) or 1)
    assert (encode_text(one) == encode_text(other)) == (one == other)


def test_codes_are_those_of_every_process_and_release() -> None:
    """Would have caught: a code made with `hash`, which differs from one process to the next."""
    assert {text: encode_text(text) for text in ("web", "app", "email", "store")} == {
        "web": 365508689.0,
        "app": 3379458255.0,
        "email": 3885137012.0,
        "store": 4283914359.0,
    }
    assert encode_text("") == 1.0
    bare = row(Person(), event().build())
    assert (bare["channel"], bare["campaign"]) == (0.0, 0.0)
