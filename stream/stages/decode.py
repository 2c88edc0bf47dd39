"""Decode: records in, items and rejections out, each item with the partition's clock and watermark at its place.

A record that can't be used gets a typed reason and never an exception. The clock moves with every record (log clock)
or with every event (event clock), so that a batch decided again decides the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from schemas.event import Role
from schemas.privacy import LEDGER_HEADER, Place, PrivacyRequest
from schemas.reasons import ORIGIN_HEADER, Rejected
from schemas.wire import Incoming, KnownEvent, check_future, count_unknown, decode_record
from stream.partition import Partitioner, find_partitions
from stream.settings import Settings
from stream.stages.batch import Batch, Item, Record

_ORIGIN: Final = re.compile(rb"[\w.-]{1,249}/[0-9]{1,9}(/[0-9]{1,9})?/[0-9]{1,18}", re.ASCII)

TOLERANCE: Final = 5 * 60_000
NO_BOUND: Final = 1 << 62


class Decoder:
    """The stage's options: built once, called for every batch."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        self.roles: Mapping[str, Role] = settings.roles
        self.categories = settings.consent.categories
        self.max_bytes = settings.batch.max_event_bytes
        self.by_event = settings.clock == "event"
        self.tolerance = choose_tolerance(settings)
        self.lateness = settings.lateness
        self.partitions = partitions
        self.partitioner: Partitioner = settings.partitioner

    def __call__(self, batch: Batch) -> None:
        """Fill `batch.items`, `batch.rejected` and move `batch.clock`."""
        clock = batch.clock
        decoded = [self._decode(record) for record in batch.records]
        astray = self._find_astray(decoded, batch.partition)
        for record, item in zip(batch.records, decoded, strict=True):
            if not self.by_event and record.timestamp > clock.now:
                clock.now = record.timestamp
            if not isinstance(item, Item):
                batch.rejected.append((record, item))
                continue
            if astray and item.user_id in astray:
                batch.rejected.append((record, self._refuse_astray(batch.partition)))
                continue
            if (event := item.event) is not None:
                ts = event.ts
                if type(event) is not KnownEvent and (unknown := count_unknown(record.value or b"")):
                    batch.counts["unknown_fields"] += unknown
                if item.unknown_categories:
                    batch.counts["unknown_categories"] += item.unknown_categories
                if self.by_event:
                    seen = ts
                    if seen > clock.now:
                        clock.now = seen
                else:
                    seen = ts if ts < record.timestamp else record.timestamp
                item.late = ts < clock.watermark
                if seen - self.lateness > clock.watermark:
                    clock.watermark = seen - self.lateness
            item.clock = clock.now
            item.watermark = clock.watermark
            batch.items.append(item)

    def _decode(self, record: Record) -> Item | Rejected:
        try:
            decoded = decode_record(record.value, record.headers, max_bytes=self.max_bytes, categories=self.categories)
            if isinstance(decoded, PrivacyRequest):
                ledger, origin = parse_ledger(record.headers), find_origin(record.headers)
                return Item(record, None, decoded, ledger, None, decoded.user_id, origin=origin)
            if isinstance(decoded, Incoming):
                event, consent, unknown = decoded.event, decoded.consent or None, decoded.unknown
            else:
                event, consent, unknown = decoded, None, 0
            if event.ts - record.timestamp > self.tolerance and (record.timestamp >= 0 or not self.by_event):
                # Under the event clock a record without a time of its own (-1) can't tell.
                check_future(event.ts, record.timestamp, self.tolerance)
            origin = find_origin(record.headers) if record.headers else ""
        except Rejected as rejection:
            return rejection
        role = self.roles.get(event.type, "other")
        return Item(
            record, event, None, None, consent, event.user_id, role=role, origin=origin, unknown_categories=unknown
        )

    def _find_astray(self, decoded: Sequence[Item | Rejected], partition: int) -> set[str]:
        """The people whose partition is another one."""
        users = list({item.user_id for item in decoded if isinstance(item, Item)})
        found = find_partitions(users, self.partitions, self.partitioner)
        return {user for user, place in zip(users, found, strict=True) if place != partition}

    def _refuse_astray(self, partition: int) -> Rejected:
        return Rejected(
            "misrouted",
            "user_id",
            f"this person's partition is not {partition}; key records by user_id with {self.partitioner}",
        )


def choose_tolerance(settings: Settings) -> int:
    """Milliseconds that an event may lie after its record.

    Under the event clock none are set unless asked for: a log that was made up may well be ahead of its records.
    """
    if settings.future_tolerance is not None:
        return settings.future_tolerance
    return NO_BOUND if settings.clock == "event" else TOLERANCE


def find_origin(headers: Sequence[tuple[str, bytes]]) -> str:
    """Where a record that was sent back was read first; empty for one that came another way.

    Raises `Rejected` for a header that is no such place.

    >>> find_origin([("nudge-origin", b"events/3/17")]), find_origin([("trace", b"1")])
    ('events/3/17', '')
    """
    for name, value in headers:
        if name == ORIGIN_HEADER:
            if _ORIGIN.fullmatch(value or b"") is None:
                raise Rejected(
                    "wrong_type", ORIGIN_HEADER, "the header is no place in a log; only `nudge dlq replay` writes it"
                )
            return value.decode()
    return ""


def parse_ledger(headers: Sequence[tuple[str, bytes]]) -> tuple[int, Place] | None:
    """Ledger partition and place there that a request carries along; None for one that came another way.

    Raises `Rejected` for a header that is no such place.

    >>> parse_ledger([("nudge-ledger", b"0/41")]), parse_ledger([("nudge-ledger", b"0/1/7")])
    ((0, Place(generation=0, offset=41)), (0, Place(generation=1, offset=7)))
    """
    found = next((value for name, value in headers if name == LEDGER_HEADER), None)
    if found is None:
        return None
    match = re.fullmatch(rb"([0-9]{1,9})/(.+)", found)
    if match is not None:
        with suppress(ValueError):
            return int(match[1]), Place.parse(match[2].decode())
    raise Rejected(
        "wrong_type",
        LEDGER_HEADER,
        "the header is not `<partition>/<offset>` or `<partition>/<generation>/<offset>`; only nudge writes it",
    )
