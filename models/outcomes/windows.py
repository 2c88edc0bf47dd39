"""Windows: what was opened and waits for its label, or for its deadline.

An outcome opens a window at an exposure, with the features frozen; a fulfilment inside it marks it, and it closes when
the watermark passes its deadline. A rule that fires on something *not* happening is a window too: what cancels it
removes it, and its closing is the firing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from typing import Literal

import msgspec

from schemas.event import Event


class Window(msgspec.Struct, array_like=True, gc=False):
    """An open window of one person. Times are epoch milliseconds of event time; `id` is 16 hex digits.

    `session`, `campaign_id` (of an exposure), `item_id` and `trigger_id` (where the outcome looks at them) tell apart
    what fulfils it. `prediction` and `model_version` are absent while no model was there.
    """

    id: str
    kind: Literal["outcome", "rule"]
    name: str
    user_id: str
    event_id: str
    opened_at: int
    deadline: int
    session: int = 0
    campaign_id: str | None = None
    channel: str | None = None
    features: tuple[float, ...] = ()
    prediction: float | None = None
    model_version: int | None = None
    fulfilled: bool = False
    item_id: str | None = None
    trigger_id: str | None = None


def name_window(user_id: str, event_id: str, name: str) -> str:
    """Id of the window that `event_id` opens for `name`: the same however often the event is decided.

    >>> name_window("ann", "e1", "conversion")
    '97ff54470d956f29'
    """
    text = "\x1f".join((user_id, event_id, name))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def fulfils(window: Window, event: Event, session: int, same: Container[str] = ("campaign",), after: int = 0) -> bool:
    """Tell whether a fulfilling event falls into `window`: in time, of another session, of the same campaign and so on.

    It must come at least `after` milliseconds after what opened the window. `session` is 0 where it may be any; `same`
    names what must be the same, where what opened the window has it: campaign, item, trigger.
    """
    return (
        window.opened_at + after <= event.ts <= window.deadline
        and event.event_id != window.event_id
        and (not session or session != window.session)
        and (window.campaign_id is None or window.campaign_id == event.campaign_id or "campaign" not in same)
        and (window.item_id is None or window.item_id == event.item_id or "item" not in same)
        and (window.trigger_id is None or window.trigger_id == event.trigger_id or "trigger" not in same)
    )
