"""However a log is cut into batches, the same is decided: same entries, same people, same counts, to the byte."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as configured
from hypothesis import strategies as st

from models.sentiment import Cascade
from models.sentiment.levels import LOWEST
from schemas.privacy import KIND_HEADER, LEDGER_HEADER, PURPOSES, Purpose
from stream.settings import AbandonedRule, Outcome, ScoreRule, Settings
from tests.unit.factories import NOON, event
from tests.unit.reference import Record, Reference, WordScorer, make_lineup

MINUTE = 60_000
LINEUP = make_lineup("conversion", "click")
TYPES = ("page_view", "ad_impression", "ad_click", "add_to_cart", "purchase", "review", "something_else")
REVIEWS = (
    "I love this phone, the battery lasts for days!",
    "The food was cold and the waiter was rude.",
    "Ich liebe dieses Handy, einfach super!",
    "They will open the new shop in London on Tuesday morning.",
    "La comida estaba fría y el camarero era muy antipático.",
    "It is not what I had expected, but then I did not expect much.",
)
TEXTS = ("good, good, bad", "bad", "neither, and ünïcödé")


def eager(**overrides: Any) -> Settings:
    """Short windows, short cooldowns and few closings an event, so that everything meets in a small log."""
    fields: dict[str, Any] = {
        "lateness": MINUTE,
        "future_tolerance": 10 * MINUTE,
        "profile_ttl": 240 * MINUTE,
        "batch": {"closings_per_event": 2},
        "outcomes": (
            Outcome(window=20 * MINUTE, max_open=3),
            Outcome(name="click", opened_by=("exposure",), fulfilled_by=("click",), window=5 * MINUTE, max_open=2),
        ),
        "rules": (
            ScoreRule(name="likely", at_least=0.4, cooldown=15 * MINUTE),
            ScoreRule(name="clicky", at_least=0.3, cooldown=0, outcome="click", roles=("exposure", "view")),
            AbandonedRule(name="abandoned", after=3 * MINUTE, cooldown=10 * MINUTE),
        ),
    }
    return Settings(**(fields | overrides))


def ask(
    user: str, purposes: Mapping[Purpose, bool], ledger: bytes | None, action: str = "consent"
) -> tuple[bytes, Any]:
    """Value and headers of a privacy request as the privacy agent passes it on."""
    value = {"request_id": "r", "user_id": user, "ts": NOON, "action": action, "consent": purposes}
    headers = [(KIND_HEADER, b"privacy")] + ([(LEDGER_HEADER, ledger)] if ledger is not None else [])
    return msgspec.json.encode(value), headers


def segment(user: str, purposes: Mapping[Purpose, bool], number: int) -> bytes:
    """A Segment call that brings consent along."""
    call = {"type": "track", "event": "page_view", "userId": user, "messageId": f"s{number}"}
    consent = {"timestamp": "2024-05-01T12:00:00Z", "context": {"consent": {"categoryPreferences": purposes}}}
    return msgspec.json.encode(call | consent)


def compose_log(number: int, seed: int = 1, people: int = 3_000) -> list[Record]:
    """A log with everything in it that may happen to one partition, from a seed."""
    chance = random.Random(seed)
    records: list[Record] = []
    now = NOON
    ledger = 0
    met: set[str] = set()
    for offset in range(number):
        # Bursts with a pause now and then, some longer than windows, cooldowns and profiles last.
        now += chance.choice((0, 10, 300, 2_000)) if chance.random() < 0.998 else chance.choice((30, 300)) * MINUTE
        user = f"u{int(people * chance.random() ** 3)}"
        dice = chance.random()
        headers: Any = ()
        value: bytes | None
        if user not in met and dice < 0.7:
            value, headers = ask(user, dict.fromkeys(PURPOSES, True), None)
        elif dice < 0.03:
            ledger += chance.choice((0, 1, 1, 1))
            allowed = {purpose: chance.random() < 0.8 for purpose in PURPOSES if chance.random() < 0.7}
            action = "erase" if chance.random() < 0.05 else "consent"
            value, headers = ask(user, allowed, b"%d/%d" % (ledger % 2, ledger), action)
        elif dice < 0.04:
            value = segment(user, {purpose: chance.random() < 0.8 for purpose in PURPOSES}, offset)
        elif dice < 0.05:
            value = chance.choice((None, b"", b"{", b'{"event_id": 1}', b"\xff", event(user).at("tomorrow").as_json()))
            headers = chance.choice(((), [("trace", b"1"), ("empty", b"")]))
        else:
            value = _draw_event(chance, user, now, offset)
        met.add(user)
        records.append(Record(offset, now, value, user.encode(), headers))
    return records


def _draw_event(chance: random.Random, user: str, now: int, offset: int) -> bytes:
    kind = chance.choice(TYPES)
    lag = 0 if chance.random() < 0.9 else chance.choice((-30, 45, 90, 1_200, 100_000)) * 1_000
    fields: dict[str, Any] = {"event_id": f"e{offset - chance.choice((0, 0, 0, 0, 0, 0, 0, 1, 5, 400))}"}
    for name, choices in (
        ("session_id", ("s1", "s2", None, None)),
        ("campaign_id", ("c1", "c2", None)),
        ("item_id", [f"i{chance.randrange(40)}", None]),
        ("category", ("tea", "cups", "Küche", None)),
        ("price", (9.5, 120.0, None)),
        ("quantity", (1, 3, -1, None)),
        ("channel", ("web", None)),
    ):
        if (value := chance.choice(choices)) is not None:
            fields[name] = value
    if kind == "review":
        fields["content"] = chance.choice(TEXTS)
    return event(user, **fields).of_type(kind).at(now - lag).as_json()


def apply(options: Settings, records: Sequence[Any], size: int | Iterable[int], forgetful: bool = False) -> Reference:
    return Reference(options, scorer=WordScorer(), models=LINEUP, forgetful=forgetful).run(records, size)


def assert_same(found: Reference, wanted: Reference) -> None:
    for other, entry in zip(found.entries, wanted.entries, strict=False):
        assert other == entry
    assert len(found.entries) == len(wanted.entries)
    assert found.profiles() == wanted.profiles()
    assert found.people == wanted.people
    assert found.counts == wanted.counts
    assert (found.clock, found.emitted) == (wanted.clock, wanted.emitted)


@pytest.mark.parametrize(
    "options",
    [eager(), eager(consent={"mode": "optional"}), eager(clock="event", consent={"mode": "optional"})],
    ids=["consent required", "consent optional", "event clock"],
)
def test_batches_of_1_7_and_500_decide_the_same(options: Settings) -> None:
    records = compose_log(8_000)
    wanted = apply(options, records, 1)
    # The log must be one in which everything happens, or the comparison says little.
    for name in (
        "scored",
        "duplicates",
        "dead_letters",
        "late",
        "consents",
        "windows_refused",
        "examples:fulfilled:1",
        "examples:matured:0",
        "examples:matured:1",
        "triggers:likely",
        "triggers:clicky",
        "triggers:abandoned",
        "suppressed:cooldown",
        "suppressed:consent",
    ):
        assert wanted.counts[name] > 0, name
    sorts = ("scored", "denied", "duplicates", "dead_letters", "consents")
    assert sum(wanted.counts[name] for name in sorts) == len(records)

    for size in (7, 500):
        assert_same(apply(options, records, size), wanted)


@pytest.mark.parametrize("level", [0, 2, LOWEST])
def test_batches_of_any_size_decide_the_same_with_the_scorer_that_ships_at_a_fixed_level(level: int) -> None:
    """Would have caught: int8 products of several texts at once, whose scale comes from all of them."""
    options = eager(consent={"mode": "optional"})
    texts = [
        event(f"u{n % 7}")
        .of_type("review")
        .known_as(f"r{n}")
        .saying(f"{REVIEWS[n % len(REVIEWS)]} ({n % 31})", "en" if n % 5 == 0 else None)
        .at(NOON + n * 1_000)
        .as_json()
        for n in range(90)
    ]
    records = [Record(n, NOON + n * 1_000, value, None) for n, value in enumerate(texts)]

    def run(size: int | Sequence[int]) -> Reference:
        cascade = Cascade(level=level)
        found = Reference(options, scorer=cascade, models=LINEUP).run(records, size)
        assert cascade.failures == 0
        assert (cascade.answered["transformer"] > 0) == (level < LOWEST)
        return found

    wanted = run(1)
    assert len({person.person.sentiment for person in wanted.people.values() if person.person}) == 7
    for size in (500, (7, 1, 30)):
        assert_same(run(size), wanted)


def test_what_is_read_back_from_storage_decides_the_same() -> None:
    records = compose_log(4_000, seed=2)
    assert_same(apply(eager(), records, 100, forgetful=True), apply(eager(), records, 500))


def test_windows_that_come_back_in_another_order_are_fulfilled_in_the_same() -> None:
    steps = [step("ad_impression", session_id="s1", campaign_id="c1"), step("ad_impression", pause=1_000)]
    exposures, purchase = (
        follow(steps),
        follow([*steps, step("purchase", 1_000, campaign_id="c1", session_id="s2")])[-1:],
    )
    found, wanted = (Reference(eager(consent={"mode": "optional"}), models=LINEUP).run(exposures) for _ in range(2))
    for dossier in found.people.values():
        dossier.windows = dict(reversed(dossier.windows.items()))

    assert_same(found.run(purchase), wanted.run(purchase))


def test_the_same_log_gives_the_same_bytes_twice() -> None:
    records = compose_log(2_000, seed=3)
    assert_same(apply(eager(), records, 33), apply(eager(), records, 33))


steps = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["u1", "u1", "u2", "u3"]),
        "pause": st.sampled_from([0, 0, 1_000, MINUTE, 4 * MINUTE, 30 * MINUTE, 239 * MINUTE, 300 * MINUTE]),
        "lag": st.sampled_from([0, 0, 0, 0, -MINUTE, 2 * MINUTE, 30 * MINUTE, 500 * MINUTE]),
        "what": st.sampled_from([*TYPES, "purchase", "add_to_cart", "ad_impression", "grant", "withdraw", "broken"]),
        "known_as": st.sampled_from([None, None, None, "e1", "e2"]),
        "session_id": st.sampled_from([None, None, "s1", "s2"]),
        "campaign_id": st.sampled_from([None, "c1"]),
        "item_id": st.sampled_from([None, "i1", "i2", "i3"]),
        "ledger": st.sampled_from([None, b"0/1", b"0/2", b"1/1", b"0/1/0"]),
    }
)
Steps = list[dict[str, Any]]


def follow(steps: Steps) -> list[Record]:
    """The log that the steps describe."""
    records = []
    now = NOON
    for offset, step in enumerate(steps):
        now += step["pause"]
        user, headers = step["user"], ()
        value: bytes | None
        if step["what"] in ("grant", "withdraw"):
            value, headers = ask(user, dict.fromkeys(PURPOSES, step["what"] == "grant"), step["ledger"])
        elif step["what"] == "broken":
            value = None
        else:
            names = ("session_id", "campaign_id", "item_id")
            fields = {name: step[name] for name in names if step[name] is not None}
            draft = event(user, **fields).of_type(step["what"]).known_as(step["known_as"] or f"n{offset}")
            value = draft.at(now - step["lag"]).as_json()
        records.append(Record(offset, now, value, None, headers))
    return records


def step(what: str = "page_view", pause: int = 0, **fields: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("known_as", "session_id", "campaign_id", "item_id", "ledger"))
    return {"user": "u1", "pause": pause, "lag": 0, "what": what} | empty | fields


@configured(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(steps, min_size=2, max_size=40),
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.sampled_from(["required", "optional"]),
    st.sampled_from(["log", "event"]),
)
# A profile that would be too old without the event before.
@example([step(), step(pause=200 * MINUTE), step(pause=200 * MINUTE)], [3], "optional", "log")
# Consent withdrawn, and granted, after a window closed in the same batch.
@example([step("grant"), step("add_to_cart"), step(pause=30 * MINUTE), step("withdraw")], [4], "required", "log")
@example(
    [step("grant"), step("add_to_cart"), step("withdraw"), step(pause=30 * MINUTE, user="u2"), step("grant")],
    [2, 3],
    "required",
    "log",
)
# Forgotten, and come back with an event that was seen before.
@example(
    [
        step("grant"),
        step("add_to_cart", known_as="e1"),
        step("withdraw"),
        step("grant"),
        step("add_to_cart", known_as="e1"),
        step(pause=30 * MINUTE),
    ],
    [2, 6],
    "required",
    "log",
)
# A window opened twice by one event, when the ring has forgotten it, after another was closed.
@example(
    [
        step("add_to_cart", user="u2"),
        step("add_to_cart", known_as="e1", pause=210_000),
        *[step()] * 8,
        step(pause=42_000),
        step("add_to_cart", known_as="e1", lag=42_000, campaign_id="c1"),
    ],
    [20],
    "optional",
    "log",
)
def test_any_log_cut_anywhere_decides_the_same(steps: Steps, sizes: list[int], mode: Any, clock: Any) -> None:
    options = eager(consent={"mode": mode}, clock=clock)
    records = follow(steps)
    wanted = apply(options, records, 1)
    assert_same(apply(options, records, sizes), wanted)
    assert_same(apply(options, records, len(records)), wanted)
