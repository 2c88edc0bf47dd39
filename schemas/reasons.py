"""Why a record was refused: one typed reason, the field at fault, and a message that is safe to log and to send on.

`Rejected` is the only exception that decoding raises. Its message tells a value's type and length, never the value,
because a refused record may hold personal data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, get_args

import msgspec

Reason = Literal[
    "empty",
    "not_json",
    "wrong_type",
    "missing_field",
    "over_long",
    "out_of_range",
    "too_deep",
    "future_timestamp",
    "unknown_version",
    "unsupported",
    "misrouted",
    "too_large",
    "crash",
]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)

MEANINGS: Final[Mapping[Reason, str]] = {
    "empty": "the record has no value",
    "not_json": "the value is not JSON in UTF-8",
    "wrong_type": "a field, or the whole value, has another type than the contract says",
    "missing_field": "a required field is absent",
    "over_long": "the value or one of its texts is longer than allowed",
    "out_of_range": "a number or time lies outside its bounds, or a text is too short",
    "too_deep": "properties or traits nest deeper than allowed",
    "future_timestamp": "the event is dated later than its record by more than the tolerance",
    "unknown_version": "the contract's version is not one that is read here",
    "unsupported": "a known format's call or content type that has no meaning here",
    "misrouted": "the person's partition is another one",
    "too_large": "the broker refuses what would have been written",
    "crash": "the record made a stage fail, or ended its process, again when it was tried alone",
}

REASON_HEADER: Final = "nudge-reason"
"""Dead letter's header: one of `REASONS`."""
ERROR_HEADER: Final = "nudge-error"
"""Dead letter's header: the message of the rejection."""
FIELD_HEADER: Final = "nudge-field"
"""Dead letter's header: path of the field at fault; absent where it is the whole value."""
SOURCE_HEADER: Final = "nudge-source"
"""Dead letter's header: where the record was read, `<topic>/<partition>/<offset>`."""
TIME_HEADER: Final = "nudge-time"
"""Dead letter's header: the record's Kafka timestamp, epoch milliseconds in decimal."""
GENERATION_HEADER: Final = "nudge-generation"
"""Dead letter's header: how often the source's log was made anew before, in decimal; absent for never."""
ORIGIN_HEADER: Final = "nudge-origin"
"""Header of a record sent back from the dead letters: where it was read first, `<topic>/<partition>/<offset>`, with
`<generation>/` before the offset in a log that was made anew. One that was applied is a duplicate from then on."""


class Rejected(Exception):
    """A record cannot be used.

    `reason` is the typed reason, `field` the path of the field at fault (`None`: the whole value), `message` what was
    found, what was expected and what to do.

    >>> str(Rejected("missing_field", "ts", "it is absent; send it"))
    'missing_field: `ts`: it is absent; send it'
    """

    def __init__(self, reason: Reason, field: str | None, message: str) -> None:
        super().__init__(reason, field, message)
        self.reason: Reason = reason
        self.field = field
        self.message = message

    def __str__(self) -> str:
        where = f"`{self.field}`: " if self.field else ""
        return f"{self.reason}: {where}{self.message}"


def describe(value: object) -> str:
    """Type and length of a decoded JSON value, without the value.

    >>> describe("secret"), describe(True), describe([1, 2]), describe(None)
    ('a string of length 6', 'a boolean', 'a list of length 2', 'null')
    """
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a fractional number"
        case str():
            return f"a string of length {len(value)}"
        case list():
            return f"a list of length {len(value)}"
        case dict():
            return f"an object with {len(value)} fields"
    return f"a {type(value).__name__}"


_PLACE: Final = re.compile(r"^(?P<problem>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>.*)`)?$", re.DOTALL)
_MISSING: Final = re.compile(r"^Object missing required field `(\w+)`")


def explain(error: msgspec.ValidationError, payload: object = None) -> Rejected:
    """The rejection for what msgspec refused in `payload`, the decoded JSON value.

    msgspec says in words what is wrong; the words are read here and nowhere else, and those that quote a value (an
    unknown choice) are not passed on.
    """
    match = _PLACE.match(str(error))
    problem, path = (match["problem"], match["path"] or "") if match else ("", "")
    if missing := _MISSING.match(problem):
        name = f"{path}.{missing[1]}" if path else missing[1]
        return Rejected("missing_field", name, "it is required and absent; send it with every record")
    reason, advice = _classify(problem)
    return Rejected(reason, path or None, f"found {_found(payload, path)}. {advice}")


def _classify(problem: str) -> tuple[Reason, str]:
    if problem.startswith("Invalid enum value"):
        return "wrong_type", "It is none of the choices that the schema lists; send one of them."
    if "of length <=" in problem:
        return "over_long", f"{problem}; shorten it at the producer."
    if ", got " in problem:
        return "wrong_type", f"{problem}; send the type that the schema says."
    return "out_of_range", f"{problem}; send a value within the bounds that the schema says."


def _found(payload: object, path: str) -> str:
    value: object = payload
    for name in path.split(".") if path else ():
        if not isinstance(value, dict) or name not in value:
            return "an unexpected entry"
        value = value[name]
    return describe(value)
