"""The item: one entry of the catalogue, on `marketing.items.v1`, keyed by its id.

The newest record holds, and one without a value takes the item out.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.event import Identifier, Name


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item as the catalogue knows it. `available=false` takes it out."""

    item_id: Identifier
    """Id that events name it by, and the record's key."""
    title: Annotated[str, Meta(max_length=512)] | None = None
    """What people call it."""
    category: Name | None = None
    """Category, as in events."""
    price: float | None = None
    """Price per unit."""
    currency: Annotated[str, Meta(min_length=3, max_length=3)] | None = None
    """ISO 4217 code of the price."""
    available: bool = True
    """Whether it can be had."""
