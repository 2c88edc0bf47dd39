"""Rows know nothing of later: with the future removed, or another one in its place, they are the same to the bit."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec
import pytest

from models.outcomes.features import CATEGORICAL, NAMES
from schemas.event import ROLES
from schemas.example import Example, Interaction
from tests.unit.reference import Record, Reference
from tests.unit.test_batch_invariance import apply, compose_log, eager

OPTIONS = eager(consent={"mode": "optional"}, score_on=ROLES)
LOG = compose_log(2_000, seed=11, people=60)
CUTS = (1, 2, 130, 777, 1_400, 1_999)

_read = msgspec.json.Decoder(Example | Interaction).decode


def freeze_rows(records: Sequence[Record]) -> Reference:
    """All in one batch, so that whoever looks ahead finds the whole future in memory."""
    return apply(OPTIONS, records, len(records))


def rows(found: Reference) -> dict[int, bytes]:
    """The bits of every row, by the offset of its event."""
    assert found.latest is not None
    frozen = [(item.record.offset, item.row) for item in found.latest.items if item.row is not None]
    return {offset: struct.pack(f"{len(row)}d", *row) for offset, row in frozen}


def examples(found: Reference) -> list[Example]:
    told = [_read(entry.value) for entry in found.entries if entry.target == "examples"]
    return [one for one in told if isinstance(one, Example)]


@pytest.fixture(scope="module")
def whole() -> Reference:
    return freeze_rows(LOG)


def test_the_log_fills_every_column(whole: Reference) -> None:
    """Or the comparisons below say little of it."""
    table = [struct.unpack(f"{len(NAMES)}d", row) for row in rows(whole).values()]
    assert len(table) > 1_000
    still = {name for name, column in zip(NAMES, zip(*table, strict=True), strict=True) if len(set(column)) == 1}
    # The log lasts a day or so; the day is the event's own.
    assert still <= {"weekday_sin", "weekday_cos", "month_sin", "month_cos"}
    assert {len({row[place] for row in table}) for place in CATEGORICAL} == {2, 3}


@pytest.mark.parametrize("cut", CUTS)
def test_with_the_future_removed_rows_are_the_same(whole: Reference, cut: int) -> None:
    past = freeze_rows(LOG[:cut])
    assert rows(past) == {offset: row for offset, row in rows(whole).items() if offset < cut}
    assert past.entries == whole.entries[: len(past.entries)]


@pytest.mark.parametrize("cut", CUTS)
def test_with_another_future_rows_are_the_same(whole: Reference, cut: int) -> None:
    other = compose_log(len(LOG), seed=12, people=60)[cut:]
    shift = LOG[cut - 1].timestamp - other[0].timestamp
    moved = [Record(one.offset, one.timestamp + shift, one.value, one.key, one.headers) for one in other]
    found = rows(freeze_rows([*LOG[:cut], *moved]))
    assert {offset: row for offset, row in found.items() if offset < cut} == {
        offset: row for offset, row in rows(whole).items() if offset < cut
    }


@pytest.mark.parametrize("size", [1, 7, 500])
def test_a_label_brings_the_row_of_its_exposure(whole: Reference, size: int) -> None:
    frozen = rows(whole)
    opened: dict[str, tuple[float, ...]] = {}
    labels = 0
    for example in examples(apply(OPTIONS, LOG, size)):
        if example.stage == "exposed":
            opened[example.example_id] = example.features
            assert struct.pack(f"{len(NAMES)}d", *example.features) == frozen[example.offset]
        else:
            labels += 1
            assert example.features == opened[example.example_id]
    assert labels > 200


def test_a_row_depends_on_nobody_else() -> None:
    # Others move the watermark, which decides who is late: here nobody is.
    options = eager(consent={"mode": "optional"}, lateness="3d", score_on=ROLES)
    found = rows(apply(options, LOG, len(LOG)))
    for user in (b"u0", b"u1", b"u7"):
        own = [record for record in LOG if record.key == user]
        alone = rows(apply(options, own, len(own)))
        assert len(alone) > 5
        assert alone == {offset: found[offset] for offset in alone}
