"""Rows of features: one layout with a name, finite for whatever comes, and nothing in them from later."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as configured
from hypothesis import strategies as st

from models.outcomes.features import FEATURES, NAMES, SCHEMA, freeze
from models.person import Person, advance
from schemas.event import ROLES, Event, Role
from tests.unit.factories import NOON, event
from tests.unit.test_person import Arrival, any_arrival, any_event

HOUR = 3_600_000
DAY = 24 * HOUR


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
