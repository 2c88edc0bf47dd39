"""Event time: whatever order events come in, and however often, the fields that commute end the same.

Producers retry, devices wait for a network, partitions are read one after the other: a log holds events out of order
and twice. What depends on order all the same is listed, by what it leaves out, at `models.person.COMMUTING`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as configured
from hypothesis import strategies as st

from models.person import COMMUTING
from schemas.event import Event
from schemas.profile import Profile
from stream.stages.gate import SEEN_EVENTS, SEEN_MINUTES
from tests.unit.factories import NOON, event
from tests.unit.reference import Record, Reference, WordScorer, open_to_all
from tests.unit.test_batch_invariance import LINEUP, MINUTE, TEXTS, TYPES

LATENESS = 5 * MINUTE
SEEN = (SEEN_MINUTES - 1) * MINUTE

happening = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["u1", "u1", "u1", "u2", "u3"]),
        "type": st.sampled_from(TYPES),
        # Seconds, minutes and hours apart; a day without anything now and then.
        "pause": st.sampled_from([0, 1_000, 20_000, MINUTE, 7 * MINUTE, 60 * MINUTE, 1_440 * MINUTE]),
        "price": st.sampled_from([None, 9.5, 120.0, 0.1]),
        "quantity": st.sampled_from([None, 3, -1]),
        "item_id": st.sampled_from([None, "i1", "i2"]),
        "session_id": st.sampled_from([None, "s1", "s2"]),
        "content": st.sampled_from([None, *TEXTS]),
    }
)
Arrival = tuple[int, Event]
"""When an event comes into the log (ms), and the event."""


def compose(happenings: Iterable[dict[str, Any]]) -> list[Event]:
    """The events, each with an id of its own, by their times."""
    now, events = NOON, []
    for number, about in enumerate(happenings):
        now += about["pause"]
        fields = {name: about[name] for name in ("price", "quantity", "item_id", "session_id", "content")}
        told = {name: value for name, value in fields.items() if value is not None}
        events.append(event(about["user"], **told).of_type(about["type"]).known_as(f"e{number}").at(now).build())
    return events


def shuffle(events: Sequence[Event], chance: random.Random, most: int) -> list[Arrival]:
    """Each event after a delay of its own of at most `most`, so that none comes more than that behind another."""
    arrivals = [(moment.ts + chance.choice((0, chance.randint(0, most))), moment) for moment in events]
    return sorted(arrivals, key=lambda arrival: (arrival[0], chance.random()))


def repeat(arrivals: Sequence[Arrival], chance: random.Random) -> list[Arrival]:
    """Some events again, a while later: as long as the ring of the last eight of a person still holds the first.

    That is for an hour of the clock, whichever it is: that of the records, or the running maximum of event times.
    """
    log = list(arrivals)
    for at, moment in chance.sample(arrivals, k=len(arrivals) // 3):
        first = log.index((at, moment))
        between = [n for n, (_, other) in enumerate(log) if n > first and other.user_id == moment.user_id]
        # Copies take no place in the ring, so this counts too many rather than too few.
        last = (*between, len(log))[min(SEEN_EVENTS - 1, len(between))]
        latest = list(itertools.accumulate((other.ts for _, other in log), max))
        near = [log[n - 1][0] - at < SEEN and latest[n - 1] - latest[first] < SEEN for n in range(first + 1, last + 1)]
        places = [n for n, is_near in enumerate(near, first + 1) if is_near]
        place = chance.choice(places)
        log.insert(place, (log[place - 1][0], moment))
    return log


def write(arrivals: Sequence[Arrival]) -> list[Record]:
    """The log, stamped by the broker as each event comes."""
    return [Record(offset, at, msgspec.json.encode(moment)) for offset, (at, moment) in enumerate(arrivals)]


def run(arrivals: Sequence[Arrival], clock: str, size: int = 500) -> Reference:
    options = open_to_all(clock=clock, lateness=LATENESS)
    return Reference(options, scorer=WordScorer(), models=LINEUP).run(write(arrivals), size)


def assert_commuting(found: Reference, wanted: Reference) -> None:
    """The same people, and each of them the same in the fields that commute."""
    assert found.people.keys() == wanted.people.keys()
    for user, dossier in wanted.people.items():
        assert dossier.person is not None
        for name in COMMUTING:
            value = getattr(found.people[user].person, name)
            assert value == pytest.approx(getattr(dossier.person, name), rel=1e-9, abs=1e-9), (user, name)


@pytest.mark.parametrize("clock", ["log", "event"])
@pytest.mark.parametrize("delay", [LATENESS, 50 * LATENESS], ids=["within the lateness", "behind it"])
@configured(max_examples=150, deadline=None)
@given(st.lists(happening, min_size=2, max_size=40), st.randoms(use_true_random=False), st.integers(1, 12))
def test_fields_that_commute_do_not_depend_on_order_and_copies(
    clock: str, delay: int, happenings: list[dict[str, Any]], chance: random.Random, size: int
) -> None:
    events = compose(happenings)
    wanted = run([(moment.ts, moment) for moment in events], clock)

    shuffled = shuffle(events, chance, delay)
    log = repeat(shuffled, chance)
    found = run(log, clock, size)

    assert_commuting(found, wanted)
    assert found.counts["scored"] == wanted.counts["scored"] == len(events)
    assert found.counts["duplicates"] == len(log) - len(events)
    if delay <= LATENESS:
        assert found.counts["late"] == 0
        for user, dossier in wanted.people.items():
            assert getattr(found.people[user].person, "orders", None) == getattr(dossier.person, "orders", None)


def test_what_is_shuffled_further_than_the_lateness_is_late_and_counts() -> None:
    chance = random.Random(1)
    events = compose([{"user": f"u{n % 5}", "type": TYPES[n % 7], "pause": MINUTE} | EMPTY for n in range(500)])
    found = run(shuffle(events, chance, 10 * LATENESS), "event")
    assert found.counts["late"] > 100
    assert_commuting(found, run([(moment.ts, moment) for moment in events], "event"))


def test_a_copy_that_counted_would_be_seen() -> None:
    events = compose([{"user": "u1", "type": "purchase", "pause": MINUTE} | EMPTY for _ in range(12)])
    log = [(moment.ts, moment) for moment in events]
    with pytest.raises(AssertionError):
        assert_commuting(run([*log, log[0]], "event"), run(log, "event"))


def test_every_readable_field_is_among_those_that_commute_or_known_not_to() -> None:
    """A field that is added to the profile must be thought about."""
    assert set(Profile.__struct_fields__) - set(COMMUTING) == {
        "last_event", "conversion_probability", "conversion_version", "churn_probability", "ctr", "segment", "orders",
        "top_categories", "last_items", "best_hour",
    }  # fmt: skip


EMPTY = dict.fromkeys(("price", "quantity", "item_id", "session_id", "content"))
