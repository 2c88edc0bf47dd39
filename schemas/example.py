"""Examples: what the score workers tell the learners, on the internal topic `marketing.examples.v1`.

An exposure opens a window with its features frozen (`exposed`); a fulfilment inside it is told at once
(`fulfilled`); when the window closes, the final label is told (`matured`), which alone is used for evaluation.
`Interaction` is the recommender's example: an item that was just touched, beside those touched before it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.event import SCHEMA_VERSION, Role

Stage = Literal["exposed", "fulfilled", "matured"]


class Example(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="example"):
    """One labelled (or not yet labelled) row for the outcome named `outcome`.

    `example_id` names the window; `partition`, `generation`, `offset` and `index` are the position of the outbox entry,
    by which a second copy is recognised: within its partition it is never above the last one learned. The generation
    counts how often that partition's log was made anew; in each, offsets begin again. `features` has the layout
    `models.outcomes.features.FEATURES`. `prediction` and `model_version` were stored at exposure; both are absent
    when no model was there. `label` is 1 or 0, and 0 for an `exposed` row says only "not yet".
    """

    example_id: str
    outcome: str
    stage: Stage
    label: int
    partition: int
    generation: int = 0
    offset: int
    index: int
    exposed_at: int
    features: tuple[float, ...]
    schema: str
    prediction: float | None = None
    model_version: int | None = None
    channel: str | None = None
    campaign_id: str | None = None
    version: int = SCHEMA_VERSION


class Interaction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="interaction"):
    """An item touched at `ts` (epoch milliseconds), with the person's earlier items, the newest first. Names nobody."""

    item_id: str
    role: Role
    ts: int
    partition: int
    generation: int = 0
    offset: int
    index: int
    before: tuple[str, ...] = ()
    version: int = SCHEMA_VERSION
