"""The event: what a producer writes to `marketing.events.v1`, and what its free-text type means to nudge.

On the wire an event is one JSON object; `schemas.wire` decodes it (and what Segment or CloudEvents producers
write) into the Struct below, whose `ts` is always epoch milliseconds. Fields are only ever added, with a default.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, NewType, get_args

import msgspec
from msgspec import Meta

UserId = NewType("UserId", str)
EventId = NewType("EventId", str)

Role = Literal["exposure", "click", "view", "intent", "conversion", "feedback", "other"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

SCHEMA_VERSION: Final = 1
MAX_ID: Final = 256
MAX_NAME: Final = 128
MAX_TEXT: Final = 20_000

Identifier = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Millis = Annotated[int, Meta(ge=0, le=253_402_300_799_999, description="epoch milliseconds, UTC")]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One thing that a person did, saw or wrote.

    `event_id` is unique per person; an event with an id seen within the last hour and the last eight events of that
    person counts as a duplicate. `price` is per unit, in `currency`. `traits` are personal data: never logged,
    never kept in the clear. `properties` may nest up to eight levels.
    """

    event_id: Identifier
    """Unique per person."""
    user_id: Identifier
    """The person; also the record's key."""
    type: Name
    """What happened, in free text; its role is a setting."""
    ts: Millis
    """When it happened. On the wire also ISO 8601 text; without an offset it means UTC."""
    channel: Name | None = None
    """Where it happened: web, app, email, store."""
    campaign_id: Identifier | None = None
    """The campaign that it belongs to."""
    item_id: Identifier | None = None
    """The item concerned, as the catalogue names it."""
    category: Name | None = None
    """The item's category."""
    price: Annotated[float, Meta(ge=-1e12, le=1e12)] | None = None
    """Price per unit, in `currency`."""
    quantity: Annotated[float, Meta(ge=-1e9, le=1e9)] | None = None
    """Number of units; negative for goods sent back."""
    currency: Annotated[str, Meta(min_length=3, max_length=3)] | None = None
    """ISO 4217 code."""
    content: Annotated[str, Meta(max_length=MAX_TEXT)] | None = None
    """Text that the person wrote; its sentiment is scored."""
    lang: Annotated[str, Meta(min_length=2, max_length=35)] | None = None
    """Language of `content`, as a BCP 47 tag."""
    session_id: Identifier | None = None
    """The visit; conversions of one session count as one order."""
    variant: Name | None = None
    """The message variant that was shown."""
    trigger_id: Identifier | None = None
    """The recommendation trigger that led to this event."""
    traits: dict[str, object] | None = None
    """Personal data about the person."""
    properties: dict[str, object] | None = None
    """Anything else, at most eight levels deep; integers within 64 bits."""
    version: int = SCHEMA_VERSION
    """Version of this contract."""
