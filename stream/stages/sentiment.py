"""Sentiment: a score for every admitted event with text. The only stage that leaves the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from stream.desk import Desk
from stream.stages.batch import Batch


async def score_texts(batch: Batch, desk: Desk | None, executor: Executor) -> None:
    """Fill `item.sentiment` of the admitted items whose event has text; nothing without a desk."""
    if desk is None:
        return
    wanted = [(item, item.event) for item in batch.items if item.admitted and item.event and item.event.content]
    if not wanted:
        return
    texts = [event.content or "" for _, event in wanted]
    langs = [event.lang for _, event in wanted]
    asked = desk.clock()
    batch.scored = await asyncio.get_running_loop().run_in_executor(executor, desk.score, texts, langs, asked)
    for (item, _), found in zip(wanted, batch.scored.sentiments, strict=True):
        item.sentiment, item.said = found.score, found
