"""A person in a Redis hash: every bit comes back, nothing empty is written, no other version is guessed at."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import settings as configured
from hypothesis import strategies as st

from models.person import PACED, Person, advance
from schemas.profile import Profile
from stream.state.forms import UnknownState
from stream.state.profiles import (
    decode_person,
    decode_stored,
    encode_changes,
    encode_image,
    read_profile,
    take_image,
)
from tests.unit.factories import NOON, event
from tests.unit.former import pack_1, pack_2
from tests.unit.test_person import Arrival, any_arrival, live

PRIVATE = set(Person.__struct_fields__) - set(Profile.__struct_fields__)


def stored(person: Person) -> list[bytes]:
    """The hash as Redis gives it back."""
    return [part.encode() if isinstance(part, str) else part for part in encode_image(take_image(person))]


def as_hash(person: Person) -> dict[bytes, bytes]:
    flat = stored(person)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def flatten(fields: dict[bytes, bytes]) -> list[bytes]:
    return [part for pair in fields.items() for part in pair]


def bits(person: Person) -> list[Any]:
    """Every field, floats by their bits; only the sign of a zero is not told apart, an empty field has none."""

    def of(value: Any) -> Any:
        if isinstance(value, float):
            return struct.pack("<d", value + 0.0)
        return [of(part) for part in value] if isinstance(value, tuple) else value

    return [(name, of(getattr(person, name))) for name in Person.__struct_fields__]


ints = st.integers(0, 253_402_300_799_999)
floats = st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=128)


@st.composite
def any_person(draw: st.DrawFn) -> Person:
    """Any values at all, each within its type."""
    names = draw(st.lists(texts, max_size=8, unique=True))
    counts = draw(st.lists(floats, min_size=len(names), max_size=len(names)))
    values: dict[str, Any] = {
        "top_categories": tuple(names),
        "weights": tuple(counts),
        "last_items": tuple(draw(st.lists(texts, max_size=8))),
        "hours": draw(st.binary(min_size=24, max_size=24)),
        "bought": draw(st.binary(max_size=3 * 64).map(lambda found: found[: len(found) // 3 * 3])),
        "seen": draw(st.binary(max_size=8 * 8).map(lambda found: found[: len(found) // 8 * 8])),
        "last_conversion": draw(ints),
        "sessions": draw(st.binary(max_size=6 * 4).map(lambda found: found[: len(found) // 6 * 6])),
        "fired": draw(st.dictionaries(st.integers(0, 2**32 - 1), ints, max_size=20)),
        "last_event": draw(texts),
        "segment": draw(texts),
        "best_hour": draw(st.none() | st.integers(0, 23)),
        "conversion_version": draw(st.none() | ints),
        "paces": draw(st.tuples(*[floats] * 10)),
    }
    for name in ("first_seen", "last_seen", "orders", "version"):
        values[name] = draw(ints)
    for name in ("conversion_probability", "churn_probability", "ctr"):
        values[name] = draw(st.none() | floats)
    for field in msgspec.structs.fields(Person):
        if field.name not in values:
            values[field.name] = draw(floats)
    return Person(**values)


@configured(max_examples=200)
@given(any_person())
def test_every_field_of_any_person_comes_back_to_the_bit(person: Person) -> None:
    found = decode_person(stored(person))
    assert found is not None
    assert bits(found) == bits(person)


@configured(max_examples=200, deadline=None)
@given(st.lists(any_arrival, max_size=12))
def test_every_person_that_events_can_make_comes_back_to_the_bit(arrivals: list[Arrival]) -> None:
    person = Person()
    for moment, role, sentiment, late in arrivals:
        # A text of no weight at all is another test's matter.
        sentiment = sentiment if moment.ts >= person.last_seen else None
        advance(person, moment, role, sentiment, late)
        found = decode_person(stored(person))
        assert found is not None
        assert bits(found) == bits(person)


@given(any_person(), st.randoms())
def test_the_order_of_fields_does_not_matter(person: Person, chance: Any) -> None:
    pairs = list(as_hash(person).items())
    chance.shuffle(pairs)
    found = decode_person(flatten(dict(pairs)))
    assert found is not None
    assert bits(found) == bits(person)


@given(any_person())
def test_other_programs_read_what_was_written(person: Person) -> None:
    profile = read_profile(stored(person))
    assert profile is not None
    for name in Profile.__struct_fields__:
        wanted, found = getattr(person, name), getattr(profile, name)
        assert found == wanted
        assert type(found) is type(wanted)


def typical(events: int = 400) -> Person:
    person = Person()
    for number in range(events):
        kind = ("page_view", "ad_impression", "purchase", "review", "add_to_cart")[number % 5]
        role: Any = ("view", "exposure", "conversion", "feedback", "intent")[number % 5]
        moment = event(
            item_id=f"8512{number % 90}A",
            category=f"home-{number % 11}",
            price=12.75,
            quantity=3,
            session_id=f"s{number}",
        )
        advance(person, moment.of_type(kind).after(number * 3_333_333).build(), role, 0.1234, late=number % 17 == 0)
    person.seen = bytes(range(64))
    person.fired = {1: NOON, 2: NOON}
    person.conversion_probability, person.conversion_version = 0.123456789012345, 12_345_678
    return person


def test_no_value_of_a_typical_person_is_longer_than_64_bytes() -> None:
    fields = as_hash(typical())
    assert max(map(len, fields.values())) <= 64
    assert all(len(name) <= 64 for name in fields)


def test_chunks_are_full_but_the_last_and_numbered_without_a_gap() -> None:
    chunks = {name: value for name, value in as_hash(typical()).items() if name.startswith(b"_")}
    assert list(chunks) == [f"_{number}".encode() for number in range(len(chunks))]
    assert len(chunks) >= 4
    *full, last = chunks.values()
    assert {len(chunk) for chunk in full} == {64}
    assert 0 < len(last) <= 64


def test_empty_fields_are_left_out() -> None:
    assert set(as_hash(Person())) == {b"_0", b"_1"}
    once = live([(event().build(), "view", None, False)])
    wanted = {b"first_seen", b"last_seen", b"last_event", b"events_view", b"best_hour", b"version", b"_0", b"_1"}
    assert set(as_hash(once)) == wanted


@pytest.mark.parametrize("name", sorted({"conversion_probability", "churn_probability", "ctr", "best_hour"}))
def test_zero_is_not_absent(name: str) -> None:
    person = Person()
    setattr(person, name, 0 if name == "best_hour" else 0.0)
    found = decode_person(stored(person))
    assert getattr(found, name) == 0
    assert getattr(decode_person(stored(Person())), name) is None


def test_nothing_readable_is_stored_twice() -> None:
    person = typical()
    state = b"".join(value for name, value in as_hash(person).items() if name.startswith(b"_"))

    # What only nudge needs, and a header: form, five counts.
    numbers = 1 + len(person.paces) + len(person.weights)
    parts = (person.hours, person.seen, person.bought, person.sessions, bytes(8 * numbers))
    assert len(state) == 6 + sum(map(len, parts)) + 12 * len(person.fired)

    # When: every readable field changes
    before = state
    for name in Profile.__struct_fields__:
        value = getattr(person, name)
        changed = (
            value[::-1] if isinstance(value, tuple) else f"{value}x" if isinstance(value, str) else (value or 0) + 1
        )
        setattr(person, name, changed)
    after = b"".join(value for name, value in as_hash(person).items() if name.startswith(b"_"))
    assert after == before


@given(any_person())
@example(Person())
def test_every_private_field_is_in_the_state(person: Person) -> None:
    private = {name: value for name, value in as_hash(person).items() if name.startswith(b"_")}
    names = [b"top_categories", msgspec.json.encode(person.top_categories)] if person.top_categories else []
    found = decode_person([*flatten(private), *names])
    assert found is not None
    assert [pair for pair in bits(found) if pair[0] in PRIVATE] == [pair for pair in bits(person) if pair[0] in PRIVATE]


def assert_changes_suffice(before: Person, after: Person) -> bool:
    """Whether changes were enough; they must lead to the same hash as writing all."""
    changes = encode_changes(take_image(after), take_image(before))
    if changes is None:
        return False
    flat = [part.encode() if isinstance(part, str) else part for part in changes]
    assert as_hash(before) | dict(zip(flat[::2], flat[1::2], strict=True)) == as_hash(after)
    return True


@given(any_person(), any_person())
def test_changes_lead_to_the_same_hash_as_the_whole(before: Person, after: Person) -> None:
    assert_changes_suffice(before, after)
    assert encode_changes(take_image(before), take_image(before)) == []


@configured(max_examples=200, deadline=None)
@given(st.lists(any_arrival, min_size=1, max_size=10))
def test_changes_of_one_event_lead_to_the_same_hash_as_the_whole(arrivals: list[Arrival]) -> None:
    person = Person()
    for moment, role, sentiment, late in arrivals:
        before = copy.copy(person)
        advance(person, moment, role, sentiment, late)
        assert_changes_suffice(before, person)


def test_one_event_more_writes_little() -> None:
    before, after = typical(), typical()
    advance(after, event().after(400 * 3_333_333).build(), "view", None, late=False)
    assert assert_changes_suffice(before, after)
    changes = encode_changes(take_image(after), take_image(before))
    assert changes is not None
    assert len(changes) < len(encode_image(take_image(after)))


@pytest.mark.parametrize("form", [0, 4, 255])
def test_a_form_without_a_reader_is_refused(form: int) -> None:
    fields = as_hash(typical())
    fields[b"_0"] = bytes([form]) + fields[b"_0"][1:]
    with pytest.raises(UnknownState, match=f"form {form},"):
        decode_person(flatten(fields))


Pack = Callable[[Person], bytes]


def in_form(pack: Pack, person: Person) -> dict[bytes, bytes]:
    fields = {name: value for name, value in as_hash(person).items() if not name.startswith(b"_")}
    state = pack(person)
    return fields | {b"_%d" % (at // 64): state[at : at + 64] for at in range(0, len(state), 64)}


@given(any_person(), st.sampled_from([pack_1, pack_2]))
def test_a_person_of_a_form_before_is_read_to_the_bit(person: Person, pack: Pack) -> None:
    # There were counts of one half-life.
    person.paces = tuple(getattr(person, f"events_{role}") for role in PACED) * 2
    if pack is pack_1:
        # All zeros was no session.
        person.sessions = b"" if person.sessions[:6] == bytes(6) else person.sessions[:6]
    found = decode_person(flatten(in_form(pack, person)))
    assert found is not None
    assert bits(found) == bits(person)


@configured(max_examples=200, deadline=None)
@given(
    st.lists(any_arrival, max_size=6), st.lists(any_arrival, min_size=1, max_size=3), st.sampled_from([pack_1, pack_2])
)
def test_a_person_of_a_form_before_is_written_anew_when_seen_again(
    lived: list[Arrival], more: list[Arrival], pack: Pack
) -> None:
    """Would have caught: chunks of two forms in one state, written where only what changed was."""
    before = in_form(pack, live([(moment, role, None, late) for moment, role, _, late in lived]))
    found = decode_stored(flatten(before))
    assert found is not None
    person, stored = found
    for moment, role, _, late in more:
        advance(person, moment, role, None, late)

    changes = encode_changes(take_image(person), stored)

    if changes is None:
        return
    flat = [part.encode() if isinstance(part, str) else part for part in changes]
    assert before | dict(zip(flat[::2], flat[1::2], strict=True)) == as_hash(person)


def test_a_profile_without_its_state_is_refused() -> None:
    fields = as_hash(typical())
    readable = {name: value for name, value in fields.items() if not name.startswith(b"_")}
    with pytest.raises(UnknownState):
        decode_person(flatten(readable))


def test_no_hash_is_no_person() -> None:
    assert decode_person([]) is None
    assert read_profile([]) is None


def test_fields_of_other_programs_are_passed_over() -> None:
    person = typical()
    found = decode_person([*stored(person), b"note", b"\xff", b"_note", b"x"])
    assert found is not None
    assert bits(found) == bits(person)
    assert read_profile([*stored(person), b"note", b"\xff"]) is not None
