"""The rule for abandoned intents on three hours of a real shop, against a plain reading of the same log."""

from __future__ import annotations

import os
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as parquet
import pytest

from schemas.trigger import RecommendationTrigger
from stream.settings import AbandonedRule
from tests.unit.factories import NOON
from tests.unit.reference import Record, Reference, open_to_all

MINUTE = 60_000
LATENESS = MINUTE
ROWS = ("event_time", "event_type", "product_id", "category_code", "price", "user_id", "user_session")

Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    folder = os.environ.get("NUDGE_DATA")
    if not folder:
        pytest.skip("NUDGE_DATA is not set: it names the folder with the published data sets")
    table = parquet.read_table(Path(folder) / "events" / "rees46_first3h.parquet", columns=list(ROWS))
    found: list[Row] = table.to_pylist()
    return sorted(found, key=lambda row: str(row["event_time"]))


def to_record(offset: int, row: Row) -> Record:
    ts = str(row["event_time"])[:19].replace(" ", "T") + "Z"
    event = {
        "event_id": f"r{offset}",
        "user_id": str(row["user_id"]),
        "type": row["event_type"],
        "ts": ts,
        "item_id": str(row["product_id"]),
        "price": row["price"],
        "session_id": row["user_session"],
    }
    # An old log, written to Kafka later.
    return Record(
        offset, NOON + offset, msgspec.json.encode({name: value for name, value in event.items() if value is not None})
    )


def expect(items: list[tuple[int, str, str, int]], after: int, end: int) -> dict[str, int]:
    """User -> event that the trigger is about: the latest intent before the first wait that nothing ended.

    `items` are (offset, user, type, time in ms) in log order, `end` the last watermark.
    """
    by_user: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    for offset, user, kind, ts in items:
        by_user[user].append((offset, kind, ts))
    fired: dict[str, int] = {}
    for user, story in by_user.items():
        waiting: tuple[int, int] | None = None
        for offset, kind, ts in story:
            if waiting is not None and waiting[1] + after < ts - LATENESS:
                fired.setdefault(user, waiting[0])
                waiting = None
            if kind == "cart":
                waiting = (offset, ts)
            elif kind == "purchase":
                waiting = None
        if waiting is not None and waiting[1] + after < end:
            fired.setdefault(user, waiting[0])
    return fired


@pytest.mark.parametrize(("after", "at_least"), [(5 * MINUTE, 30), (30 * MINUTE, 1)])
def test_every_abandoned_cart_of_a_real_shop_fires_once_and_no_other(
    rows: list[Row], after: int, at_least: int
) -> None:
    """Nearly all carts lie in the log's last twenty minutes, so only the shorter wait ends often within it."""
    records = [to_record(offset, row) for offset, row in enumerate(rows)]
    rule = AbandonedRule(name="abandoned-intent", after=after)
    reference = Reference(open_to_all(clock="event", lateness=LATENESS, rules=(rule,))).run(records, 1_000)

    entries = [entry for entry in reference.entries if entry.target == "recommendations"]
    triggers = [msgspec.json.decode(entry.value, type=RecommendationTrigger) for entry in entries]
    found = {trigger.user_id: int(trigger.event_id[1:]) for trigger in triggers}

    items = [
        (offset, str(row["user_id"]), row["event_type"], msgspec.json.decode(record.value or b"")["ts"])
        for offset, (row, record) in enumerate(zip(rows, records, strict=True))
    ]
    times = [(offset, user, kind, _millis(ts)) for offset, user, kind, ts in items]
    assert found == expect(times, after, reference.clock.watermark)
    assert len(triggers) == len(found) >= at_least
    assert {trigger.rule for trigger in triggers} == {"abandoned-intent"}


def _millis(text: str) -> int:
    return int(msgspec.convert(text, type=datetime).timestamp() * 1000)
