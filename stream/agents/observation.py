"""What a batch tells the metrics once it counts: sums, never one event at a time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from stream.metrics import Metrics
from stream.stages.batch import Batch


def observe_batch(metrics: Metrics, batch: Batch, seconds: Mapping[str, float], calls: Mapping[str, float]) -> None:
    """Tell of a batch whose commit stands; `seconds` are those of its stages, `calls` those of its calls to Redis."""
    for stage, spent in seconds.items():
        metrics.stages.of(stage).observe(spent)
    for call, spent in calls.items():
        metrics.redis.of(call).observe(spent)
    metrics.batch_size.of().observe(len(batch.records))
    now = time.time() * 1000
    metrics.observe_latency([(now - item.record.timestamp) / 1000 for item in batch.items if item.event])
    counts = batch.counts
    results = {("unknown", "dead_letter"): counts["dead_letters"]}
    for result, prefix in (("scored", "scored:"), ("denied", "denied:"), ("duplicate", "duplicates:")):
        results |= {(role, result): number for role, number in _strip(counts, prefix).items()}
    metrics.count_events(results)
    metrics.dead_letters.add_all(_strip(counts, "dead_letters:"))
    metrics.late.add(counts["late"])
    metrics.unknown_fields.add(counts["unknown_fields"])
    metrics.unknown_categories.add(counts["unknown_categories"])
    metrics.consents.add(counts["consents"])
    metrics.denials.add(counts["denied"])
    metrics.suppressed.add_all(_strip(counts, "suppressed:"))
    for name, number in _strip(counts, "examples:").items():
        metrics.examples.add(number, *name.split(":"))
    for trigger in batch.triggers:
        metrics.triggers.add(1, trigger.rule, trigger.variant or "")
    if batch.scored is not None:
        metrics.count_sentiment(batch.scored)


def _strip(counts: Counter[str], prefix: str) -> dict[str, int]:
    return {name[len(prefix) :]: number for name, number in counts.items() if name.startswith(prefix)}
