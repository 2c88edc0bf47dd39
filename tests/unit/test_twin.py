"""The twin decides and learns what a worker would, to the bit, and never looks ahead; nor does a table's rehearsal."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from models.lifecycle.learners import LearnerSet
from models.lifecycle.registry import Champions
from models.outcomes.features import CATEGORICAL, NAMES, SCHEMA
from models.outcomes.learner import OutcomeLearner
from models.outcomes.rehearsal import Rehearsal, Rows, order
from schemas.example import Example, Interaction
from schemas.privacy import PURPOSES
from stream.desk import Desk
from stream.partition import find_partition
from stream.settings import Outcome, ScoreRule, Settings
from stream.stages.batch import Entry
from stream.twin import AT_ONCE, Twin
from tests.unit.factories import NOON, event
from tests.unit.reference import Inline, Record, Reference, WordScorer, open_to_all

MINUTE = 60_000
TYPES = ("page_view", "add_to_cart", "email_sent", "purchase", "review")
EVERY = 400
BROKEN = (b"{", b'{"event_id": 1}')
_decode = msgspec.json.Decoder(Example | Interaction).decode


def brisk(**overrides: Any) -> Settings:
    """Windows of minutes, so that hundreds of labels mature in a small log."""
    fields: dict[str, Any] = {
        "clock": "event",
        "lateness": MINUTE,
        "outcomes": (Outcome(window=20 * MINUTE, max_open=4),),
        "rules": (ScoreRule(name="likely", at_least=0.3, cooldown=15 * MINUTE),),
    }
    return open_to_all(**(fields | overrides))


def compose(number: int, seed: int = 4) -> list[bytes]:
    """Events of 60 people, seconds apart, a few late, doubled or broken; buyers of one kind buy again."""
    chance = random.Random(seed)
    lines = []
    for place in range(number):
        if chance.random() < 0.01:
            lines.append(chance.choice(BROKEN))
            continue
        who = int(60 * chance.random() ** 2)
        kind = chance.choice(TYPES[: 4 + (who % 3 == 0)]) if who % 2 else chance.choice(TYPES[:3])
        at = NOON + place * 4_000 - chance.choice((0, 0, 0, 0, 90_000))
        draft = event(f"u{who}").at(at).of_type(kind).known_as(f"e{place - chance.choice((0, 0, 0, 2))}")
        draft = draft.having(item_id=f"i{chance.randrange(20)}", session_id=f"s{place}", price=9.5)
        lines.append((draft.saying("good, good, bad") if kind == "review" else draft).as_json())
    return lines


LOG = compose(2_800)


def play(settings: Settings, lines: Sequence[bytes], scored: bool = False, **options: Any) -> tuple[Twin, list[Entry]]:
    twin = Twin(settings, Inline(), desk=Desk(WordScorer()) if scored else None, **options)
    entries: list[Entry] = []
    for some in chunks(lines):
        entries += asyncio.run(twin.take(some))
    return twin, entries


def chunks(lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for at in range(0, len(lines), AT_ONCE):
        yield lines[at : at + AT_ONCE]


def user_of(line: bytes) -> str | None:
    return None if line in BROKEN else str(msgspec.json.decode(line)["user_id"])


def run_by_hand(
    settings: Settings, lines: Sequence[bytes], partitions: int, every: int, scored: bool
) -> tuple[list[Entry], LearnerSet]:
    """Workers of all partitions and a learn agent, made of the reference and of nothing of the twin's.

    Records are dated as a producer would date them, a day after their events, and come in batches of another size.
    """
    workers = [
        Reference(settings, partition=number, partitions=partitions, scorer=WordScorer() if scored else None)
        for number in range(partitions)
    ]
    offsets = [0] * partitions
    learners, champions = LearnerSet(NAMES, SCHEMA, CATEGORICAL), Champions(SCHEMA)
    entries: list[Entry] = []
    learned, due, newest = 0, every, 0
    for some in chunks(lines):
        parts: list[list[Record]] = [[] for _ in workers]
        for line in some:
            user = user_of(line)
            place = 0 if user is None else find_partition(user, partitions, "murmur2")
            parts[place].append(Record(offsets[place], NOON + 86_400_000 + len(entries), line))
            offsets[place] += 1
        for worker, part in zip(workers, parts, strict=True):
            before = len(worker.entries)
            worker.models = champions.current
            worker.run(part, size=7)
            for entry in worker.entries[before:]:
                entries.append(entry)
                if entry.target == "examples":
                    record = _decode(entry.value)
                    learners.learn(record)
                    learned += 1
                    newest = max(newest, record.exposed_at if isinstance(record, Example) else record.ts)
        if learned >= due:
            due = learned + every
            for snapshot in learners.snapshots(learned - 1, newest):
                champions.swap(snapshot)
    return entries, learners


def told(entries: Sequence[Entry]) -> list[tuple[Any, ...]]:
    """What leaves a worker, but for the dates of the records that led to it."""
    return [(*entry.position, entry.target, entry.key, entry.value) for entry in entries]


@pytest.mark.parametrize(("partitions", "scored"), [(1, False), (1, True), (3, False)])
def test_the_twin_is_a_worker_to_the_bit(partitions: int, scored: bool) -> None:
    # given a log in which models warm up, are swapped and fire triggers
    twin, entries = play(brisk(), LOG, scored, partitions=partitions, every=EVERY)
    # when workers and a learn agent are run by hand with the same moments of snapshots
    wanted, learners = run_by_hand(brisk(), LOG, partitions, EVERY, scored)
    # then every example, trigger and dead letter is the same, and so is what was learned
    assert told(entries) == told(wanted)
    assert twin.snapshots() == learners.snapshots(twin.examples - 1, twin.newest)
    # and there was something to be compared
    learner = twin.learners.outcomes["conversion"]
    assert learner.served.metrics()["rows"] > 200
    assert twin.swaps > 4
    assert twin.counts["triggers:likely"] > 20
    assert twin.counts["late"] > 20
    assert twin.counts["duplicates"] > 5
    assert twin.counts["dead_letters"] == sum(line in BROKEN for line in LOG)


def test_what_is_decided_does_not_hang_on_what_comes_later() -> None:
    _, whole = play(brisk(), LOG, every=EVERY)
    _, part = play(brisk(), LOG[:2_000], every=EVERY)
    assert any(b'"prediction"' in entry.value for entry in part)
    assert told(whole)[: len(part)] == told(part)


def test_rarer_swaps_leave_more_rows_without_a_prediction() -> None:
    often, rarely = (play(brisk(), LOG, every=every)[0] for every in (200, 1_200))
    served = [twin.learners.outcomes["conversion"].served.metrics() for twin in (often, rarely)]
    assert often.swaps > 2 * rarely.swaps > 0
    assert served[0]["rows"] > served[1]["rows"] > 0
    assert served[0]["rows"] + served[0]["unscored"] == served[1]["rows"] + served[1]["unscored"]


def test_without_consent_nothing_is_learned_and_a_grant_before_the_log_opens_it() -> None:
    settings = brisk(consent={"mode": "required"})
    twin, entries = play(settings, LOG[:300])
    assert twin.counts["denied"] == 300 - twin.counts["dead_letters"]
    assert {entry.target for entry in entries} == {"dead_letters"}

    granted = Twin(settings, Inline(), partitions=2)
    grants = [
        msgspec.json.encode(
            {"request_id": f"r{who}", "user_id": f"u{who}", "ts": NOON - 1, "consent": dict.fromkeys(PURPOSES, True)}
        )
        for who in range(60)
    ]
    asyncio.run(granted.take(grants, requests=True))
    asyncio.run(granted.take(LOG[:300]))
    assert granted.counts["denied"] == 0
    assert granted.counts["consents"] == 60
    unasked = Twin(brisk(), Inline(), partitions=2)
    asyncio.run(unasked.take(LOG[:300]))
    assert granted.examples == unasked.examples > 0


def drawn(number: int, seed: int = 2) -> Rows:
    chance = random.Random(seed)
    features = [(chance.random(), chance.gauss(0, 1)) for _ in range(number)]
    labels = [int(chance.random() < 0.2 + 0.6 * row[0]) for row in features]
    return Rows(features, labels, [1_000.0 * place for place in range(number)])


def rehearsed(rows: Rows, delay: int, every: int = 50) -> tuple[OutcomeLearner, list[float | None]]:
    """The learner afterwards, and what was served of each row."""
    learner = OutcomeLearner("buy", ("a", "b"), "s1")
    said: list[float | None] = [None] * len(rows.labels)
    learn = learner.learn

    def note(example: Example) -> None:
        said[int(example.example_id)] = example.prediction
        learn(example)

    learner.learn = note  # type: ignore[method-assign]
    Rehearsal(learner, delay=delay, every=every).play(rows)
    return learner, said


def test_a_label_is_unknown_until_it_is_due() -> None:
    rows, delay = drawn(1_500), 300_000
    _, said = rehearsed(rows, delay)
    # when every label that is due after row 1,000 is turned round
    turned = [label if place + 300 <= 1_000 else 1 - label for place, label in enumerate(rows.labels)]
    _, other = rehearsed(rows._replace(labels=turned), delay)
    # then nothing that was said up to it changes, and something after it does
    assert said[:1_001] == other[:1_001]
    assert said[1_001:] != other[1_001:]


def test_every_label_is_judged_once_and_late_ones_later() -> None:
    for delay, unscored in ((0, 199), (300_000, 499)):
        learner, said = rehearsed(drawn(1_000), delay, every=20)
        assert learner.rows["exposed"] == learner.rows["matured"] == 1_000
        served = learner.served.metrics()
        assert served["rows"] + served["unscored"] == 1_000
        assert served["unscored"] == sum(each is None for each in said)
        assert unscored <= served["unscored"] <= unscored + 20
        assert served["log_loss"] < served["base_log_loss"]


def test_rows_of_one_time_know_nothing_of_each_other() -> None:
    assert list(order([5.0, 5.0, 6.0], 1)) == [
        ("exposed", 0),
        ("exposed", 1),
        ("matured", 0),
        ("matured", 1),
        ("exposed", 2),
        ("matured", 2),
    ]
