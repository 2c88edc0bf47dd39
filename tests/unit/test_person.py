"""One event at a time, a person: what commutes does, what is bounded stays so, and nothing raises."""

from __future__ import annotations

import copy
import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import settings as configured
from hypothesis import strategies as st

from models.person import (
    BOUGHT_ITEMS,
    BOUGHT_WIDTH,
    ITEMS_BYTES,
    PACED,
    Person,
    advance,
    has_bought,
    hash_item,
    hash_session,
)
from schemas.event import ROLES, Event, Role
from schemas.profile import HALF_LIFE
from tests.unit.factories import NOON, event

DAY = 86_400_000
HOUR = 3_600_000
END_OF_TIME = 253_402_300_799_999
"""The last millisecond of the year 9999, the latest that the contract allows."""

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)
times = st.integers(0, END_OF_TIME) | st.sampled_from([0, 1, NOON, END_OF_TIME])
prices = st.floats(-1e12, 1e12) | st.sampled_from([-1e12, -0.0, 0.0, 5e-324, 1e12])
quantities = st.floats(-1e9, 1e9) | st.sampled_from([-1e9, -0.0, 1e9])
scores = st.floats(-1.0, 1.0) | st.sampled_from([-1.0, -0.0, 0.0, 1.0])


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


any_event = st.builds(
    Event,
    event_id=texts,
    user_id=st.just("u1"),
    type=names,
    ts=times,
    channel=maybe(names),
    campaign_id=maybe(texts),
    item_id=maybe(texts),
    category=maybe(names),
    price=maybe(prices),
    quantity=maybe(quantities),
    session_id=maybe(texts),
)
Arrival = tuple[Event, Role, float | None, bool]
roles = st.sampled_from(ROLES)
any_arrival = st.tuples(any_event, roles, maybe(scores), st.booleans())

plain_event = st.builds(
    Event,
    event_id=st.just("e"),
    user_id=st.just("u1"),
    type=st.sampled_from(["page_view", "purchase"]),
    ts=st.integers(NOON - 200 * DAY, NOON + 200 * DAY),
    item_id=st.sampled_from([None, "i1", "i2"]),
    category=st.sampled_from([None, "tea", "cups"]),
    price=st.none() | st.floats(0.01, 1e5),
    quantity=st.none() | st.integers(1, 100).map(float),
    session_id=st.sampled_from([None, "s1"]),
)
plain_arrival = st.tuples(plain_event, roles, maybe(st.integers(-10_000, 10_000).map(lambda n: n / 10_000)))


def live(arrivals: list[Arrival]) -> Person:
    person = Person()
    for moment, role, sentiment, late in arrivals:
        advance(person, moment, role, sentiment, late)
    return person


def visit(person: Person, moment: Event, role: Role = "view", sentiment: float | None = None) -> None:
    advance(person, moment, role, sentiment, late=False)


@configured(max_examples=300, deadline=None)
@given(
    st.lists(plain_arrival, min_size=1, max_size=25).flatmap(
        lambda found: st.tuples(
            st.just(found), st.permutations(found), st.lists(st.booleans(), min_size=len(found), max_size=len(found))
        )
    )
)
def test_counts_and_sums_do_not_depend_on_the_order_of_events(drawn: Any) -> None:
    arrivals, shuffled, lates = drawn
    wanted = live([(*arrival, False) for arrival in arrivals])

    found = live([(*arrival, late) for arrival, late in zip(shuffled, lates, strict=True)])

    for role in ROLES:
        assert getattr(found, f"events_{role}") == pytest.approx(getattr(wanted, f"events_{role}"), rel=1e-9, abs=0)
    assert found.paces == pytest.approx(wanted.paces, rel=1e-9, abs=0)
    assert found.sentiment_n == pytest.approx(wanted.sentiment_n, rel=1e-9, abs=0)
    # A mean of scores that cancel has no relative accuracy; its bound is that of the scores, which are at most 1.
    assert found.sentiment == pytest.approx(wanted.sentiment, rel=1e-9, abs=1e-9)
    assert found.revenue == pytest.approx(wanted.revenue, rel=1e-9, abs=0)
    assert (found.version, found.first_seen, found.last_seen) == (
        wanted.version,
        wanted.first_seen,
        wanted.last_seen,
    )


@given(st.lists(plain_arrival, min_size=1, max_size=20))
def test_decayed_counts_are_those_of_the_stated_formula(arrivals: list[Any]) -> None:
    person = live([(*arrival, False) for arrival in arrivals])

    latest = max(moment.ts for moment, _, _ in arrivals)
    for role in ROLES:
        ages = [latest - moment.ts for moment, of, _ in arrivals if of == role]
        wanted = math.fsum(2.0 ** (-age / HALF_LIFE) for age in ages)
        assert getattr(person, f"events_{role}") == pytest.approx(wanted, rel=1e-9, abs=0)
    paced = [
        math.fsum(2.0 ** (-(latest - moment.ts) / half_life) for moment, of, _ in arrivals if of == role)
        for half_life in (DAY, 30 * DAY)
        for role in PACED
    ]
    assert person.paces == pytest.approx(paced, rel=1e-9, abs=0)
    spoken = [(2.0 ** ((moment.ts - latest) / HALF_LIFE), score) for moment, _, score in arrivals if score is not None]
    weight = math.fsum(weight for weight, _ in spoken)
    assert person.sentiment_n == pytest.approx(weight, rel=1e-9, abs=0)
    if spoken:
        assert person.sentiment == pytest.approx(math.fsum(w * s for w, s in spoken) / weight, rel=1e-9, abs=1e-9)


@configured(max_examples=300, deadline=None)
@given(st.lists(any_arrival, max_size=15))
# So much later that the weight of the first text is nothing at all, and the other way round.
@example([(event().at(0).build(), "feedback", 1.0, False), (event().at(END_OF_TIME).build(), "view", None, False)])
@example([(event().at(END_OF_TIME).build(), "view", None, False), (event().at(0).build(), "feedback", 1.0, True)])
@example([(event().at(NOON).build(), "view", None, False), (event().at(0).build(), "feedback", 1.0, True)])
def test_no_event_that_the_contract_allows_makes_a_person_fail(arrivals: list[Arrival]) -> None:
    person = live(arrivals)

    assert person.version == len(arrivals)
    for role in ROLES:
        assert 0.0 <= getattr(person, f"events_{role}") <= len(arrivals)
    assert all(0.0 <= count <= len(arrivals) for count in person.paces)
    assert -1.0 - 1e-9 <= person.sentiment <= 1.0 + 1e-9
    assert math.isfinite(person.revenue)
    assert 0 <= person.first_seen <= person.last_seen <= END_OF_TIME
    assert len(person.hours) == 24
    assert len(person.top_categories) == len(person.weights)
    assert all(map(math.isfinite, person.weights))
    assert len(person.bought) <= BOUGHT_WIDTH * BOUGHT_ITEMS
    assert len(person.bought) % BOUGHT_WIDTH == 0


awkward = st.text(st.sampled_from('ab"\\\n\x01é漢🎈'), min_size=1, max_size=40)


@configured(max_examples=300)
@given(st.lists(st.tuples(awkward | texts, awkward | names), max_size=30))
@example([('"' * 20, "\x01" * 8), ("b" * 20, "tea")])
@example([("é" * 20, "漢" * 12), ("b" * 20, "tea")])
@example([(f"i{n}", f"c{n}") for n in range(12)])
def test_lists_are_at_most_64_bytes_and_eight_long(visits: list[tuple[str, str]]) -> None:
    person = Person()
    for number, (item, category) in enumerate(visits):
        visit(person, event(item_id=item, category=category[:128]).after(number).build())

        for found in (person.last_items, person.top_categories):
            assert 1 <= len(found) <= 8
            assert len(set(found)) == len(found)
            assert len(found) == 1 or len(msgspec.json.encode(found)) <= ITEMS_BYTES
        assert person.last_items[0] == item
        assert list(person.weights) == sorted(person.weights, reverse=True)


def test_as_many_items_are_kept_as_fit() -> None:
    person = Person()
    for number in range(9):
        visit(person, event(item_id=f"i{number}").build())
    assert person.last_items == tuple(f"i{number}" for number in range(8, 0, -1))

    # When: ten bytes each with quotes and comma, so six fit into 64 bytes
    for number in range(8):
        visit(person, event(item_id=f"item-{number:02}").build())
    assert person.last_items == tuple(f"item-{number:02}" for number in range(7, 1, -1))


def test_an_item_seen_again_moves_to_the_front() -> None:
    person = Person()
    for item in ("a", "b", "c", "a", "a"):
        visit(person, event(item_id=item).build())
    assert person.last_items == ("a", "c", "b")


def test_a_category_that_grows_is_not_shut_out_by_a_full_list() -> None:
    person = Person()
    for number in range(8):
        for _ in range(3):
            visit(person, event(category=f"c{number}").build())
    for _ in range(4):
        visit(person, event(category="new").build())
    assert person.top_categories[0] == "new"


def test_the_strongest_category_comes_first_and_old_ones_fade() -> None:
    person = Person()
    for category, at in (("tea", 0), ("tea", 0), ("cups", 8 * DAY), ("cups", 8 * DAY)):
        visit(person, event(category=category).after(at).build())
    assert person.top_categories == ("cups", "tea")
    assert person.weights == pytest.approx((2.0, 2.0 * 2 ** (-8 / 7)))


def test_what_was_bought_is_remembered_to_64_items() -> None:
    person = Person()
    for number in range(70):
        visit(person, event(item_id=f"i{number}").of_type("purchase").build(), "conversion")
        visit(person, event(item_id=f"i{number}").of_type("purchase").build(), "conversion")
    assert len(person.bought) == BOUGHT_WIDTH * BOUGHT_ITEMS
    assert [has_bought(person.bought, f"i{number}") for number in (0, 5, 6, 69)] == [False, False, True, True]

    # Looking at something is not buying it.
    visit(person, event(item_id="seen").build())
    assert not has_bought(person.bought, "seen")


def test_bytes_of_two_neighbours_are_no_item() -> None:
    a, b = hash_item("a"), hash_item("b")
    across = (a + b)[1 : 1 + BOUGHT_WIDTH]
    assert across in a + b
    wanted = next(name for name in (f"x{n}" for n in range(2**25)) if hash_item(name)[:1] == across[:1])
    bought = b"\x00" + hash_item(wanted) + b"\x00\x00"
    assert not has_bought(bought, wanted)
    assert has_bought(bought + hash_item(wanted), wanted)


def test_conversions_of_one_session_are_one_order() -> None:
    person = Person()
    for session in ("s1", "s1", "s2", None, None, "s2"):
        fields = {"session_id": session} if session else {}
        visit(person, event(price=2.5, quantity=2, **fields).of_type("purchase").build(), "conversion")
    assert person.orders == 4
    assert person.revenue == 30.0


def test_orders_of_sessions_that_come_mixed_are_told_apart() -> None:
    person = Person()
    for session in ("s1", "s2", "s3", "s4") * 3:
        visit(person, event(session_id=session).of_type("purchase").build(), "conversion")
    assert person.orders == 4
    # A fifth takes the place of the first.
    for session in ("s5", "s2", "s1"):
        visit(person, event(session_id=session).of_type("purchase").build(), "conversion")
    assert person.orders == 6


def test_goods_sent_back_lower_the_revenue() -> None:
    person = Person()
    for quantity in (3, -1):
        visit(person, event(price=10, quantity=quantity).of_type("purchase").build(), "conversion")
    assert person.revenue == 20.0


def test_the_best_hour_is_the_one_with_most_events_and_counts_stay_bytes() -> None:
    person = Person()
    for _ in range(300):
        visit(person, event().at(9 * HOUR).build())
    for _ in range(100):
        visit(person, event().at(23 * HOUR + HOUR - 1).build())
    assert person.best_hour == 9
    assert person.hours[9] == 127 + 300 - 255 == 172
    assert person.hours[23] == 100
    for _ in range(80):
        visit(person, event().at(23 * HOUR).build())
    assert person.best_hour == 23


@given(st.lists(plain_arrival, min_size=1, max_size=10), plain_arrival)
def test_a_late_event_changes_only_what_commutes(arrivals: list[Any], straggler: Any) -> None:
    person = live([(*arrival, False) for arrival in arrivals])
    before = copy.copy(person)

    moment, role, sentiment = straggler
    advance(person, moment, role, sentiment, late=True)

    # `weights` are brought to `last_seen` like every decayed field; nothing is added to them.
    same = ("last_event", "orders", "top_categories", "last_items", "best_hour", "hours", "bought", "seen", "fired")
    for name in (*same, "last_conversion", "sessions", "conversion_probability"):
        assert getattr(person, name) == getattr(before, name), name
    assert sum(person.weights) <= sum(before.weights)


def test_the_last_event_is_the_latest_by_its_own_time() -> None:
    person = Person()
    visit(person, event().of_type("second").after(HOUR).build())
    visit(person, event().of_type("first").build())
    assert (person.last_event, person.last_seen, person.first_seen) == ("second", NOON + HOUR, NOON)


def test_sessions_are_told_apart_by_48_bits() -> None:
    assert hash_session(None) == 0
    found = {hash_session(f"s{number}") for number in range(1_000)}
    assert len(found) == 1_000
    assert 0 < min(found) <= max(found) < 2**48
