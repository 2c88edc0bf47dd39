"""Decisions: entries in order with positions of their own, the same ids each time, and nobody bothered too often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from models.lifecycle.registry import Lineup
from schemas.example import Example, Interaction
from schemas.privacy import KIND_HEADER, PURPOSES
from schemas.reasons import ERROR_HEADER, FIELD_HEADER, REASON_HEADER, SOURCE_HEADER, TIME_HEADER
from schemas.scored import ScoredEvent
from schemas.trigger import RecommendationTrigger
from stream.settings import AbandonedRule, Outcome, ScoreRule, Settings
from stream.stages.batch import NOWHERE, Entry, Position
from stream.stages.decide import name_trigger
from stream.stages.letters import ORIGINAL
from tests.unit.factories import NOON
from tests.unit.reference import Record, Reference, WordScorer, make_lineup, make_scorer, open_to_all
from tests.unit.test_batch_invariance import apply, compose_log, eager
from tests.unit.test_features_stage import at, fired, sizes, write

MINUTE = 60_000
LINEUP = make_lineup()
ALWAYS = ScoreRule(name="always", at_least=0.0, cooldown=10 * MINUTE)


def options(*rules: Any, **overrides: Any) -> Settings:
    return open_to_all(**({"rules": rules or (ALWAYS,), "outcomes": (Outcome(window=60 * MINUTE),)} | overrides))


def decide(log: list[Record], *rules: Any, size: int = 500, models: Lineup = LINEUP, **overrides: Any) -> Reference:
    return Reference(options(*rules, **overrides), models=models).run(log, size)


def triggers(found: Reference) -> list[RecommendationTrigger]:
    values = [entry.value for entry in found.entries if entry.target == "recommendations"]
    return [msgspec.json.decode(value, type=RecommendationTrigger) for value in values]


def consent(allowed: bool, offset: int, minutes: float, purposes: Sequence[str] = PURPOSES) -> Record:
    request = {"request_id": "r", "user_id": "u1", "ts": NOON, "consent": dict.fromkeys(purposes, allowed)}
    stamp = NOON + round(minutes * MINUTE)
    return Record(offset, stamp, msgspec.json.encode(request), None, [(KIND_HEADER, b"privacy")])


@pytest.mark.parametrize("size", [1, 13, 500])
def test_positions_rise_and_begin_at_one_for_every_offset(size: int) -> None:
    records = compose_log(2_000, seed=5)
    found = apply(eager(consent={"mode": "optional"}), records, size)
    positions = [entry.position for entry in found.entries]
    assert len(positions) > 500
    assert positions == sorted(set(positions))
    assert positions[0] > NOWHERE
    for before, after in zip([NOWHERE, *positions], positions, strict=False):
        assert after.number == (before.number + 1 if after.offset == before.offset else 1)
    times = {record.offset: record.timestamp for record in records}
    assert all(entry.at == times[entry.position.offset] for entry in found.entries)


def test_what_an_example_says_of_its_place_is_its_place() -> None:
    found = apply(eager(consent={"mode": "optional"}), compose_log(500, seed=6), 50)
    kinds = set()
    for entry in found.entries:
        if entry.target == "examples":
            one = msgspec.json.decode(entry.value, type=Example | Interaction)
            kinds.add(type(one))
            assert (one.partition, one.offset, one.index) == (0, *entry.position)
            assert entry.key == (one.outcome.encode() if isinstance(one, Example) else b"recommend")
    assert kinds == {Example, Interaction}


def test_an_example_and_its_prediction_name_the_version() -> None:
    found = decide(write(at(0, "ad_impression"), at(1, "purchase"), at(70, user="u2")))
    rows = [e for e in _examples(found) if e.outcome == "conversion"]
    for row in rows:
        assert row.model_version == 7
        assert row.prediction == make_scorer().score_one(row.features)
    assert [row.stage for row in rows] == ["exposed", "fulfilled", "exposed", "matured", "matured"]
    cold = decide(write(at(0, "ad_impression")), models=Lineup())
    assert [(row.prediction, row.model_version) for row in _examples(cold)] == [(None, None)]


def _examples(found: Reference) -> list[Example]:
    values = [entry.value for entry in found.entries if entry.target == "examples"]
    return [e for e in (msgspec.json.decode(v, type=Example | Interaction) for v in values) if isinstance(e, Example)]


def test_without_a_model_nothing_is_made_up() -> None:
    found = decide(write(at(0, "ad_impression"), at(1, "purchase")), models=Lineup())
    assert triggers(found) == []
    person = found.people["u1"].person
    assert person is not None
    assert (person.conversion_probability, person.conversion_version) == (None, None)


def test_a_profile_holds_the_last_probability_and_its_version() -> None:
    found = decide(write(at(0, "ad_impression"), at(1, "purchase")))
    person = found.people["u1"].person
    assert person is not None
    assert found.latest is not None
    row = found.latest.items[-1].row
    assert row is not None
    assert person.conversion_probability == make_scorer().score_one(row)
    assert person.conversion_version == 7


def test_scores_of_every_event_are_sent_where_that_is_asked_for() -> None:
    log = write(at(0, "ad_impression", known_as="e1"), at(1, "email_open", known_as="e2"), at(2, "purchase", user="u2"))
    assert not [entry for entry in decide(log).entries if entry.target == "scored"]

    found = decide(log, send_scores=True)
    sent = [entry for entry in found.entries if entry.target == "scored"]
    # an event of a role that is not scored, without a text, has nothing to tell
    assert [(entry.key, entry.position.offset) for entry in sent] == [(b"u1", 0), (b"u2", 2)]
    one = msgspec.json.decode(sent[1].value, type=ScoredEvent)
    person = found.people["u2"].person
    assert person is not None
    assert one.scores == {"conversion": person.conversion_probability}
    assert one.model_versions == {"conversion": 7}
    assert (one.role, one.ts, one.decided_at) == ("conversion", NOON + 2 * MINUTE, NOON + 2 * MINUTE)
    assert one.sentiment is None


def test_what_was_said_of_a_text_is_sent_with_who_said_so() -> None:
    log = write(at(0, "review", content="lovely", lang="en"), at(1, "review", content="bad", user="u2"))
    found = Reference(options(send_scores=True), scorer=WordScorer()).run(log)
    sent = [msgspec.json.decode(e.value, type=ScoredEvent) for e in found.entries if e.target == "scored"]
    assert [one.user_id for one in sent] == ["u1", "u2"]
    assert found.latest is not None
    for one, item in zip(sent, found.latest.items, strict=True):
        assert item.said is not None
        assert one.sentiment is not None
        assert msgspec.structs.asdict(one.sentiment) == msgspec.structs.asdict(item.said)
        assert one.scores == {}


@sizes
def test_a_trigger_is_named_by_person_event_and_rule(size: int) -> None:
    log = write(at(0, "ad_impression", known_as="e1"), at(1, "ad_impression", user="u2", known_as="e1"))
    found = decide(log, size=size)
    assert [one.trigger_id for one in triggers(found)] == [name_trigger(user, "e1", "always") for user in ("u1", "u2")]
    parts = [("u1", "e1", "a"), ("u1e", "1", "a"), ("u1", "e", "1a"), ("e1", "u1", "a")]
    assert len({name_trigger(*part) for part in parts}) == len(parts)


def test_a_trigger_explains_itself() -> None:
    (one,) = triggers(decide(write(at(0, "ad_impression", item_id="i3", campaign_id="c1", known_as="e1"))))
    assert one.user_id == "u1"
    assert one.rule == "always"
    assert one.event_id == "e1"
    assert one.campaign_id == "c1"
    assert one.decided_at == NOON
    assert one.expires_at == NOON + ALWAYS.valid_for
    assert one.model_versions == {"conversion": 7, "recommend": 7}
    assert list(one.scores) == ["conversion"]
    assert len(one.top_features) == 5
    assert len(one.items) == ALWAYS.items
    assert f"{one.scores['conversion']:.0%}" in one.reason
    assert "1 hour" in one.reason


def test_what_was_bought_is_not_recommended() -> None:
    bought = [at(n, "purchase", item_id=f"i{n}", known_as=f"b{n}") for n in range(25)]
    found = decide(write(*bought), ScoreRule(name="always", at_least=0.0, cooldown=0, items=50))
    for number, one in enumerate(triggers(found)):
        offered = {item.item_id for item in one.items}
        assert offered
        assert not offered & {f"i{n}" for n in range(number + 1)}


def test_a_rule_looks_at_its_roles_and_threshold() -> None:
    log = write(at(0, "ad_impression"), at(1, "page_view"), at(2, "purchase"))
    free = {"at_least": 0.0, "cooldown": 0}
    assert fired(decide(log, ScoreRule(name="views", roles=("view",), **free))) == [1]
    assert fired(decide(log, ScoreRule(name="both", **free))) == [0, 2]
    scores = [one.scores["conversion"] for one in triggers(decide(log, ScoreRule(name="both", **free)))]
    assert scores[0] != scores[1]
    at_least = max(scores)
    assert len(fired(decide(log, ScoreRule(name="both", at_least=at_least, cooldown=0)))) == 1
    assert fired(decide(log, ScoreRule(name="both", at_least=0.999, cooldown=0))) == []


@sizes
def test_a_rule_rests_for_its_cooldown_and_no_longer(size: int) -> None:
    log = write(*[at(minutes, "ad_impression") for minutes in (0, 9, 10, 19.99, 20)])
    found = decide(log, size=size)
    assert fired(found) == [0, 2, 4]
    assert found.counts["suppressed:cooldown"] == 2


def test_one_persons_cooldown_and_one_rules_are_their_own() -> None:
    log = write(at(0, "ad_impression"), at(1, "ad_impression", user="u2"))
    found = decide(log, ALWAYS, ScoreRule(name="too", at_least=0.0, cooldown=10 * MINUTE))
    assert [(one.user_id, one.rule) for one in triggers(found)] == [
        ("u1", "always"),
        ("u1", "too"),
        ("u2", "always"),
        ("u2", "too"),
    ]


ABANDONED = AbandonedRule(name="abandoned", after=30 * MINUTE, cooldown=60 * MINUTE)


@sizes
def test_an_abandoned_rule_rests_too(size: int) -> None:
    carts = [at(minutes, "add_to_cart") for minutes in (0, 40, 80, 130)]
    log = write(*carts, at(300, user="u2"))
    found = decide(log, ABANDONED, size=size)
    # Deadlines at 30, 70, 110 and 160 minutes: the second and, counted from the third on, the fourth rest.
    assert [one.event_id for one in triggers(found)] == ["u1 add_to_cart 0", "u1 add_to_cart 80"]
    assert found.counts["suppressed:cooldown"] == 2
    assert "no conversion within 30 minutes of intent" in triggers(found)[0].reason


@sizes
@pytest.mark.parametrize(("hours", "fires"), [(40, True), (60, False)])
def test_a_cart_that_is_found_abandoned_when_its_trigger_would_have_expired_fires_nothing(
    size: int, hours: int, fires: bool
) -> None:
    """Would have caught: a log that is filled in later, and people who are reminded of last year's cart."""
    found = decide(write(at(0, "add_to_cart"), at(60 * hours, user="u2")), ABANDONED, size=size)
    assert (len(triggers(found)), found.counts["suppressed:stale"]) == (int(fires), int(not fires))


@sizes
def test_a_closing_sees_its_person_as_of_that_moment(size: int) -> None:
    log = write(
        at(0, "add_to_cart", item_id="i1"),
        at(1, item_id="i2"),
        at(40, user="u2"),
        *[at(41 + n, "purchase", item_id=f"i{n}", known_as=f"p{n}") for n in range(3, 30)],
    )
    (one,) = triggers(decide(log, ABANDONED, size=size))
    assert {item.item_id for item in one.items} & {f"i{n}" for n in range(3, 30)}
    assert (one.decided_at, one.event_id) == (NOON + 40 * MINUTE, "u1 add_to_cart 0")


@sizes
@pytest.mark.parametrize(("when", "wanted"), [(10, []), (50, [2])])
def test_consent_withdrawn_before_a_window_closes_holds_its_trigger_back(
    size: int, when: float, wanted: list[int]
) -> None:
    first, *later = write(at(0, "add_to_cart"), at(40, user="u2"))
    records = [consent(True, 0, 0), first, *later, consent(False, 9, when, ["marketing"])]
    records.sort(key=lambda record: record.timestamp)
    for offset, record in enumerate(records):
        record.offset = offset
    found = decide(records, ABANDONED, size=size, consent={"mode": "required"})
    assert fired(found) == wanted
    assert found.counts["suppressed:consent"] == (not wanted)


@sizes
def test_a_trigger_asks_for_the_triggers_purpose(size: int) -> None:
    found = decide(write(at(0, "ad_impression")), size=size, consent={"mode": "optional", "trigger": "marketing"})
    assert fired(found) == [0]
    request = {"request_id": "r", "user_id": "u1", "ts": NOON, "consent": {"marketing": False}}
    refused = Record(0, NOON, msgspec.json.encode(request), None, [(KIND_HEADER, b"privacy")])
    (shown,) = write(at(0, "ad_impression"))
    shown.offset = 1
    found = decide([refused, shown], size=size)
    assert fired(found) == []
    assert (found.counts["suppressed:consent"], found.counts["scored"]) == (1, 1)


def test_an_interaction_tells_what_was_seen_before() -> None:
    log = write(
        *[at(n, item_id=item) for n, item in enumerate(("i1", "i2", "i2", "i1"))], at(9, "ad_click", item_id="i9")
    )
    values = [entry.value for entry in decide(log, recommend={"roles": ["view"]}).entries if entry.key == b"recommend"]
    found = [msgspec.json.decode(value, type=Interaction) for value in values]
    assert [(one.item_id, one.before) for one in found] == [
        ("i1", ()),
        ("i2", ("i1",)),
        ("i2", ("i1",)),
        ("i1", ("i2",)),
    ]
    assert all(b"u1" not in value for value in values)


def dead_letter(record: Record) -> Entry:
    (entry,) = Reference(open_to_all(), partition=0).run([record]).entries
    assert entry.target == "dead_letters"
    return entry


@pytest.mark.parametrize("value", [b"\xff\x00{", b"{", b"", None])
@pytest.mark.parametrize("key", [b"k\xff", b"", None])
def test_a_dead_letter_keeps_bytes_and_headers(value: bytes | None, key: bytes | None) -> None:
    headers: Any = [
        ("trace", b"\x00\xff"),
        ("empty", b""),
        ("null", None),
        ("trace", b"again"),
        ("nudge-reason", b"mine"),
    ]
    entry = dead_letter(Record(41, NOON, value, key, headers))
    assert entry.position == Position(41, 1)
    assert (entry.value, entry.key, entry.at) == (value or b"", key or b"", NOON)
    kept = [(name[len(ORIGINAL) :], content) for name, content in entry.headers if name.startswith(ORIGINAL)]
    assert kept == headers
    said = {name: content for name, content in entry.headers if not name.startswith(ORIGINAL)}
    assert said[REASON_HEADER] == (b"not_json" if value else b"empty")
    assert said[SOURCE_HEADER] == b"marketing.events.v1/0/41"
    assert said[TIME_HEADER] == str(NOON).encode()
    assert said[ERROR_HEADER]


def test_a_dead_letter_names_the_field_at_fault() -> None:
    entry = dead_letter(Record(0, NOON, b'{"event_id": 5, "user_id": "u1"}'))
    assert dict(entry.headers)[FIELD_HEADER] == b"event_id"


def test_a_dead_letter_that_died_before_keeps_both_stories() -> None:
    first = dead_letter(Record(3, NOON, b"{"))
    again = dead_letter(Record(9, NOON, first.value, None, first.headers))  # type: ignore[arg-type]
    headers = dict(again.headers)
    assert headers[SOURCE_HEADER] == b"marketing.events.v1/0/9"
    assert headers[ORIGINAL + SOURCE_HEADER] == b"marketing.events.v1/0/3"


def test_refusals_stand_where_their_records_stood() -> None:
    first, second = write(at(0, "ad_impression"), at(1, "ad_impression"))
    second.offset = 3
    records = [first, Record(1, NOON, b"{"), Record(2, NOON, None), second, Record(4, NOON, b"")]
    entries = decide(records).entries
    places = [(entry.position.offset, entry.target) for entry in entries]
    assert places == sorted(places, key=lambda place: place[0])
    assert [offset for offset, target in places if target == "dead_letters"] == [1, 2, 4]
