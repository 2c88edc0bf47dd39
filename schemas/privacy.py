"""Privacy requests: what a person allows, and later what is to be forgotten.

They arrive on `marketing.privacy.v1`, which is kept for ever and so is the ledger, and are passed on into the
events topic, where their place decides from when they hold.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from schemas.event import SCHEMA_VERSION, Identifier, Millis

Purpose = Literal["personalisation", "marketing", "analytics"]
PURPOSES: Final[tuple[Purpose, ...]] = get_args(Purpose)

LEDGER_HEADER: Final = "nudge-ledger"
"""Header of a request that was passed on: `<ledger partition>/<place>`, so that a second copy is recognised."""

KIND_HEADER: Final = "nudge-kind"
"""Header that tells a privacy request (`privacy`) from an event in the events topic."""


class Place(NamedTuple):
    """Place of a request in one partition of the ledger. The later of two is the greater.

    The generation counts how often the ledger's log was made anew; in each, offsets begin again. As text it is
    `<generation>/<offset>`, and the offset alone in generation 0.

    >>> str(Place(0, 41)), str(Place(1, 7)), Place.parse("41") < Place.parse("1/7")
    ('41', '1/7', True)
    """

    generation: int
    offset: int

    def __str__(self) -> str:
        return f"{self.generation}/{self.offset}" if self.generation else str(self.offset)

    @classmethod
    def parse(cls, text: str) -> Place:
        """Place that `text` stands for; raises ValueError if it is none."""
        match = _PLACE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not `<offset>` or `<generation>/<offset>`")
        return cls(int(match[1] or 0), int(match[2]))


_PLACE: Final = re.compile(r"(?:([0-9]{1,9})/)?([0-9]{1,18})")


class PrivacyRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Grant or withdraw consent for purposes, or erase a person.

    `consent` names only the purposes that change; the others stay as they are. With `action="erase"` it is ignored.
    """

    request_id: Identifier
    """Unique per request; the receipt's key."""
    user_id: Identifier
    """The person that it concerns."""
    ts: Millis
    """When it was made. On the wire also ISO 8601 text; without an offset it means UTC."""
    action: Literal["consent", "erase"] = "consent"
    """Change consent, or forget the person."""
    consent: dict[Purpose, bool] = {}
    """Purpose to granted (true) or withdrawn (false)."""
    version: int = SCHEMA_VERSION
    """Version of this contract."""
