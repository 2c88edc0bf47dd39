"""What passes through the stages: a batch of records of one partition, and the people in it.

`decode` turns records into items, `gate` decides which are admitted, `sentiment`, `features` and `predict` add what
they find, `decide` makes the outbox entries. Nothing here is seen by anybody else until the commit said yes.

What there is many of is a Struct that the garbage collector need not know: none of it can be part of a cycle, and a
worker that remembers a hundred thousand people would spend a third of its time on looking for one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from models.outcomes.windows import Window
from models.person import Person
from models.sentiment import Sentiment
from schemas.event import Event, Role
from schemas.privacy import Place, PrivacyRequest
from schemas.reasons import Rejected
from schemas.trigger import RecommendationTrigger
from stream.desk import Scored


class Record(Protocol):
    """A Kafka record, as aiokafka gives it: `timestamp` in epoch milliseconds."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Position(NamedTuple):
    """Place of an outbox entry: the source offset that led to it, and its number there, from 1."""

    offset: int
    number: int

    def __str__(self) -> str:
        return f"{self.offset}-{self.number}"


NOWHERE: Final = Position(-1, 0)
"""Before every entry."""

Target = Literal["recommendations", "scored", "examples", "dead_letters"]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One record on its way out. `at` is the Kafka timestamp (ms) of the record that led to it."""

    position: Position
    target: Target
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...]
    at: int


@dataclass(slots=True)
class Clock:
    """The partition's clock and watermark, epoch milliseconds: running maxima, kept in the fence."""

    now: int = 0
    watermark: int = 0


class Image(msgspec.Struct, frozen=True, gc=False):
    """A profile as it is stored: values of the readable fields in their order (more may follow), and the state."""

    values: tuple[Any, ...]
    state: bytes


class Dossier(msgspec.Struct, gc=False):
    """All that is kept about one person: the batch's own while it is worked on, the cache's after its commit."""

    person: Person | None = None
    stored: Image | None = None
    """What Redis holds of the person; None for no profile."""
    consent: dict[str, bool] = msgspec.field(default_factory=dict)
    decided: dict[str, int] = msgspec.field(default_factory=dict)
    """Purpose -> when the person last decided about it, epoch milliseconds as the decision itself says."""
    ledger: dict[int, Place] = msgspec.field(default_factory=dict)
    """Ledger partition -> place of the last request applied."""
    windows: dict[str, Window] = msgspec.field(default_factory=dict)


@dataclass(slots=True)
class IdleRecord:
    """Stands where a record would, when windows fall due without one: offset of the last record applied."""

    offset: int
    timestamp: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class Moment(msgspec.Struct, frozen=True, gc=False):
    """What a decision needs of a person as of one event: later events of the batch must not show."""

    last_items: tuple[str, ...]
    bought: bytes


class Closing(msgspec.Struct, gc=False):
    """A window that fell due at an item, with the moment of its person and whether a trigger may be made."""

    window: Window
    person: Person | None
    moment: Moment
    may_trigger: bool


class Item(msgspec.Struct, eq=False, gc=False):
    """One record that could be decoded, and all that the stages find out about it."""

    record: Record
    event: Event | None
    request: PrivacyRequest | None
    ledger: tuple[int, Place] | None
    """Ledger partition and place there of a request that was passed on."""
    consent: dict[str, bool] | None
    user_id: str
    """Empty for windows that fall due without a record."""
    clock: int = 0
    watermark: int = 0
    role: Role = "other"
    late: bool = False
    admitted: bool = False
    withdrawn: bool = False
    """From here on nothing may be kept about the person."""
    person: Person | None = None
    """The event's person; None unless admitted, and before the features stage."""
    may_trigger: bool = False
    sentiment: float | None = None
    said: Sentiment | None = None
    """All that was said of its text; None without one."""
    row: tuple[float, ...] | None = None
    """The features frozen at this event; they are the next of `batch.rows` too."""
    probability: dict[str, float] = msgspec.field(default_factory=dict)
    """By outcome; empty unless scored."""
    moment: Moment | None = None
    closings: tuple[Closing, ...] = ()
    opened: tuple[Window, ...] = ()
    fulfilled: tuple[Window, ...] = ()
    origin: str = ""
    """Where a record that was sent back from the dead letters was read first; empty for all others."""
    unknown_categories: int = 0
    """Categories of its consent that stand for no purpose."""


@dataclass(slots=True, eq=False)
class Batch:
    """Records `start` (first offset) to `end` (one past the last) of partition `partition`."""

    partition: int
    topic: str
    records: Sequence[Record]
    clock: Clock
    items: list[Item] = field(default_factory=list)
    rejected: list[tuple[Record, Rejected]] = field(default_factory=list)
    people: dict[str, Dossier] = field(default_factory=dict)
    rows: bytearray = field(default_factory=bytearray)
    """The rows of all items, each of so many doubles: they are scored together."""
    due: list[Window] = field(default_factory=list)
    """Windows that may fall due in this batch, in (deadline, id) order."""
    touched: set[str] = field(default_factory=set)
    """Users whose profile changed."""
    consented: dict[str, list[tuple[int, bool]]] = field(default_factory=dict)
    """Users whose consent changed, with whether triggers may be made from which offset on; -1 is the batch's start."""
    kept: dict[str, Window] = field(default_factory=dict)
    """Windows to write: opened or changed in this batch, still open."""
    closed: dict[str, Window] = field(default_factory=dict)
    """Windows to delete: closed or cancelled in this batch."""
    entries: list[Entry] = field(default_factory=list)
    scored: Scored | None = None
    """What was said of its texts and by whom, for the metrics; None without texts."""
    counts: Counter[str] = field(default_factory=Counter)
    emitted: Position = NOWHERE
    """Position of the last entry before this batch."""
    generation: int = 0
    """How often the partition's log was made anew."""
    replayed: set[str] = field(default_factory=set)
    """Origins of records sent back, as far as they occur here, that were applied up to now."""
    replays: list[str] = field(default_factory=list)
    """Those that this batch applies."""
    triggers: list[RecommendationTrigger] = field(default_factory=list)
    """The triggers among the entries, for those who watch."""
