"""Decode: records in, items and rejections out, each item with the partition's clock and watermark at its place.

A record that can't be used gets a typed reason and never an exception. The clock moves with every record (log clock)
or with every event (event clock), so that a batch decided again decides the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from schemas.event import Event, Role
from schemas.privacy import LEDGER_HEADER, PrivacyRequest
from schemas.reasons import Rejected
from schemas.wire import check_future, count_unknown, decode_record
from stream.partition import Partitioner, find_partition
from stream.settings import Settings
from stream.stages.batch import Batch, Item, Record


class Decoder:
    """The stage's options: built once, called for every batch."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        self.roles: Mapping[str, Role] = settings.roles
        self.max_bytes = settings.batch.max_event_bytes
        self.by_event = settings.clock == "event"
        self.tolerance = settings.future_tolerance
        self.lateness = settings.lateness
        self.partitions = partitions
        self.partitioner: Partitioner = settings.partitioner

    def __call__(self, batch: Batch) -> None:
        """Fill `batch.items`, `batch.rejected` and move `batch.clock`."""
        clock = batch.clock
        home: dict[str, bool] = {}
        unknown = 0
        for record in batch.records:
            if not self.by_event and record.timestamp > clock.now:
                clock.now = record.timestamp
            try:
                item = self._decode(record, batch.partition, home)
            except Rejected as rejection:
                batch.rejected.append((record, rejection))
                continue
            if (event := item.event) is not None:
                unknown += count_unknown(record.value or b"")
                if self.by_event:
                    seen = event.ts
                    if seen > clock.now:
                        clock.now = seen
                else:
                    seen = event.ts if event.ts < record.timestamp else record.timestamp
                item.late = event.ts < clock.watermark
                if seen - self.lateness > clock.watermark:
                    clock.watermark = seen - self.lateness
            item.clock = clock.now
            item.watermark = clock.watermark
            batch.items.append(item)
        if unknown:
            batch.counts["unknown_fields"] += unknown

    def _decode(self, record: Record, partition: int, home: dict[str, bool]) -> Item:
        decoded = decode_record(record.value, record.headers, max_bytes=self.max_bytes)
        if isinstance(decoded, Event):
            item = Item(record, decoded, None, None, None, 0, 0)
        elif isinstance(decoded, PrivacyRequest):
            item = Item(record, None, decoded, parse_ledger(record.headers), None, 0, 0)
        else:
            item = Item(record, decoded.event, None, None, decoded.consent, 0, 0)
        event = item.event
        if event is not None:
            item.role = self.roles.get(event.type, "other")
            if not self.by_event:
                check_future(event.ts, record.timestamp, self.tolerance)
            user = event.user_id
        else:
            assert item.request is not None
            user = item.request.user_id
        if user not in home:
            home[user] = find_partition(user, self.partitions, self.partitioner) == partition
        if not home[user]:
            raise Rejected(
                "misrouted",
                "user_id",
                f"this person's partition is not {partition}; key records by user_id with {self.partitioner}",
            )
        return item


def parse_ledger(headers: Sequence[tuple[str, bytes]]) -> tuple[int, int] | None:
    """Ledger partition and offset that a request carries along; None for one that came another way.

    Raises `Rejected` for a header that is no such place.

    >>> parse_ledger([("nudge-ledger", b"0/41")])
    (0, 41)
    """
    place = next((value for name, value in headers if name == LEDGER_HEADER), None)
    if place is None:
        return None
    match = re.fullmatch(rb"(\d{1,9})/(\d{1,18})", place)
    if match is None:
        raise Rejected("wrong_type", LEDGER_HEADER, "the header is not `<partition>/<offset>`; only nudge writes it")
    return int(match[1]), int(match[2])
