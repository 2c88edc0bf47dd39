"""Times on the wire: epoch milliseconds, or ISO 8601 text with a date and a time of day; inside always the former.

A text without an offset means UTC. Fractions finer than a millisecond are cut off. A date alone is refused, because
nothing says which moment of the day is meant.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from schemas.reasons import Rejected, describe

ISO_PATTERN: Final = (
    r"^(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"[T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]{1,9})?)?"
    r"(Z|[+-]([01][0-9]|2[0-3]):?[0-5][0-9])?$"
)
"""Texts that are read as a time; the JSON Schemas carry the same pattern."""

_iso = re.compile(ISO_PATTERN, re.ASCII).fullmatch
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def read_millis(value: object, field: str) -> int:
    """Epoch milliseconds of a decoded JSON value: an integer as it stands, or ISO 8601 text.

    `field` names the value in the error. Bounds are the Struct's matter. Raises `Rejected` (`wrong_type`).

    >>> read_millis("2011-12-09T12:50:00.5+01:00", "ts") == read_millis("2011-12-09 11:50:00.500", "ts")
    True
    """
    if type(value) is int:
        return value
    if type(value) is str and _iso(value) is not None:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:  # the 30th of February
            raise _refuse(value, field) from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return (moment - _EPOCH) // _MILLISECOND
    raise _refuse(value, field)


def check_future(event_ts: int, record_ts: int, tolerance: int) -> None:
    """Raise `Rejected` (`future_timestamp`) if the event is dated more than `tolerance` after its record (all ms)."""
    if event_ts - record_ts > tolerance:
        raise Rejected(
            "future_timestamp",
            "ts",
            f"{_spell(event_ts - record_ts)} later than the record that carries it, {_spell(tolerance)} are tolerated; "
            "set the producer's clock, and send milliseconds",
        )


def _spell(span: int) -> str:
    return str(timedelta(seconds=round(span / 1000)))


def _refuse(value: object, field: str) -> Rejected:
    return Rejected(
        "wrong_type",
        field,
        f"found {describe(value)}. Expected integer epoch milliseconds or ISO 8601 text such as 2024-05-01T10:15:00Z; "
        "send one of them.",
    )
