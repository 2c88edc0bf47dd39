"""The decode stage: records in, items and typed refusals out, clock and watermark as of each record."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as configured
from hypothesis import strategies as st

from schemas.privacy import KIND_HEADER
from stream.partition import find_partition
from stream.settings import Settings
from stream.stages.batch import Batch, Clock
from stream.stages.decode import Decoder
from tests.unit.factories import NOON, event
from tests.unit.reference import Record, write_records

MINUTE = 60_000
YEAR = 365 * 24 * 60 * MINUTE


def decode(
    records: list[Record], since: Clock | None = None, partition: int = 0, partitions: int = 1, **options: Any
) -> Batch:
    batch = Batch(partition, "events", records, since or Clock())
    Decoder(Settings(**options), partitions)(batch)
    return batch


def test_every_record_is_an_item_or_refused() -> None:
    records = write_records(event().as_json(), b"", event().after(1).as_json(), b"{", None, at=NOON)
    batch = decode(records)
    assert [item.record.offset for item in batch.items] == [0, 2]
    assert [(record.offset, refused.reason) for record, refused in batch.rejected] == [
        (1, "empty"),
        (3, "not_json"),
        (4, "empty"),
    ]


def test_a_types_role_is_a_setting() -> None:
    records = write_records(event().of_type("purchase").as_json(), event().of_type("mooed").as_json(), at=NOON)
    assert [item.role for item in decode(records).items] == ["conversion", "other"]
    assert [item.role for item in decode(records, roles={"mooed": "click"}).items] == ["other", "click"]


def test_which_purpose_a_category_of_segment_stands_for_is_a_setting() -> None:
    preferences = {"Advertising": True, "C0004": True, "C0002": False, "marketing": False}
    call = {
        "type": "track", "event": "Product Viewed", "messageId": "m1", "userId": "ann", "timestamp": NOON,
        "context": {"consent": {"categoryPreferences": preferences}},
    }  # fmt: skip
    records = write_records(json.dumps(call).encode(), at=NOON)
    categories = {"C0004": "marketing", "Advertising": "marketing", "C0002": "analytics"}
    [item] = decode(records, consent={"categories": categories}).items
    assert item.consent == {"marketing": True, "analytics": False}
    [item] = decode(records).items
    assert item.consent == {"marketing": False}
    batch = decode(records, consent={"categories": {}})
    [item] = batch.items
    assert not item.consent
    assert batch.counts["unknown_categories"] == len(preferences)


def test_the_log_clock_moves_with_every_record_and_never_back() -> None:
    records = [
        Record(0, NOON, event().at(NOON - MINUTE).as_json()),
        Record(1, NOON + 9, b"broken"),
        Record(2, NOON + 5, event().at(NOON).as_json()),
    ]
    batch = decode(records)
    assert [item.clock for item in batch.items] == [NOON, NOON + 9]
    assert batch.clock.now == NOON + 9


def test_the_watermark_follows_the_earlier_of_event_and_record_time() -> None:
    lateness = 5 * MINUTE
    ahead = Record(0, NOON, event().at(NOON + MINUTE).as_json())
    behind = Record(1, NOON + 20 * MINUTE, event().at(NOON + 10 * MINUTE).as_json())
    assert decode([ahead]).clock.watermark == NOON - lateness
    assert decode([ahead, behind]).clock.watermark == NOON + 10 * MINUTE - lateness


def test_an_event_is_late_behind_the_watermark_before_it() -> None:
    clock = Clock(NOON, NOON)
    for ts, late in ((NOON - 1, True), (NOON, False), (NOON + 1, False)):
        batch = decode([Record(0, NOON, event().at(ts).as_json())], Clock(clock.now, clock.watermark))
        assert batch.items[0].late == late
    # An event never makes itself late.
    assert not decode([Record(0, NOON, event().at(NOON).as_json())], lateness=0).items[0].late


def test_under_event_time_records_move_no_clock() -> None:
    records = [
        Record(0, -1, event().at(NOON).as_json()),
        Record(1, NOON * 2, event().at(NOON - MINUTE).as_json()),
        Record(2, NOON + 20 * MINUTE, event().at(NOON + 20 * MINUTE).as_json()),
        Record(3, NOON * 2, b"broken"),
    ]
    batch = decode(records, clock="event")
    assert [item.clock for item in batch.items] == [NOON, NOON, NOON + 20 * MINUTE]
    assert [item.watermark for item in batch.items] == [NOON - 5 * MINUTE, NOON - 5 * MINUTE, NOON + 15 * MINUTE]
    assert batch.clock == Clock(NOON + 20 * MINUTE, NOON + 15 * MINUTE)


@pytest.mark.parametrize("clock", ["log", "event"])
def test_a_future_event_is_refused_and_makes_nobody_late(clock: str) -> None:
    tolerance = 5 * MINUTE
    for ahead, refused in ((tolerance, False), (tolerance + 1, True), (100 * YEAR, True)):
        records = [Record(0, NOON, event().at(NOON + ahead).as_json()), Record(1, NOON, event().at(NOON).as_json())]
        batch = decode(records, clock=clock, **({"future_tolerance": tolerance} if clock == "event" else {}))
        assert [rejection.reason for _, rejection in batch.rejected] == ["future_timestamp"] * refused
        assert batch.clock.watermark == (NOON if not refused and clock == "event" else NOON - 5 * MINUTE)
        assert not batch.items[-1].late


def test_under_event_time_a_record_without_a_time_refuses_nothing() -> None:
    assert not decode([Record(0, -1, event().as_json())], clock="event", future_tolerance=5 * MINUTE).rejected


def test_under_event_time_any_future_is_let_in_unless_a_tolerance_is_set() -> None:
    assert not decode([Record(0, NOON, event().at(NOON + 100 * YEAR).as_json())], clock="event").rejected


def test_a_record_on_another_partition_is_misrouted() -> None:
    users = [f"u{number}" for number in range(40)]
    records = write_records(*[event(user).as_json() for user in users], at=NOON)
    for partitioner in ("murmur2", "crc32"):
        batch = decode(records, partition=2, partitions=4, partitioner=partitioner)
        home = [user for user in users if find_partition(user, 4, partitioner) == 2]
        assert [item.event.user_id for item in batch.items if item.event] == home
        assert {rejection.reason for _, rejection in batch.rejected} == {"misrouted"}
        assert len(batch.rejected) == len(users) - len(home) > 0


def test_a_misrouted_privacy_request_is_refused_too() -> None:
    value = msgspec.json.encode({"request_id": "r", "user_id": "u1", "ts": NOON, "consent": {"marketing": True}})
    record = Record(0, NOON, value, None, [(KIND_HEADER, b"privacy")])
    elsewhere = (find_partition("u1", 4, "murmur2") + 1) % 4
    assert decode([record], partition=elsewhere, partitions=4).rejected[0][1].reason == "misrouted"
    assert decode([record]).items[0].request is not None


def test_the_longest_event_is_a_setting() -> None:
    value = event().as_json()
    for limit, refused in ((max(len(value), 256), 0), (256, 1)):
        padded = value if not refused else event(content="x" * 300).as_json()
        assert len(decode([Record(0, NOON, padded)], batch={"max_event_bytes": limit}).rejected) == refused


def test_a_misrouted_record_does_not_name_the_person() -> None:
    elsewhere = (find_partition("u-secret", 4, "murmur2") + 1) % 4
    batch = decode([Record(0, NOON, event("u-secret").as_json())], partition=elsewhere, partitions=4)
    assert "u-secret" not in str(batch.rejected[0][1])


values = st.none() | st.binary(max_size=80) | st.just(event().as_json()) | st.just(event().at(0).as_json())
names = st.sampled_from(["nudge-kind", "nudge-ledger", "ce_specversion", "ce_id", "content-type", "x"])
contents = st.none() | st.sampled_from([b"privacy", b"event", b"1.0", b"application/json"]) | st.binary(max_size=5)


@configured(max_examples=300)
@given(st.lists(st.tuples(values, st.lists(st.tuples(names, contents), max_size=3)), max_size=5))
def test_no_bytes_and_no_headers_raise(found: list[Any]) -> None:
    records = [Record(n, NOON + n, value, None, headers) for n, (value, headers) in enumerate(found)]
    batch = decode(records)
    assert len(batch.items) + len(batch.rejected) == len(records)


@pytest.mark.parametrize("clock", ["log", "event"])
@given(times=st.lists(st.tuples(st.integers(0, 2 * NOON), st.integers(0, 2 * NOON)), max_size=20))
def test_clock_and_watermark_never_go_back(clock: str, times: list[tuple[int, int]]) -> None:
    records = [Record(n, stamp, event().at(ts).as_json()) for n, (stamp, ts) in enumerate(times)]
    batch = decode(records, clock=clock)
    for values in ([item.clock for item in batch.items], [item.watermark for item in batch.items]):
        assert values == sorted(values)
    assert all(item.watermark <= item.clock for item in batch.items)
