"""`nudge dlq`: dead letters listed, looked at, and sent back to where they came from.

A dead letter holds the original bytes and key; its headers say why, from where and when, and carry the original
headers under the prefix `original-`. Replay restores key, bytes and headers and adds two: `nudge-replay`, the position
of the dead letter, by which a second failure of the same record is recognised, and `nudge-origin`, where the record
was read first, by which the workers know what they have applied already.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer, ConsumerRecord

from schemas.reasons import (
    ERROR_HEADER,
    FIELD_HEADER,
    GENERATION_HEADER,
    ORIGIN_HEADER,
    REASON_HEADER,
    SOURCE_HEADER,
    TIME_HEADER,
    Rejected,
)
from stream.broker import read_all
from stream.commands import CommandError
from stream.commands.connections import count_partitions, open_consumer, open_producer
from stream.commands.output import escape, print_json, print_line, print_table, write_time
from stream.commands.topic import find_partitions
from stream.partition import Partitioner, hash_key
from stream.produce import person_of
from stream.settings import Settings
from stream.stages.letters import ORIGINAL

REPLAY: Final = "nudge-replay"
Header = tuple[str, bytes | None]


class Position(msgspec.Struct, frozen=True, order=True):
    """A record's place: written `topic/partition/offset`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


def parse_position(text: str) -> Position:
    """Read `topic/partition/offset`. Raises `ValueError` for anything else.

    >>> parse_position("marketing.events.v1/3/17")
    Position(topic='marketing.events.v1', partition=3, offset=17)
    """
    topic, partition, offset = text.rsplit("/", 2)
    if not topic:
        raise ValueError("no topic")
    return Position(topic, int(partition), int(offset))


class DeadLetter(msgspec.Struct, frozen=True):
    """One dead letter. `time` is epoch milliseconds; `headers` are the original record's."""

    at: Position
    reason: str
    error: str
    field: str | None
    source: Position | None
    time: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    generation: int = 0
    """How often the source's log was made anew before."""

    @property
    def size(self) -> int:
        """Bytes of the original value."""
        return len(self.value or b"")


def read_letter(record: ConsumerRecord) -> DeadLetter:
    """The dead letter in `record`; what its headers do not say is empty, and its time then the record's."""
    own = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
    time = own.get(TIME_HEADER, "")
    return DeadLetter(
        at=Position(record.topic, record.partition, record.offset),
        reason=own.get(REASON_HEADER, "unknown"),
        error=own.get(ERROR_HEADER, ""),
        field=own.get(FIELD_HEADER),
        source=_read_source(own.get(SOURCE_HEADER, "")),
        time=int(time) if time.isdecimal() else record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple((n.removeprefix(ORIGINAL), v) for n, v in record.headers if n.startswith(ORIGINAL)),
        generation=int(generation) if (generation := own.get(GENERATION_HEADER, "")).isdecimal() else 0,
    )


def _read_source(text: str) -> Position | None:
    try:
        return parse_position(text)
    except ValueError:
        return None


async def read_letters(settings: Settings, reasons: Collection[str] = ()) -> AsyncGenerator[DeadLetter]:
    """Dead letters that are there now, of `reasons` or of all, each partition in order."""
    partitions = await find_partitions(settings, settings.topics.dead_letters)
    async with open_consumer(settings) as consumer, aclosing(read_all(consumer, partitions)) as records:
        async for record in records:
            letter = read_letter(record)
            if not reasons or letter.reason in reasons:
                yield letter


def _summarise(letter: DeadLetter) -> dict[str, Any]:
    return {
        "at": f"{letter.at.partition}/{letter.at.offset}",
        "reason": letter.reason,
        "source": str(letter.source) if letter.source else None,
        "time": letter.time,
        "error": letter.error,
        "field": letter.field,
        "size": letter.size,
    }


async def list_letters(settings: Settings, *, reasons: Collection[str], limit: int, as_json: bool = False) -> None:
    """Print the newest `limit` dead letters, the newest last: why, from where and when, nothing of what they hold."""
    counts: Counter[str] = Counter()
    newest: list[tuple[int, Position, dict[str, Any]]] = []
    async for letter in read_letters(settings, reasons):
        counts[letter.reason] += 1
        heappush(newest, (letter.time, letter.at, _summarise(letter)))
        if len(newest) > limit:
            heappop(newest)
    shown = [summary for _, _, summary in sorted(newest, key=lambda each: each[:2])]
    if as_json:
        for each in shown:
            print_json(each)
        return
    columns = ("at", "reason", "source", "time", "error", "field", "size")
    print_table(columns, [tuple({**each, "time": write_time(each["time"])}.values()) for each in shown])
    by_reason = ", ".join(
        f"{reason} {count}" for reason, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    )
    print_line(f"{len(shown)} of {counts.total()} dead letters" + (f": {escape(by_reason)}" if by_reason else ""))


async def show_letter(settings: Settings, place: str, *, as_json: bool = False) -> None:
    """Print one dead letter with its bytes; `place` is `partition/offset` as `list` prints it.

    Raises `CommandError` when no dead letter is there.
    """
    letter = await _find_letter(settings, place)
    if as_json:
        print_json({**_summarise(letter), "key": _pack(letter.key), "value": _pack(letter.value), **_pack_all(letter)})
        return
    rows = [(name, value) for name, value in _summarise(letter).items() if value is not None]
    rows += [("key", _write(letter.key)), *((f"header {name}", _write(value)) for name, value in letter.headers)]
    print_table(("field", "value"), [(name, str(value)) for name, value in rows])
    print_line(_write(letter.value))


async def _find_letter(settings: Settings, place: str) -> DeadLetter:
    async with aclosing(read_letters(settings)) as letters:
        async for letter in letters:
            if f"{letter.at.partition}/{letter.at.offset}" == place:
                return letter
    raise CommandError(f"no dead letter at {place!r} of {settings.topics.dead_letters}; `nudge dlq list` names places")


def _pack(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _pack_all(letter: DeadLetter) -> dict[str, Any]:
    return {"encoding": "base64", "headers": [[name, _pack(value)] for name, value in letter.headers]}


def _write(data: bytes | None) -> str:
    r"""Bytes as text where they are; each byte that is none as `\xNN`."""
    return "(none)" if data is None else escape(data.decode("utf-8", "backslashreplace"))


def restore_headers(letter: DeadLetter) -> list[Header]:
    """Headers of the original record, where it was read first, and where its dead letter lies."""
    kept = [(name, value) for name, value in letter.headers if name != REPLAY]
    # A record that failed again is the same record: its first place stays its name.
    if letter.source is not None and all(name != ORIGIN_HEADER for name, _ in kept):
        kept.append((ORIGIN_HEADER, name_origin(letter.source, letter.generation).encode()))
    return [*kept, (REPLAY, str(letter.at).encode())]


def name_origin(source: Position, generation: int) -> str:
    """A record's place in a log that may have been made anew.

    >>> name_origin(Position("events", 3, 17), 0), name_origin(Position("events", 3, 17), 2)
    ('events/3/17', 'events/3/2/17')
    """
    offset = f"{generation}/{source.offset}" if generation else str(source.offset)
    return f"{source.topic}/{source.partition}/{offset}"


def choose_partition(letter: DeadLetter, partitions: int, partitioner: Partitioner) -> int | None:
    """Partition to send back to: its key's, so that a misrouted record comes right; the old one without a key.

    None, the broker's client may choose, when the old one is no longer there.
    """
    key = letter.key
    if letter.reason == "misrouted":
        # Its key is what was wrong; the person says where it belongs.
        key = _find_person(letter) or key
    if key:
        return hash_key(key, partitioner) % partitions
    old = letter.source.partition if letter.source else partitions
    return old if old < partitions else None


def _find_person(letter: DeadLetter) -> bytes | None:
    try:
        return person_of(letter.value or b"")
    except Rejected:
        return None


class Survey(NamedTuple):
    """Source topics of dead letters, places of those that were sent back and failed again, and all reasons there are.

    Of a record that failed again the later letter stands for both, or each replay would double it.
    """

    topics: set[str]
    failed_again: set[str]
    reasons: set[str]


async def survey_letters(settings: Settings, reasons: Collection[str]) -> Survey:
    """What is to be known before dead letters of `reasons` (all, if empty) are sent back."""
    topics: set[str] = set()
    failed_again: set[str] = set()
    there: set[str] = set()
    async for letter in read_letters(settings):
        failed_again |= {(value or b"").decode("utf-8", "replace") for name, value in letter.headers if name == REPLAY}
        if letter.source is not None and (not reasons or letter.reason in reasons):
            topics.add(letter.source.topic)
        there.add(letter.reason)
    return Survey(topics, failed_again, there)


async def replay_letters(
    settings: Settings, *, reasons: Collection[str], limit: int | None = None, dry_run: bool = False
) -> int:
    """Send dead letters of `reasons` (all, if empty) back in order; the number that the broker acknowledged.

    Letters without a source are passed over. Two replays of the same letters send them twice; the workers apply each
    once and count the rest as duplicates. Raises `CommandError`
    before anything is sent when a source topic is gone.
    """
    topics, failed_again, there = await survey_letters(settings, reasons)
    sizes = await count_partitions(settings)
    if strange := sorted(set(reasons) - there):
        # Not a mistake for sure: reasons are those of whichever release wrote the letters.
        print_line(
            f"no dead letter has the reason {', '.join(strange)}; there are {', '.join(sorted(there)) or 'none'}"
        )
    if gone := sorted(topics - set(sizes)):
        raise CommandError(f"source topics {', '.join(gone)}: not on the broker; nothing was sent")
    sent = 0
    async with open_producer(settings) as producer, aclosing(read_letters(settings, reasons)) as letters:
        async for letter in letters:
            if sent == limit:
                break
            if letter.source is None or str(letter.at) in failed_again:
                continue
            if not dry_run:
                await _send_back(producer, letter, letter.source.topic, sizes, settings.partitioner)
            sent += 1
    print_line(f"{sent} dead letters {'would be ' if dry_run else ''}sent back")
    return sent


async def _send_back(
    producer: AIOKafkaProducer, letter: DeadLetter, topic: str, sizes: Mapping[str, int], partitioner: Partitioner
) -> None:
    # One by one: dead letters are few, and order and the place of a failure matter more than speed.
    await producer.send_and_wait(
        topic,
        letter.value,
        key=letter.key,
        partition=choose_partition(letter, sizes[topic], partitioner),
        headers=restore_headers(letter),
    )
