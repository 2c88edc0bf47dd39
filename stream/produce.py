"""Writes records to a Kafka topic in batches, and counts those that the broker acknowledged.

An iterable of records, or a file of JSON lines, comes in. Each record goes to the partition that `stream.partition`
gives for its key, so records of one key keep their order. A record too
large for the broker is reported with its position and passed; any other error of the broker ends the call.
"""

from __future__ import annotations

import asyncio
import codecs
import gzip
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from aiokafka import AIOKafkaProducer

from schemas.reasons import Rejected
from schemas.wire import Incoming, decode_record, decode_request
from stream.delivery.packing import BATCH_BYTES, Packer
from stream.delivery.refusals import FOR_GOOD, MISDATED
from stream.partition import Partitioner, hash_key

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_RECORD_BYTES: Final = 1_048_576
"""Largest key and value together, the default limit of brokers and clients."""
RECORDS_AT_A_TIME: Final = 1_000
TICK_SECONDS: Final = 0.005
"""A paced producer sends what is due at most this often."""
ARREARS_SECONDS: Final = 1.0
"""A paced producer that was held up catches up at most this much."""


class Record(NamedTuple):
    """A record to be written; without a key it goes to the partitions in turn, without a value it is a tombstone."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class Refused(NamedTuple):
    """A record that was not written: its position (records count from 0, lines of a file from 1) and why."""

    position: int
    reason: str


class FileReport(NamedTuple):
    """What became of a file's lines; empty lines are not counted."""

    lines: int
    acknowledged: int
    refused: int


OnProgress = Callable[[int], None]
"""Called with the number of records acknowledged so far."""
OnRefused = Callable[[Refused], None]


hash_cached = lru_cache(maxsize=1 << 17)(hash_key)


class Tally:
    """Counts what was acknowledged and what was refused, and tells those who asked."""

    def __init__(self, on_progress: OnProgress | None, on_refused: OnRefused | None) -> None:
        self.acknowledged = 0
        self._on_progress, self._on_refused = on_progress, on_refused or log_refused

    def acknowledge(self, records: int) -> None:
        """Add to `acknowledged`, once the broker has the records."""
        self.acknowledged += records
        if self._on_progress is not None:
            self._on_progress(self.acknowledged)

    def refuse(self, position: int, reason: str) -> None:
        """Pass on that a record was not written."""
        self._on_refused(Refused(position, reason))


def log_refused(refused: Refused) -> None:
    """Warn of a refused record: its position and the reason, nothing of what it holds."""
    log.warning("record %d was not sent: %s", *refused)


async def produce(
    records: Iterable[Record],
    bootstrap: str,
    topic: str,
    *,
    rate: float | None = None,
    on_progress: OnProgress | None = None,
    on_refused: OnRefused | None = None,
    max_record_bytes: int = MAX_RECORD_BYTES,
    partitioner: Partitioner = "murmur2",
    client: Mapping[str, object] | None = None,
) -> int:
    """Write records to `topic` with acks=all; the number that the broker acknowledged.

    `rate` is in records per second, paced evenly; without it they go as fast as the broker takes them. `client` holds
    more options of `AIOKafkaProducer` (security). The topic must exist, or the broker must be willing to create it.
    Raises `aiokafka.errors.KafkaError` when the broker cannot be reached or fails for good; what was acknowledged by
    then was last told to `on_progress`. A retry after a lost reply can write a batch twice: events carry an id for it.
    """
    tally = Tally(on_progress, on_refused)
    options: dict[str, Any] = {"request_timeout_ms": 10_000, **(client or {}), "max_batch_size": BATCH_BYTES}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, **options | {"acks": "all"})
    lanes: list[Packer] = []
    try:
        await producer.start()
        partitions = len(await producer.partitions_for(topic))
        # Records bring dates of their own here, each its own fault.
        for_good = (*FOR_GOOD, *MISDATED)
        lanes += [Packer(producer, topic, partition, tally, for_good=for_good) for partition in range(partitions)]
        async for some in paced(_bounded(records, max_record_bytes, tally), rate):
            await _fill(lanes, some, partitioner)
        for lane in lanes:
            await lane.settle()
    finally:
        for lane in lanes:
            await lane.close()
        await producer.stop()
    return tally.acknowledged


def _bounded(records: Iterable[Record], most: int, tally: Tally) -> Iterator[tuple[int, Record]]:
    """The records and their positions, without those that are too large for any broker of this size."""
    for position, record in enumerate(records):
        key, value, _ = record
        if len(key or b"") + len(value or b"") > most:
            tally.refuse(position, f"key and value are larger than {most} bytes")
        else:
            yield position, record


async def _fill(lanes: list[Packer], some: list[tuple[int, Record]], partitioner: Partitioner) -> None:
    count = len(lanes)
    for position, (key, value, headers) in some:
        place = position if key is None else hash_cached(key, partitioner)
        parcel = (position, key, value, headers, None)
        lane = lanes[place % count]
        while not lane.append(parcel):
            await lane.room()
    for lane in lanes:
        lane.launch()


async def paced(records: Iterable[T], rate: float | None) -> AsyncIterator[list[T]]:
    """Parts of `records`, each at the time at which `rate` (records per second) makes it due.

    Without a rate, parts of `RECORDS_AT_A_TIME`, with a turn of the event loop between them.
    """
    if rate is not None and rate <= 0:
        raise ValueError(f"rate must be above 0 records per second, got {rate}: leave it out for no limit")
    loop, source = asyncio.get_running_loop(), iter(records)
    began, given = loop.time(), 0
    due = RECORDS_AT_A_TIME if rate is None else 1
    while some := list(islice(source, due)):
        yield some
        given += len(some)
        if rate is None:
            await asyncio.sleep(0)
            continue
        await asyncio.sleep(max(began + (given + 1) / rate - loop.time(), TICK_SECONDS))
        began = max(began, loop.time() - given / rate - ARREARS_SECONDS)
        due = max(int((loop.time() - began) * rate) - given, 1)


async def produce_file(
    path: Path,
    bootstrap: str,
    topic: str,
    *,
    raw: bool = False,
    requests: bool = False,
    rate: float | None = None,
    on_progress: OnProgress | None = None,
    on_refused: OnRefused | None = None,
    partitioner: Partitioner = "murmur2",
    client: Mapping[str, object] | None = None,
) -> FileReport:
    """Write the lines of a file (JSON lines, native or Segment, plain or gzip) as they stand, keyed by user id.

    With `requests` they are privacy requests instead of events. A line that does not decode is refused with its line
    number and reason; with `raw` it is sent without a key instead.
    Raises `OSError` when the file cannot be read, and what `produce` raises.
    """
    lines, refused = 0, 0
    numbers: list[int] = []
    tell = on_refused or log_refused

    def note(each: Refused) -> None:
        nonlocal refused
        refused += 1
        tell(each)

    def keyed() -> Iterator[Record]:
        nonlocal lines
        for number, line in read_lines(path):
            lines += 1
            try:
                key: bytes | None = decode_request(line).user_id.encode() if requests else person_of(line)
            except Rejected as error:
                if not raw:
                    note(Refused(number, str(error)))
                    continue
                key = None
            numbers.append(number)
            yield Record(key, line)

    def at_line(each: Refused) -> None:
        note(each._replace(position=numbers[each.position]))

    acknowledged = await produce(
        keyed(),
        bootstrap,
        topic,
        rate=rate,
        on_progress=on_progress,
        on_refused=at_line,
        partitioner=partitioner,
        client=client,
    )
    return FileReport(lines, acknowledged, refused)


def person_of(value: bytes) -> bytes:
    """The key of a record: the user id of the event that it holds. Raises `Rejected` when it holds none."""
    decoded = decode_record(value)
    return (decoded.event if isinstance(decoded, Incoming) else decoded).user_id.encode()


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not empty, without their ends, and their numbers from 1.

    Gzip is recognised by its first bytes, and a mark of the byte order at the beginning is passed over.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if stripped := line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").strip():
                yield number, stripped
