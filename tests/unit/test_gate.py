"""The gate: who is let in, and what was seen before. Consent holds from its place in the log on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.privacy import KIND_HEADER, LEDGER_HEADER, PURPOSES, Place
from schemas.reasons import ORIGIN_HEADER
from stream.settings import Settings
from stream.stages.decode import parse_ledger
from stream.stages.gate import remember
from tests.unit.factories import NOON, event
from tests.unit.reference import Record, Reference, open_to_all

MINUTE = 60_000
ALL = dict.fromkeys(PURPOSES, True)
NONE = dict.fromkeys(PURPOSES, False)


def request(
    consent: Mapping[Any, bool],
    ledger: bytes | None = None,
    action: str = "consent",
    user: str = "u1",
    at: int = NOON,
) -> Any:
    """Value and headers of a privacy request."""
    value = {"request_id": "r", "user_id": user, "ts": at, "action": action, "consent": consent}
    place = [] if ledger is None else [(LEDGER_HEADER, ledger)]
    return msgspec.json.encode(value), [(KIND_HEADER, b"privacy"), *place]


def view(number: int = 0, user: str = "u1") -> Any:
    return event(user).known_as(f"e{number}").as_json(), []


def log(*values: Any, every: int = 1_000, at: int = NOON) -> list[Record]:
    return [Record(n, at + n * every, value, None, headers) for n, (value, headers) in enumerate(values)]


def pass_through(*values: Any, options: Settings | None = None, size: int = 500) -> Reference:
    return Reference(options or Settings()).run(log(*values), size)


sizes = pytest.mark.parametrize("size", [1, 500])


def test_without_consent_an_event_is_counted_and_forgotten() -> None:
    found = pass_through(view(1), view(2, "u2"))
    assert found.counts == {"denied": 2, "denied:view": 2}
    assert found.profiles() == {}
    assert all(dossier.person is None for dossier in found.people.values())
    assert found.entries == []


def test_a_denied_event_is_no_duplicate_later() -> None:
    found = pass_through(view(1), request(ALL), view(1))
    assert (found.counts["denied"], found.counts["scored"], found.counts["duplicates"]) == (1, 1, 0)


def test_optional_consent_lets_everybody_in_but_those_who_said_no() -> None:
    found = pass_through(view(1), request(NONE, user="u2"), view(2, "u2"), options=open_to_all())
    assert set(found.profiles()) == {"u1"}
    assert found.counts["denied"] == 1


@sizes
def test_consent_holds_from_its_place_in_the_batch(size: int) -> None:
    steps = (view(1), request(ALL), view(2), view(3), request({"personalisation": False}), view(4), request(ALL))
    found = pass_through(*steps, view(5), size=size)
    person = found.people["u1"].person
    assert person is not None
    assert person.version == 1
    assert (found.counts["scored"], found.counts["denied"], found.counts["consents"]) == (3, 2, 3)


def cart(number: int = 0) -> Any:
    return event("u1").known_as(f"c{number}").of_type("add_to_cart").as_json(), []


@sizes
@pytest.mark.parametrize("action", ["consent", "erase"])
def test_who_withdraws_is_forgotten(size: int, action: str) -> None:
    # Given: a person with a profile and open windows, who withdraws, and a day that passes
    later = event("u2").at(NOON + 24 * 60 * MINUTE)
    steps = log(request(ALL), cart(), request(NONE, action=action), request(ALL, user="u2"))
    steps.append(Record(len(steps), NOON + 24 * 60 * MINUTE, later.as_json(), None, []))

    # When, then: no profile and no window is left, no label was made of them, and nothing was sent for them
    found = Reference(Settings()).run(steps, size)
    assert set(found.profiles()) == {"u2"}
    assert found.windows() == {}
    assert [entry.target for entry in found.entries if b"u1" in entry.key + entry.value] == []
    assert found.counts["triggers"] == 0
    assert [name for name in found.counts if name.startswith("examples:matured")] == []


@sizes
def test_who_withdraws_and_comes_back_begins_anew(size: int) -> None:
    found = pass_through(request(ALL), cart(1), cart(2), request(NONE), request(ALL), cart(1), size=size)
    person = found.people["u1"].person
    assert person is not None
    assert (person.version, found.counts["duplicates"]) == (1, 0)
    assert {window.event_id for window in found.windows().values()} == {"c1"}


def test_who_withdraws_what_was_never_granted_is_forgotten_too() -> None:
    # Given: a person of whom something is kept, of a time when nobody had to be asked
    optional = Reference(open_to_all()).run(log(cart()))
    assert optional.profiles()
    required = Reference(Settings())
    required.people, required._open = optional.people, optional._open
    assert required.windows()

    # When, then: an erasure leaves nothing, though nothing was allowed before it
    required.run([Record(1, NOON + 1_000, *_split_request(request(NONE, action="erase")))])
    assert (required.profiles(), required.windows()) == ({}, {})


def _split_request(value: Any) -> tuple[bytes, None, Any]:
    return value[0], None, value[1]


def test_to_withdraw_another_purpose_forgets_nothing() -> None:
    found = pass_through(request(ALL), cart(), request({"marketing": False, "analytics": False}))
    assert set(found.profiles()) == {"u1"}
    assert found.windows()


def test_each_purpose_is_asked_for_what_it_is_for() -> None:
    options = Settings(consent={"profile": "analytics", "trigger": "marketing"})
    found = pass_through(request({"personalisation": True, "marketing": True}), view(), options=options)
    assert found.counts["denied"] == 1
    found = pass_through(request({"analytics": True}), view(), options=options)
    assert found.counts["scored"] == 1


def test_a_request_names_only_what_changes() -> None:
    found = pass_through(
        request({"marketing": True}), request({"personalisation": True}), request({"marketing": False})
    )
    assert found.people["u1"].consent == {"marketing": False, "personalisation": True}


def test_an_erasure_withdraws_every_purpose() -> None:
    found = pass_through(request(ALL), view(1), request(ALL, action="erase"), view(2))
    assert found.people["u1"].consent == NONE
    assert found.counts["denied"] == 1


@sizes
def test_a_second_copy_of_a_request_does_not_undo_a_later_one(size: int) -> None:
    steps = (request(ALL, b"0/3"), request(NONE, b"0/4"), request(ALL, b"0/3"), request(NONE, b"0/4"), view())
    found = pass_through(*steps, size=size)
    assert found.counts["denied"] == 1
    assert found.people["u1"].consent == NONE
    assert found.people["u1"].ledger == {0: Place(0, 4)}


def test_a_second_copy_does_not_undo_what_another_way_brought() -> None:
    found = pass_through(request(ALL, b"0/3"), request(NONE), request(ALL, b"0/3"), view())
    assert found.counts["denied"] == 1


@sizes
def test_a_request_that_is_sent_back_withdraws_though_later_ones_of_its_ledger_came(size: int) -> None:
    def send_back(consent: Mapping[Any, bool], offset: int, at: int = NOON) -> Any:
        value, headers = request(consent, b"0/%d" % offset, at=at)
        return value, [*headers, (ORIGIN_HEADER, b"marketing.events.v1/0/%d" % offset)]

    withdrawal = send_back({"marketing": False}, 5)
    other = request({"analytics": False}, b"0/9", at=NOON + 9)
    first = (request(ALL, b"0/1"), other, withdrawal)
    assert pass_through(*first, size=size).people["u1"].consent == ALL | {"marketing": False, "analytics": False}

    # a grant that came since stays, also when the letter is sent back once more
    again = (request({"marketing": True}, b"0/10", at=NOON + 10), withdrawal)
    found = pass_through(*first, *again, size=size)
    assert found.people["u1"].consent == ALL | {"analytics": False}
    assert found.people["u1"].ledger == {0: Place(0, 10)}
    assert found.counts["consents"] == 5

    # and a grant that is sent back undoes nothing that was decided later
    late = (request(NONE, b"0/9", at=NOON + 9), send_back(ALL, 5))
    assert pass_through(*late, size=size).people["u1"].consent == NONE


@sizes
def test_grants_read_again_from_a_ledger_made_anew_undo_no_later_withdrawal(size: int) -> None:
    # Given: a grant from the ledger, then a withdrawal, and another that comes late
    steps = [request(ALL, b"0/3", at=NOON), request(NONE, at=NOON + 9), request(NONE, at=NOON + 5)]

    # When: the same grant is in a ledger that was made anew
    again = request(ALL, b"0/1/0", at=NOON)
    found = pass_through(*steps, again, request(ALL, b"0/1/1", at=NOON + 7), view(1), size=size)

    # Then: it changes nothing, and a later grant does
    assert found.people["u1"].consent == NONE
    assert found.counts["denied"] == 1
    found = pass_through(*steps, again, request(ALL, b"0/1/1", at=NOON + 10), view(1), size=size)
    assert found.counts["scored"] == 1


def test_partitions_of_the_ledger_are_told_apart() -> None:
    found = pass_through(request(ALL, b"0/9"), request(NONE, b"1/0"), view())
    assert found.counts["denied"] == 1
    assert found.people["u1"].ledger == {0: Place(0, 9), 1: Place(0, 0)}


@sizes
def test_a_withdrawal_from_a_ledger_made_anew_is_no_copy(size: int) -> None:
    found = pass_through(request(ALL, b"0/9"), request(NONE, b"0/1/0"), request(ALL, b"0/9"), view(), size=size)
    assert found.people["u1"].consent == NONE
    assert found.counts["denied"] == 1
    assert found.people["u1"].ledger == {0: Place(1, 0)}


places = st.builds(Place, st.integers(0, 3), st.integers(0, 20))


@given(st.lists(st.tuples(st.integers(0, 1), places, st.booleans()), max_size=20))
def test_a_request_takes_effect_only_above_all_that_its_ledger_partition_brought(
    asked: list[tuple[int, Place, bool]],
) -> None:
    steps = [request({"marketing": allowed}, f"{partition}/{place}".encode()) for partition, place, allowed in asked]
    found = pass_through(*steps)

    last: dict[int, tuple[int, int]] = {}
    consent = None
    for partition, (generation, offset), allowed in asked:
        if (generation, offset) > last.get(partition, (-1, -1)):
            last[partition] = (generation, offset)
            consent = allowed
    if asked:
        assert found.people["u1"].consent == {"marketing": consent}
        assert found.people["u1"].ledger == last


@given(places)
def test_a_place_in_the_ledger_reads_back(place: Place) -> None:
    assert Place.parse(str(place)) == place
    assert parse_ledger([(LEDGER_HEADER, f"3/{place}".encode())]) == (3, place)


def test_a_place_of_before_there_were_generations_is_of_the_first() -> None:
    assert parse_ledger([(LEDGER_HEADER, b"2/41")]) == (2, Place(0, 41))


def test_the_first_request_of_a_ledger_is_at_offset_zero() -> None:
    assert pass_through(request(ALL, b"0/0"), view()).counts["scored"] == 1


@pytest.mark.parametrize(
    "place", [b"", b"x", b"1", b"1/2/3/4", b"1//3", b"1/2/", b"1/-2", b"1/2\n", b"1/\xd9\xa3", b"/", b"1/x", b"\xff/1"]
)
def test_a_ledger_header_that_is_none_makes_no_stage_fail(place: bytes) -> None:
    found = pass_through(request(ALL, place), view(), options=open_to_all())
    assert found.counts["scored"] == 1


def test_a_segment_call_brings_consent_along_for_itself() -> None:
    preferences = {"personalisation": True, "advertising": False}
    call = {
        "type": "track",
        "event": "page_view",
        "userId": "u1",
        "messageId": "m1",
        "timestamp": "2024-05-01T12:00:00Z",
        "context": {"consent": {"categoryPreferences": preferences}},
    }
    refused = call | {"messageId": "m2", "context": {"consent": {"categoryPreferences": {"personalisation": False}}}}
    found = pass_through(*[(msgspec.json.encode(value), []) for value in (call, refused)], view(3))
    assert (found.counts["scored"], found.counts["denied"]) == (1, 2)
    assert found.people["u1"].consent == {"personalisation": False}


def spaced(*spans: int) -> Reference:
    """Copies of one event, these milliseconds apart by the partition's clock."""
    records, now = [], NOON
    for offset, span in enumerate((0, *spans)):
        now += span
        records.append(Record(offset, now, event().known_as("e1").at(NOON).as_json()))
    return Reference(open_to_all()).run(records)


def test_a_copy_within_the_hour_is_a_duplicate_and_after_it_is_not() -> None:
    assert spaced(60 * MINUTE).counts["duplicates"] == 1
    # The minute of the first is what is kept: an hour and a minute later is outside for certain.
    assert spaced(61 * MINUTE).counts["duplicates"] == 0
    assert spaced(61 * MINUTE).counts["scored"] == 2


def test_a_duplicate_does_not_prolong_the_hour() -> None:
    found = spaced(40 * MINUTE, 21 * MINUTE)
    assert (found.counts["duplicates"], found.counts["scored"]) == (1, 2)


@sizes
@pytest.mark.parametrize(("between", "duplicates"), [(6, 1), (7, 1), (8, 0)])
def test_a_copy_is_known_among_the_last_eight_events(between: int, duplicates: int, size: int) -> None:
    others = [view(number) for number in range(1, 1 + between)]
    found = pass_through(view(0), *others, view(0), options=open_to_all(), size=size)
    assert found.counts["duplicates"] == duplicates
    assert found.counts["scored"] == between + 2 - duplicates


def test_one_persons_event_ids_say_nothing_of_another() -> None:
    found = pass_through(view(1, "u1"), view(1, "u2"), options=open_to_all())
    assert found.counts["scored"] == 2


def hashed(event_id: str) -> bytes:
    return hashlib.blake2b(event_id.encode(), digest_size=6).digest()


def test_bytes_across_two_entries_are_no_event() -> None:
    wanted = hashed("e1")
    for shift in range(1, 8):
        # The same bytes in the ring, but not where an id begins.
        ring = bytes(shift) + wanted + bytes(16 - shift - 6)
        assert remember(ring, "e1", 0) is not None
        at_last = ring + wanted + (0).to_bytes(2, "little")
        assert remember(at_last, "e1", 0) is None


def test_an_old_entry_does_not_hide_a_younger_one_of_the_same_id() -> None:
    young, old = (hashed("e1") + minute.to_bytes(2, "little") for minute in (100, 20))
    assert remember(young + old, "e1", 130) is None
    assert remember(old + young, "e1", 130) is None
    assert remember(old, "e1", 130) is not None


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 30)), max_size=60), st.integers(0, 70_000))
def test_the_ring_agrees_with_a_list_of_the_last_eight(steps: list[tuple[int, int]], start: int) -> None:
    ring, known, minute = b"", list[tuple[int, int]](), start
    for number, passed in steps:
        minute += passed
        seen = any(other == number and minute - then <= 60 for other, then in known)
        found = remember(ring, f"e{number}", minute)
        assert (found is None) == seen
        if found is not None:
            ring = found
            known = [(number, minute), *known][:8]
            assert len(ring) == 8 * len(known)


def test_a_profile_not_touched_for_its_time_to_live_begins_anew() -> None:
    options = open_to_all(profile_ttl=60 * MINUTE)
    for pause, version in ((60 * MINUTE, 2), (60 * MINUTE + 1, 1)):
        records = [
            Record(0, NOON, event(item_id="old").as_json()),
            Record(1, NOON + pause, event().after(pause).as_json()),
        ]
        for size in (1, 2):
            person = Reference(options).run(records, size).people["u1"].person
            assert person is not None
            assert person.version == version
            assert person.last_items == (("old",) if version == 2 else ())


def test_a_consent_object_that_comes_again_does_not_undo_a_withdrawal() -> None:
    def call(message: str, at: str, allowed: bool) -> tuple[bytes, list[Any]]:
        fields = {
            "type": "track",
            "event": "page_view",
            "userId": "u1",
            "messageId": message,
            "timestamp": at,
            "context": {"consent": {"categoryPreferences": dict.fromkeys(PURPOSES, allowed)}},
        }
        return msgspec.json.encode(fields), []

    granted = call("m1", "2024-05-01T12:00:00Z", True)
    withdrawn = call("m2", "2024-05-01T12:01:00Z", False)
    again = call("m3", "2024-05-01T12:02:00Z", True)
    found = pass_through(granted, withdrawn, granted)
    assert not any(found.people["u1"].consent.values())
    assert all(pass_through(granted, withdrawn, granted, again).people["u1"].consent.values())
