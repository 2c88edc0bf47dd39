"""The walk through a batch: windows open, are fulfilled, cancelled and closed in order, and rows hold no future."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as configured
from hypothesis import strategies as st

from models.outcomes.features import NAMES, SCHEMA
from schemas.example import Example, Interaction
from stream.settings import AbandonedRule, Outcome, Settings
from stream.stages.batch import Entry
from tests.unit.factories import NOON, EventDraft, event
from tests.unit.reference import Record, Reference, open_to_all

MINUTE = 60_000
HOUR = 60 * MINUTE
LATE = 5 * MINUTE

_read = msgspec.json.Decoder(Example | Interaction).decode
sizes = pytest.mark.parametrize("size", [1, 500])


def simple(**overrides: Any) -> Settings:
    """One outcome of an hour, opened by exposures and conversions; no rules."""
    return open_to_all(**({"outcomes": (Outcome(window=HOUR),), "rules": ()} | overrides))


def at(minutes: float, kind: str = "page_view", user: str = "u1", known_as: str = "", **fields: Any) -> EventDraft:
    """An event that many minutes after noon."""
    ts = NOON + round(minutes * MINUTE)
    return event(user, **fields).of_type(kind).at(ts).known_as(known_as or f"{user} {kind} {minutes}")


def write(*drafts: EventDraft, recorded: Mapping[int, float] | None = None) -> list[Record]:
    """Records made when their events happened; `recorded` says otherwise, in minutes after noon, by offset."""
    times = {number: NOON + round(minutes * MINUTE) for number, minutes in (recorded or {}).items()}
    return [Record(n, times.get(n, draft.fields["ts"]), draft.as_json()) for n, draft in enumerate(drafts)]


def examples(entries: list[Entry], *stages: str) -> list[Example]:
    found = [_read(entry.value) for entry in entries if entry.target == "examples"]
    return [one for one in found if isinstance(one, Example) and (not stages or one.stage in stages)]


def told(found: Reference, *stages: str) -> list[tuple[str, int, int]]:
    """(stage, label, offset) of every example, in order."""
    return [(one.stage, one.label, one.offset) for one in examples(found.entries, *stages)]


@sizes
def test_an_exposure_opens_a_window_and_a_conversion_fulfils_it(size: int) -> None:
    log = write(at(0, "ad_impression"), at(30, "purchase"), at(66, user="u2"), at(100, user="u2"))
    found = Reference(simple()).run(log, size)
    # The purchase is an exposure to the next one too, whose window is still open.
    assert told(found) == [
        ("exposed", 0, 0),
        ("fulfilled", 1, 1),
        ("exposed", 0, 1),
        ("matured", 1, 2),
        ("matured", 0, 3),
    ]
    first, fulfilled, _, matured, _ = examples(found.entries)
    assert first.example_id == fulfilled.example_id == matured.example_id
    assert first.features == fulfilled.features == matured.features
    assert first.schema == SCHEMA
    assert found.windows() == {}


def test_nothing_of_a_person_is_in_an_example() -> None:
    found = Reference(simple()).run(
        write(at(0, "ad_impression", user="jane", item_id="i1"), at(1, "purchase", user="jane"))
    )
    assert found.entries
    assert not any(b"jane" in entry.value or b"jane" in entry.key for entry in found.entries)


def test_a_session_opens_one_window() -> None:
    log = write(
        at(0, "purchase", session_id="s1"),
        at(1, "purchase", session_id="s1"),
        at(2, "purchase", session_id="s2"),
        at(3, "purchase"),
        at(4, "purchase"),
    )
    found = Reference(simple()).run(log)
    assert [offset for _, _, offset in told(found, "exposed")] == [0, 2, 3, 4]


def test_a_session_does_not_fulfil_its_own_window() -> None:
    log = write(
        at(0, "purchase", session_id="s1"), at(1, "purchase", session_id="s1"), at(2, "purchase", session_id="s2")
    )
    assert told(Reference(simple()).run(log), "fulfilled") == [("fulfilled", 1, 2)]


def test_a_campaign_is_fulfilled_by_its_own_conversions() -> None:
    log = write(
        at(0, "campaign_exposure", campaign_id="c1"),
        at(1, "campaign_exposure", campaign_id="c2"),
        at(2, "coupon_redemption", campaign_id="c2"),
    )
    found = Reference(simple()).run(log)
    fulfilled = examples(found.entries, "fulfilled")
    assert [one.campaign_id for one in fulfilled] == ["c2"]


def test_a_conversion_that_opens_a_window_does_not_tie_it_to_its_campaign() -> None:
    log = write(at(0, "purchase", campaign_id="c1", session_id="s1"), at(1, "purchase", session_id="s2"))
    assert told(Reference(simple()).run(log), "fulfilled") == [("fulfilled", 1, 1)]


def test_a_window_is_fulfilled_once() -> None:
    log = write(at(0, "ad_impression"), at(1, "purchase"), at(2, "purchase"))
    found = Reference(simple(outcomes=(Outcome(window=HOUR, opened_by=("exposure",)),))).run(log)
    assert told(found, "fulfilled") == [("fulfilled", 1, 1)]


def test_a_person_has_at_most_so_many_windows_open() -> None:
    outcomes = (Outcome(window=HOUR, max_open=2), Outcome(name="other", window=HOUR, max_open=1))
    drafts = [at(number, "ad_impression", user) for number in range(4) for user in ("u1", "u2")]
    found = Reference(simple(outcomes=outcomes)).run(write(*drafts))
    assert sorted(window.user_id for window in found.windows().values()) == ["u1"] * 3 + ["u2"] * 3
    assert found.counts["windows_refused"] == 2 * (2 + 3)


def test_an_event_told_again_after_the_ring_forgot_it_opens_no_second_window() -> None:
    again = at(0, "ad_impression", known_as="e1")
    others = [at(0, known_as=f"x{number}") for number in range(8)]
    found = Reference(simple()).run(write(again, *others, again))
    assert told(found) == [("exposed", 0, 0)]


@sizes
def test_windows_close_by_deadline_then_id_before_the_events_own_decisions(size: int) -> None:
    users = [f"u{number}" for number in range(6)]
    drafts = [at(0, "ad_impression", user) for user in users] + [at(1, "ad_impression", "a")]
    log = write(*drafts, at(70, "ad_impression", "z"))
    found = Reference(simple()).run(log, size)
    last = [one for one in examples(found.entries) if one.offset == len(log) - 1]
    assert [one.stage for one in last] == ["matured"] * 7 + ["exposed"]
    keys = [(one.exposed_at, one.example_id) for one in last[:-1]]
    assert keys == sorted(keys)
    assert [one.index for one in last] == list(range(1, 9))


@sizes
def test_a_window_closes_when_the_watermark_has_passed_its_deadline_not_before(size: int) -> None:
    due = 60 + LATE / MINUTE
    log = write(at(0, "ad_impression"), at(due, user="u2"), at(due + 1 / MINUTE, user="u2", known_as="x"))
    assert told(Reference(simple()).run(log, size), "matured") == [("matured", 0, 2)]


@sizes
def test_an_event_closes_a_bounded_number_and_the_next_the_rest(size: int) -> None:
    drafts = [at(number / 100, "ad_impression", f"u{number}") for number in range(7)]
    after = [at(100 + number, user="z") for number in range(3)]
    found = Reference(simple(batch={"closings_per_event": 3})).run(write(*drafts, *after), size)
    assert [offset for _, _, offset in told(found, "matured")] == [7, 7, 7, 8, 8, 8, 9]
    order = [one.exposed_at for one in examples(found.entries, "matured")]
    assert order == sorted(order)


def test_a_denied_event_and_a_request_move_time_on_too() -> None:
    options = Settings(outcomes=(Outcome(window=HOUR),), rules=())
    consent = {"request_id": "r", "user_id": "u1", "ts": NOON, "consent": {"personalisation": True}}
    headers = [("nudge-kind", b"privacy")]
    first = Record(0, NOON, msgspec.json.encode(consent), None, headers)
    opened, denied = write(at(0, "ad_impression"), at(70, user="u2"))
    opened.offset, denied.offset = 1, 2
    found = Reference(options).run([first, opened, denied])
    assert told(found) == [("exposed", 0, 1), ("matured", 0, 2)]
    assert found.counts["denied"] == 1


def abandoned(**fields: Any) -> Settings:
    return simple(outcomes=(), score_on=(), rules=(AbandonedRule(name="abandoned", after=30 * MINUTE, **fields),))


def fired(found: Reference) -> list[int]:
    """Source offsets of the triggers."""
    return [entry.position.offset for entry in found.entries if entry.target == "recommendations"]


@sizes
def test_a_rules_window_fires_when_nothing_cancels_it(size: int) -> None:
    log = write(at(0, "add_to_cart"), at(34, user="u2"), at(36, user="u2"))
    assert fired(Reference(abandoned()).run(log, size)) == [2]


@sizes
@pytest.mark.parametrize("what", ["in time", "late"])
def test_a_cancelled_window_never_fires(size: int, what: str) -> None:
    # A late purchase, behind the watermark, but recorded before the window closed.
    when = {"in time": (20, 20), "late": (10, 32)}[what]
    drafts = [at(0, "add_to_cart"), at(31, user="u2"), at(when[0], "purchase"), at(50, user="u2"), at(90, user="u2")]
    recorded = {2: max(when[1], 31)}
    found = Reference(abandoned()).run(write(*drafts, recorded=recorded), size)
    assert fired(found) == []
    assert found.windows() == {}
    assert found.counts["late"] == (what == "late") + (what == "in time")


def test_a_purchase_before_the_intent_cancels_nothing() -> None:
    log = write(at(3, "add_to_cart"), at(2, "purchase"), at(50, user="u2"))
    assert fired(Reference(abandoned()).run(log)) == [2]


def test_only_the_latest_intent_counts() -> None:
    log = write(
        at(0, "add_to_cart"), at(20, "add_to_cart"), at(16, "add_to_cart"), at(40, user="u2"), at(60, user="u2")
    )
    found = Reference(abandoned()).run(log[:4])
    assert fired(found) == []
    assert [window.opened_at for window in found.windows().values()] == [NOON + 20 * MINUTE]
    found.run(log[4:])
    assert fired(found) == [4]


@sizes
def test_a_late_event_fulfils_but_opens_nothing_and_fires_nothing(size: int) -> None:
    options = simple(
        outcomes=(Outcome(window=2 * HOUR),),
        rules=(AbandonedRule(name="abandoned", opened_by=("intent", "conversion")),),
    )
    late = (at(10, "purchase", item_id="i1"), at(11, "add_to_cart"), at(12, "ad_impression"))
    log = write(at(0, "ad_impression"), at(60, user="u2"), *late, at(61, user="u2"), recorded={2: 60, 3: 60, 4: 60})
    found = Reference(options).run(log, size)
    assert told(found) == [("exposed", 0, 0), ("fulfilled", 1, 2)]
    assert found.counts["late"] == 3
    assert fired(found) == []
    assert not any(isinstance(_read(entry.value), Interaction) for entry in found.entries if entry.target == "examples")


def test_what_scores_a_row_is_a_setting() -> None:
    found = Reference(simple(outcomes=(), score_on=("view",))).run(write(at(0), at(1, "ad_click")))
    assert found.latest is not None
    assert [item.row is not None for item in found.latest.items] == [True, False]


kinds = st.sampled_from(["page_view", "ad_impression", "purchase", "add_to_cart", "ad_click"])
drafts = st.lists(st.tuples(kinds, st.integers(0, 90), st.sampled_from(["tea", "cups"])), min_size=2, max_size=25)


@configured(max_examples=100, deadline=None)
@given(drafts, st.integers(1, 24))
def test_rows_are_the_same_with_the_future_taken_away(found: list[Any], cut: int) -> None:
    steps = [
        at(minutes, kind, known_as=f"e{n}", category=category, price=n, item_id=f"i{n % 3}")
        for n, (kind, minutes, category) in enumerate(found)
    ]
    log = write(*steps, recorded=dict.fromkeys(range(len(steps)), 90))

    whole, past = (Reference(simple(lateness=HOUR)).run(part) for part in (log, log[:cut]))

    assert whole.latest is not None
    assert past.latest is not None
    assert [item.row for item in whole.latest.items[:cut]] == [item.row for item in past.latest.items]
    assert whole.entries[: len(past.entries)] == past.entries


def test_a_row_includes_its_own_event_and_the_time_since_the_one_before() -> None:
    found = Reference(simple()).run(write(at(0), at(60)))
    assert found.latest is not None
    first, second = (dict(zip(NAMES, item.row or (), strict=True)) for item in found.latest.items)
    assert first["views"] == pytest.approx(0.6931, abs=1e-4)
    assert first["gap"] == 0.0
    assert second["gap"] == pytest.approx(0.6931, abs=1e-4)
