"""What one schedule of faults does, drawn from its seed: the log, the workers, and what strikes them where.

Nothing here touches a process or a server, and nothing is random but what the seed draws: the same seed gives the same
plan on every machine. A plan prints as one line.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from schemas.privacy import PURPOSES
from tests.unit.factories import NOON
from tests.unit.reference import Record
from tests.unit.test_batch_invariance import MINUTE, ask, compose_log

Family = Literal["pinned", "shuffled", "live"]
Kind = Literal["kill", "point", "assigning", "zombie", "duel", "rebalance", "leave", "rollback", "redis", "broker"]
Point = Literal["read", "decided", "committing", "committed", "sending", "written", "sent"]

POINTS: Final[tuple[Point, ...]] = ("read", "decided", "committing", "committed", "sending", "sent")
IN_TRANSACTIONS: Final[tuple[Point, ...]] = (*POINTS, "written")
"""Under exactly once there is a moment more: all of a transaction is written, and it is not committed."""
PEOPLE: Final = 24_000
"""A long tail: with few people the next batch writes everybody again, and a lost write does not show."""
SECTION: Final = 600
"""Records that are sent around one fault."""
PARTITIONS: Final = 4
ALL: Final = 1_000
"""Closings for one event that are as good as all."""

KILLS: Final[tuple[Kind, ...]] = ("kill", "point", "point", "point", "assigning")
"""What ends a worker; kills at named points are what there is most to learn from."""
MANY: Final = 10
"""Kills in a schedule."""
OTHERS: Final[tuple[Kind, ...]] = ("zombie", "duel", "rebalance", "leave", "rollback", "redis")
"""Of these there are two in a schedule, and one where the broker is killed too: a schedule lasts 45 seconds at most."""
FAMILIES: Final[dict[Family, float]] = {"pinned": 0.6, "shuffled": 0.2, "live": 0.2}
HOURS: Final = (-30, -7, 0, 7, 30)
"""How far a worker's wall clock may be off."""
NEEDS_TWO: Final[frozenset[Kind]] = frozenset(("zombie", "duel"))


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong when `share` of its section's records are applied.

    `kill`: SIGKILL of `worker`, which is started again. `point`: the worker kills itself at the `count`-th time that it
    is at `point`. `assigning`: killed, and again as soon as it has taken a partition over. `zombie`: stopped with a
    batch decided, until its partitions are others', then woken up. `duel`: the same, but the new owner stands still
    too, just when it has the fence, so that the zombie finds the place that it knows. `rebalance`: a further member
    joins and leaves. `leave`: SIGTERM, and started again. `rollback`: Redis holds again what it held a while ago, under
    live workers. `redis`, `broker`: SIGKILL of the server, which comes back with its data.
    """

    kind: Kind
    worker: int
    share: float
    point: Point = "decided"
    count: int = 1
    settled: bool = True
    """Whether all workers are at work again before the section begins; else it may strike amid a recovery."""

    def __str__(self) -> str:
        where = f"@{self.point}#{self.count}" if self.kind == "point" else ""
        return f"{self.kind}{where}(w{self.worker},{self.share:.2f}{'' if self.settled else ',at once'})"


@dataclass(frozen=True)
class Plan:
    """One schedule. `batch`: records in a batch at most; `cache`: people that a worker remembers; `outbox`: entries
    that may wait in a partition; `rate`: records sent a second; `closings`: windows that one event may close;
    `exactly_once`: entries go in transactions, so that a copy of one is a mistake; `skews`: hours by which each
    worker's wall clock is off, if any is.

    `family`: `pinned`, models stand still and all is compared to the byte; `shuffled`, so too, and what commutes is
    compared besides with the same log in its own order; `live`, models learn, each event counts once and every
    decision can be computed again from the versions that it names.
    """

    seed: int
    workers: int
    batch: int
    cache: int
    outbox: int
    rate: int
    closings: int
    faults: tuple[Fault, ...]
    exactly_once: bool = False
    family: Family = "pinned"
    skews: tuple[int, ...] = ()

    def __str__(self) -> str:
        options = f"{self.workers} workers, batches of {self.batch}, {self.cache} cached, outbox {self.outbox}"
        options += ", exactly once" if self.exactly_once else ""
        return f"seed {self.seed}: {options}, {self.rate}/s, {self.describe_family()}: " + " ".join(
            map(str, self.faults)
        )

    def describe_family(self) -> str:
        """The family, and by how many hours clocks are off."""
        return self.family + (f" skew({','.join(f'{hours:+d}' for hours in self.skews)})" if any(self.skews) else "")

    @property
    def records(self) -> int:
        """Length of the log before records are repeated."""
        return SECTION * (len(self.faults) + 1)


def draw_plan(seed: int, broker: str = "embedded", *, exactly_once: bool = False) -> Plan:
    """The plan of `seed`; only on Apache Kafka (`kafka`) does it hold a kill of the broker, at most one."""
    points = IN_TRANSACTIONS if exactly_once else POINTS
    chance = random.Random(f"plan {seed}")
    workers = chance.choice((1, 2, 2, 3))
    options = {
        "batch": chance.choice((30, 120, 500)),
        "cache": chance.choice((100, 100_000, 100_000)),
        "outbox": chance.choice((200, 20_000)),
        "rate": chance.choice((1_200, 2_500)),
        # With few, windows wait for each other; with many, the oracle can tell when each closes.
        "closings": random.Random(f"closings {seed}").choice((2, ALL)),
    }
    others = [kind for kind in OTHERS if workers > 1 or kind not in NEEDS_TWO]
    broken = broker == "kafka" and random.Random(f"broker {seed}").random() < 0.35
    kinds = [*chance.choices(KILLS, k=MANY), *chance.sample(others, 1 if broken else 2)]
    faults = [
        Fault(
            kind,
            worker=chance.randrange(workers),
            share=round(chance.uniform(0.2, 0.7), 2),
            point=chance.choice(points),
            count=chance.randint(1, 3),
            settled=chance.random() < 0.5,
        )
        for kind in kinds
    ]
    faults += [Fault("broker", 0, 0.5)] * broken
    chance.shuffle(faults)
    family = draw_family(seed, faults)
    skewed = random.Random(f"skew {seed}")
    skews = tuple(skewed.choice(HOURS) for _ in range(workers)) if skewed.random() < 0.4 else ()
    return Plan(seed, workers, faults=tuple(faults), exactly_once=exactly_once, family=family, skews=skews, **options)


def draw_family(seed: int, faults: Sequence[Fault]) -> Family:
    """The family of a seed's plan. What a broker's end cut short is sent again whole, too late to be told as a copy;
    so such a log has no order of its own to be compared with."""
    [family] = random.Random(f"family {seed}").choices([*FAMILIES], [*FAMILIES.values()])
    return "pinned" if family == "shuffled" and any(fault.kind == "broker" for fault in faults) else family


def compose(plan: Plan) -> list[Record]:
    """The log of a plan: that of the unit tests (broken records, consents, repeated ids), and whole records twice.

    Now and then somebody grants everything anew. That of the family `shuffled` has events alone, out of order.
    """
    if plan.family == "shuffled":
        return shuffle(compose_plain(plan), plan.seed)
    chance = random.Random(f"log {plan.seed}")
    log: list[Record] = []
    # Models that learn must have learned something before faults come, and fewer people teach them faster.
    number, people = (2 * plan.records, PEOPLE // 4) if plan.family == "live" else (plan.records, PEOPLE)
    for record in compose_log(number, seed=plan.seed, people=people):
        log.append(record)
        if chance.random() < 0.03:
            # What a producer does that did not hear of its success.
            log.append(log[-chance.choice((1, 1, 2, 5)) :][0])
        if chance.random() < 0.02:
            log.append(_grant(f"u{chance.randrange(PEOPLE)}", record.timestamp))
    return log


def compose_plain(plan: Plan) -> list[Record]:
    """Events, each with an id of its own, in the order of the unit tests' log, in which some are late."""
    log: list[Record] = []
    # About half of that log is consents.
    for record in compose_log(2 * plan.records, seed=plan.seed, people=PEOPLE):
        with suppress(msgspec.DecodeError):
            told = msgspec.json.decode(record.value or b"")
            if not record.headers and isinstance(told.get("ts"), int):
                told["event_id"] = f"e{record.offset}"
                log.append(Record(record.offset, record.timestamp, msgspec.json.encode(told), record.key))
    return log


def shuffle(log: Sequence[Record], seed: int) -> list[Record]:
    """The log as it comes in: each record after a delay of at most the lateness, and some twice.

    A copy comes while the first is remembered: within the person's next few events, and within the hour by the
    partition's clock, which an event of the day before does not move to where its neighbours are.
    """
    chance = random.Random(f"shuffle {seed}")
    delayed = sorted(log, key=lambda record: record.timestamp + chance.choice((0, chance.randrange(MINUTE))))
    found: list[Record] = []
    for record in delayed:
        found.append(record)
        if chance.random() < 0.05:
            copied = found[-chance.choice((1, 1, 2, 5)) :][0]
            moment = msgspec.json.decode(copied.value or b"")["ts"]
            found += [copied] * (max(record.timestamp, copied.timestamp) - moment < 30 * MINUTE)
    return found


def _grant(user: str, at: int) -> Record:
    value, headers = ask(user, dict.fromkeys(PURPOSES, True), None)
    assert at >= NOON
    found: Any = headers
    return Record(0, at, value, user.encode(), found)
