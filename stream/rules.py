"""What an operator says about events: what each type means, which outcomes are learned, and when to speak.

These are the parts of the settings that tell one business from another; the defaults suit a shop.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.event import Role
from stream.durations import Duration, parse_duration


class Section(BaseModel):
    """A part of the settings: frozen, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Shared = Literal["campaign", "item", "trigger"]


class Outcome(Section):
    """One yes/no outcome that is learned: which roles open a window, which fulfil it, how long it is."""

    name: str = Field("conversion", pattern=r"^[a-z][a-z0-9_]{0,63}$", description="of the model too")
    opened_by: tuple[Role, ...] = Field(("exposure", "conversion"), description="roles that open a window")
    fulfilled_by: tuple[Role, ...] = Field(("conversion",), description="roles that fulfil it")
    window: Duration = Field(parse_duration("30d"), ge=1_000, description="how long a fulfilment counts")
    after: Duration = Field(0, description="how long after what opened a window a fulfilment begins to count")
    same: tuple[Shared, ...] = Field(
        ("campaign",),
        description="what a fulfilment must share with what opened the window, where that has it: campaign (of an "
        "exposure), item, trigger",
    )
    other_session: bool = Field(True, description="whether a fulfilment must be of another session")
    once_per: Literal["event", "session", "item", "day", "window"] = Field(
        "session",
        description="what opens one window, whatever follows while it is open: each event; a session and campaign; an "
        "item and campaign; a day (UTC); or one window at a time",
    )
    inverted: bool = Field(
        False,
        description="tell the probability that no fulfilment comes, as of churn; models and their reports speak of the "
        "fulfilment all the same",
    )
    value: float | None = Field(
        None, gt=0.0, description="worth of what is reported, in your currency: triggers tell the expected value"
    )
    max_open: int = Field(16, ge=1, le=256, description="windows that one person may have open")


class Rule(Section):
    """What all rules have: when and how often they may speak, and with what."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,63}$", description="goes into the trigger and its id")
    cooldown: Duration = Field(parse_duration("7d"), description="event time until it may fire again for a person")
    items: int = Field(3, ge=0, le=50, description="items recommended at most")
    channel: str = Field("email", description="goes into the trigger")
    valid_for: Duration = Field(parse_duration("2d"), ge=1_000, description="the trigger's `expires_at`")


class ScoreRule(Rule):
    """Fires at an event of `roles` whose score for `outcome` is at least `at_least`."""

    kind: Literal["score"] = "score"
    outcome: str = Field("conversion", description="whose probability is looked at")
    roles: tuple[Role, ...] = Field(("exposure", "conversion"), description="events at which it may fire")
    at_least: float = Field(ge=0.0, lt=1.0, description="probability from which it fires")


class AbandonedRule(Rule):
    """Fires when an event of `opened_by` is followed by none of `cancelled_by` for `after` (event time)."""

    kind: Literal["abandoned"] = "abandoned"
    opened_by: tuple[Role, ...] = Field(("intent",), description="roles that it waits after")
    cancelled_by: tuple[Role, ...] = Field(("conversion",), description="roles that end the wait")
    after: Duration = Field(parse_duration("30m"), ge=1_000, description="event time it waits, from the latest")


AnyRule = Annotated[ScoreRule | AbandonedRule, Field(discriminator="kind")]


DEFAULT_ROLES: Final[dict[str, Role]] = {
    "ad_impression": "exposure",
    "email_sent": "exposure",
    "push_sent": "exposure",
    "campaign_exposure": "exposure",
    "ad_click": "click",
    "email_click": "click",
    "page_view": "view",
    "product_view": "view",
    "view": "view",
    "search": "view",
    "add_to_cart": "intent",
    "cart": "intent",
    "checkout": "intent",
    "purchase": "conversion",
    "signup": "conversion",
    "coupon_redemption": "conversion",
    "review": "feedback",
    "ticket": "feedback",
    "survey": "feedback",
}

DEFAULT_RULES: Final = (
    ScoreRule(name="likely-to-convert", at_least=0.6),
    AbandonedRule(name="abandoned-intent"),
)
