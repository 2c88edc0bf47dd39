"""Dead letters: the record's bytes as they came, and headers that say why it is here and where it was."""

from __future__ import annotations

from schemas.reasons import (
    ERROR_HEADER,
    FIELD_HEADER,
    GENERATION_HEADER,
    REASON_HEADER,
    SOURCE_HEADER,
    TIME_HEADER,
    Rejected,
)
from stream.stages.batch import Record

Headers = tuple[tuple[str, bytes | None], ...]

ORIGINAL = "original-"
"""Prefix of the headers that the record itself had."""


def write_headers(rejection: Rejected, topic: str, partition: int, record: Record, generation: int = 0) -> Headers:
    """Headers of the dead letter for `record` of `topic`/`partition`, whose log was made anew `generation` times."""
    headers: list[tuple[str, bytes | None]] = [
        (REASON_HEADER, rejection.reason.encode()),
        (ERROR_HEADER, rejection.message.encode()),
        (SOURCE_HEADER, f"{topic}/{partition}/{record.offset}".encode()),
        (TIME_HEADER, str(record.timestamp).encode()),
    ]
    if generation:
        headers.append((GENERATION_HEADER, str(generation).encode()))
    if rejection.field is not None:
        headers.append((FIELD_HEADER, rejection.field.encode()))
    return (*headers, *((ORIGINAL + name, value) for name, value in record.headers))
