"""Durations and moments as the configuration has them.

A duration is `500ms`, `30s`, `15m`, `6h` or `7d`, milliseconds inside, and words in messages.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field

from schemas.reasons import Rejected
from schemas.timestamps import read_millis

UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
NAMES: Final = {"ms": "millisecond", "s": "second", "m": "minute", "h": "hour", "d": "day"}


def parse_duration(value: object) -> int:
    """Turn `15m` into 900000; whole numbers are milliseconds already.

    >>> parse_duration("15m"), parse_duration(250)
    (900000, 250)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ValueError("not a duration; write 500ms, 30s, 15m, 6h or 7d")
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", value)
    if match is None:
        raise ValueError("not a duration; write 500ms, 30s, 15m, 6h or 7d")
    if len(match[1]) > 15:
        raise ValueError("not a duration that anybody waits for")
    return round(float(match[1]) * UNITS[match[2] or "ms"])


Duration = Annotated[int, BeforeValidator(parse_duration), Field(ge=0, le=36_525 * 86_400_000)]
"""Milliseconds, at most a hundred years."""


def spell_duration(millis: int) -> str:
    """Say a duration in words, exactly, in the largest unit that it is a whole number of.

    >>> spell_duration(37 * 86_400_000), spell_duration(5_400_000), spell_duration(1), spell_duration(0)
    ('37 days', '90 minutes', '1 millisecond', '0 milliseconds')
    """
    unit, size = next(((u, s) for u, s in reversed(UNITS.items()) if millis and millis % s == 0), ("ms", 1))
    count = millis // size
    return f"{count} {NAMES[unit]}{'' if count == 1 else 's'}"


def check_start(text: str) -> str:
    """Return `earliest`, `latest` or an ISO 8601 time as it is; raises `ValueError` for anything else."""
    if text not in ("earliest", "latest"):
        try:
            read_millis(text, "start_from")
        except Rejected:
            raise ValueError("neither earliest, nor latest, nor a time such as 2026-01-31T08:00:00Z") from None
    return text


Start = Annotated[str, AfterValidator(check_start)]
"""A place in a log."""
