"""What an operator sees at one moment: `build_view` reads it off the metrics, the terminal and the live page show it.

A `LiveView` is JSON-ready and holds user ids in one field only, `user` of the newest triggers, which `conceal_users`
empties; texts are free of control characters, because names come from outside and end on a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

import msgspec

from models.recommend.blend import find_companion
from schemas.trigger import RecommendationTrigger, RecommendedItem
from stream.metrics import SENTIMENT_LABELS, Metrics, ModelReport
from stream.vitals import MEANINGS, Vitals

MASK: Final = "someone"
NEWEST: Final = 12
LONGEST: Final = 60


class NewestTrigger(msgspec.Struct, frozen=True, kw_only=True):
    """A trigger in plain words: `at` epoch milliseconds of the decision, `text` what comes after the name."""

    at: int
    rule: str
    text: str
    user: str | None = None


class PartitionView(msgspec.Struct, frozen=True, kw_only=True):
    """A partition: whether this worker owns it, the next offset, records to read (None if unknown), outbox entries."""

    partition: int
    mine: bool
    next: int
    outbox: int
    lag: int | None = None


class PauseView(msgspec.Struct, frozen=True, kw_only=True):
    """Something that holds the worker, in words too, since `seconds`."""

    cause: str
    text: str
    seconds: float


class LiveView(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. Times are epoch milliseconds, durations seconds, `events_per_second` is over the last five seconds.

    `latency_*` is from produced to committed over the whole run, `recent_latency_*` over the last ten seconds, and
    `trigger_latency_*` from produced to trigger acknowledged over the whole run; None without values. `events_in` is
    known where the producer is (the demo), not in a worker. `notes` are what needs an explanation, in sentences.
    """

    at: int
    started_at: int
    events_scored: int
    denied: int
    duplicates: int
    dead_letters: int
    late: int
    events_per_second: float
    lag: int
    triggers: int
    busy_ratio: float
    events_in: int | None = None
    latency_p50_seconds: float | None = None
    latency_p99_seconds: float | None = None
    recent_latency_p50_seconds: float | None = None
    recent_latency_p99_seconds: float | None = None
    trigger_latency_p50_seconds: float | None = None
    trigger_latency_p99_seconds: float | None = None
    dead_letters_by_reason: dict[str, int] = {}
    sentiment: dict[str, int] = {}
    sentiment_sources: dict[str, int] = {}
    model: ModelReport | None = None
    triggers_by_rule: dict[str, int] = {}
    suppressed_by_reason: dict[str, int] = {}
    newest_triggers: list[NewestTrigger] = []
    pauses: list[PauseView] = []
    partitions: list[PartitionView] = []
    notes: list[str] = []


def build_view(
    metrics: Metrics,
    vitals: Vitals,
    *,
    at: int,
    started_at: int,
    window_days: float,
    triggers: Iterable[RecommendationTrigger] = (),
    titles: Mapping[str, str] | None = None,
    partitions: Sequence[PartitionView] = (),
    model: str = "conversion",
    events_in: int | None = None,
    notes: Iterable[str] = (),
) -> LiveView:
    """Read the worker's state at `at` (epoch ms).

    `triggers` are the newest, newest first; `titles` name the catalogue's items; `model` is the one to show;
    `window_days` is its outcome's window. Lag is the sum over the partitions in the metrics.
    """
    results = metrics.events.sum_by("result")
    latency, end_to_end = metrics.latency.of(), metrics.end_to_end.of()
    labels = metrics.sentiment_labels.sum_by("label")
    return LiveView(
        at=at,
        started_at=started_at,
        events_in=events_in,
        events_scored=results.get("scored", 0),
        denied=results.get("denied", 0),
        duplicates=results.get("duplicate", 0),
        dead_letters=results.get("dead_letter", 0),
        dead_letters_by_reason=metrics.dead_letters.sum_by("reason"),
        late=metrics.late.total(),
        events_per_second=metrics.events_per_second,
        lag=int(sum(metrics.lag.read().values())),
        latency_p50_seconds=latency.quantile(0.5),
        latency_p99_seconds=latency.quantile(0.99),
        recent_latency_p50_seconds=latency.recent_quantile(0.5),
        recent_latency_p99_seconds=latency.recent_quantile(0.99),
        trigger_latency_p50_seconds=end_to_end.quantile(0.5),
        trigger_latency_p99_seconds=end_to_end.quantile(0.99),
        sentiment={label: labels.get(label, 0) for label in SENTIMENT_LABELS},
        sentiment_sources=metrics.sentiment_sources.sum_by("source"),
        model=metrics.reports.get(model),
        triggers=metrics.triggers.total(),
        triggers_by_rule=metrics.triggers.sum_by("rule"),
        suppressed_by_reason=metrics.suppressed.sum_by("reason"),
        newest_triggers=[_summarise(trigger, titles or {}, window_days) for trigger in islice(triggers, NEWEST)],
        pauses=[PauseView(cause=c, text=MEANINGS[c], seconds=s) for c, s in vitals.pauses().items()],
        partitions=list(partitions),
        busy_ratio=metrics.busy.read()[()],
        notes=list(notes),
    )


def conceal_users(view: LiveView) -> LiveView:
    """The same view without user ids, for whoever may look at the numbers but not at people."""
    concealed = [msgspec.structs.replace(trigger, user=None) for trigger in view.newest_triggers]
    return msgspec.structs.replace(view, newest_triggers=concealed)


def name_user(trigger: NewestTrigger) -> str:
    """Whom a trigger is about, or `someone` where that is concealed."""
    return trigger.user or MASK


def describe_trigger(trigger: RecommendationTrigger, titles: Mapping[str, str], window_days: float) -> str:
    """Say a trigger in plain words, user id included.

    >>> item = RecommendedItem(item_id="85123A", score=0.4, reason="often bought with 71053")
    >>> describe_trigger(
    ...     RecommendationTrigger(
    ...         trigger_id="t", user_id="or-17850", rule="likely-to-convert", event_id="e", decided_at=0, expires_at=1,
    ...         reason="", items=(item,), scores={"conversion": 0.718},
    ...     ), {"71053": "METAL LANTERN"}, 30)
    'or-17850 is 72 % likely to buy again within 30 days; show 85123A (often bought with METAL LANTERN)'
    """
    summary = _summarise(trigger, titles, window_days)
    return f"{name_user(summary)} {summary.text}"


def _summarise(trigger: RecommendationTrigger, titles: Mapping[str, str], window_days: float) -> NewestTrigger:
    parts = [_say_why(trigger, window_days)]
    if trigger.items:
        more = len(trigger.items) - 1
        parts.append(f"show {_name_item(trigger.items[0], titles)}" + (f" and {more} more" if more else ""))
    return NewestTrigger(at=trigger.decided_at, rule=trigger.rule, user=_clean(trigger.user_id), text="; ".join(parts))


def _say_why(trigger: RecommendationTrigger, window_days: float) -> str:
    if not trigger.scores:
        return f"meets rule {trigger.rule}: {_clean(trigger.reason)}"
    outcome, probability = next(iter(trigger.scores.items()))
    # A campaign in the trigger means that an exposure opened the window, and redeeming is what it waits for.
    aim = f"reach {outcome}"
    if outcome == "conversion":
        aim = f"take up campaign {_clean(trigger.campaign_id)}" if trigger.campaign_id else "buy again"
    return f"is {probability * 100:.0f} % likely to {aim} within {window_days:g} days"


def _name_item(item: RecommendedItem, titles: Mapping[str, str]) -> str:
    title = item.title or titles.get(item.item_id)
    reason = _say_reason(item.reason, titles)
    if title is None:
        return f"{_clean(item.item_id)} ({reason})"
    return f"{_clean(title)} ({_clean(item.item_id)}, {reason})"


def _say_reason(reason: str, titles: Mapping[str, str]) -> str:
    companion = find_companion(reason)
    if companion is None or companion not in titles:
        return _clean(reason)
    return f"{reason.removesuffix(companion)}{_clean(titles[companion])}"


def list_items(trigger: RecommendationTrigger) -> Iterator[str]:
    """The items that a trigger's words name: the first of those to be shown, and its companion."""
    for item in trigger.items[:1]:
        yield item.item_id
        if (companion := find_companion(item.reason)) is not None:
            yield companion


def _clean(text: str) -> str:
    """One short line without control characters: an id may hold a terminal's escape sequences."""
    plain = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return plain if len(plain) <= LONGEST else plain[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
