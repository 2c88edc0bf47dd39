"""Sentiment: a score for every admitted event with text. The only stage that leaves the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Protocol

from models.sentiment.transformer import Sentiment
from stream.stages.batch import Batch


class TextScorer(Protocol):
    """Whatever scores texts; called in one thread, so it need not be safe for several."""

    def score_many(self, texts: Sequence[str]) -> list[Sentiment]:
        """One result a text, in their order."""


async def score_texts(batch: Batch, scorer: TextScorer | None, executor: Executor) -> None:
    """Fill `item.sentiment` of the admitted items whose event has text; nothing without a scorer."""
    if scorer is None:
        return
    wanted = [item for item in batch.items if item.admitted and item.event and item.event.content]
    if not wanted:
        return
    texts = [item.event.content for item in wanted if item.event and item.event.content]
    scores = await asyncio.get_running_loop().run_in_executor(executor, scorer.score_many, texts)
    for item, found in zip(wanted, scores, strict=True):
        item.sentiment = found.score
        batch.sentiments.append(found)
