"""What the live view says, and what it keeps to itself."""

from collections import Counter

import msgspec
import pytest

from models.sentiment import Sentiment
from schemas.trigger import RecommendationTrigger, RecommendedItem
from stream.desk import Scored
from stream.metrics import Metrics, ModelReport
from stream.view import (
    NEWEST,
    LiveView,
    PartitionView,
    build_view,
    conceal_users,
    describe_trigger,
)
from stream.vitals import Vitals

BASE = RecommendationTrigger(
    trigger_id="t1",
    user_id="or-17850",
    rule="likely-to-convert",
    event_id="e1",
    decided_at=1_323_433_860_000,
    expires_at=1_323_433_960_000,
    reason="conversion 0.718 is at least 0.6",
    scores={"conversion": 0.718},
    items=(RecommendedItem(item_id="85123A", score=0.4, reason="often bought with 71053"),),
)


def trigger(**changes: object) -> RecommendationTrigger:
    return msgspec.structs.replace(BASE, **changes)


def describe(made: RecommendationTrigger, **titles: str) -> str:
    return describe_trigger(made, {name.removeprefix("i"): title for name, title in titles.items()}, 30)


def view_of(metrics: Metrics, vitals: Vitals | None = None, **more: object) -> LiveView:
    return build_view(metrics, vitals or Vitals(), **{"at": 9_000, "started_at": 1_000, "window_days": 30, **more})


def test_a_trigger_is_said_in_plain_words() -> None:
    assert describe(BASE) == (
        "or-17850 is 72 % likely to buy again within 30 days; show 85123A (often bought with 71053)"
    )


def test_a_title_is_said_where_it_is_known() -> None:
    assert "show LANTERN (85123A, often bought with 71053)" in describe(BASE, i85123A="LANTERN")
    assert "show 85123A (often bought with BULB)" in describe(BASE, i71053="BULB")
    named = trigger(items=(RecommendedItem(item_id="85123A", score=1.0, reason="r", title="OWN"),))
    assert "show OWN (85123A, r)" in describe(named, i85123A="LANTERN")


def test_further_items_are_counted() -> None:
    assert describe(trigger(items=BASE.items * 3)).endswith(" and 2 more")
    assert describe(trigger(items=())).endswith("within 30 days")


def test_a_campaign_is_taken_up_and_other_outcomes_are_named() -> None:
    assert "likely to take up campaign 18 within" in describe(trigger(campaign_id="18"))
    assert "is 5 % likely to reach churn within" in describe(trigger(scores={"churn": 0.05}))


def test_a_rule_without_a_score_gives_its_reason() -> None:
    words = describe(trigger(rule="abandoned-intent", scores={}, reason="intent without a purchase"))

    assert words.startswith("or-17850 meets rule abandoned-intent: intent without a purchase; show ")


@pytest.mark.parametrize("nasty", ["\x1b[31mred", "a\nb", "\u202egnp", "\x07", "x" * 256])
def test_names_from_outside_are_one_short_line_without_control_characters(nasty: str) -> None:
    item = RecommendedItem(item_id=nasty, score=1.0, reason=nasty, title=nasty)
    words = describe(trigger(user_id=nasty, items=(item,), campaign_id=nasty))

    assert words.isprintable()
    assert len(words) < 400


def test_a_concealed_view_holds_no_user_id_anywhere() -> None:
    view = view_of(Metrics(), triggers=[trigger(), trigger(scores={})])
    assert b"or-17850" in msgspec.json.encode(view)

    concealed = conceal_users(view)

    assert b"or-17850" not in msgspec.json.encode(concealed)
    assert [one.text for one in concealed.newest_triggers] == [one.text for one in view.newest_triggers]


def test_the_newest_triggers_come_first_and_are_few() -> None:
    many = [trigger(decided_at=at) for at in range(100, 0, -1)]

    assert [one.at for one in view_of(Metrics(), triggers=many).newest_triggers] == list(range(100, 100 - NEWEST, -1))


def test_the_view_reads_each_count_from_its_own_metric() -> None:
    metrics, vitals = Metrics(), Vitals()
    metrics.count_events({("conversion", "scored"): 10, ("view", "scored"): 5, ("view", "denied"): 4})
    metrics.count_events({("view", "duplicate"): 3, ("unknown", "dead_letter"): 2})
    metrics.dead_letters.add_all({"not_json": 2})
    metrics.late.add(1)
    metrics.observe_latency([0.01] * 99 + [1.0])
    metrics.observe_end_to_end([0.02])
    metrics.count_sentiment(Scored([Sentiment(0.9, 0.9, "positive", "student", "1")], Counter({"cache": 1}), 0, 0))
    metrics.triggers.add_all({("a", "x"): 6, ("a", "y"): 1, ("b", "x"): 9})
    metrics.suppressed.add_all({"cooldown": 8})
    metrics.set_partition(0, lag=11, watermark_delay=0.0, outbox=0)
    metrics.set_partition(1, lag=22, watermark_delay=0.0, outbox=0)
    metrics.set_model(ModelReport(name="conversion", version=7, published_at=0, log_loss=0.3, matured=40))
    vitals.pause("redis")
    parts = [PartitionView(partition=0, mine=True, next=5, outbox=1, lag=11)]

    view = view_of(metrics, vitals, partitions=parts, events_in=24)

    assert (view.events_scored, view.denied, view.duplicates, view.dead_letters) == (15, 4, 3, 2)
    assert view.events_in == view.events_scored + view.denied + view.duplicates + view.dead_letters
    assert (view.late, view.lag, view.triggers) == (1, 33, 16)
    assert view.dead_letters_by_reason == {"not_json": 2}
    assert view.triggers_by_rule == {"b": 9, "a": 7}
    assert view.suppressed_by_reason == {"cooldown": 8}
    assert view.sentiment == {"negative": 0, "neutral": 0, "positive": 1}
    assert view.latency_p50_seconds == pytest.approx(0.01, rel=0.02)
    assert view.recent_latency_p99_seconds == pytest.approx(0.01, rel=0.02)
    assert view.trigger_latency_p50_seconds == pytest.approx(0.02, rel=0.02)
    assert view.model is not None
    assert (view.model.version, view.model.matured) == (7, 40)
    assert [pause.cause for pause in view.pauses] == ["redis"]
    assert view.partitions == parts


def test_an_empty_worker_has_a_view_that_survives_json() -> None:
    view = view_of(Metrics())

    assert view.events_in is None
    assert view.model is None
    assert view.latency_p50_seconds is None
    assert msgspec.json.decode(msgspec.json.encode(view), type=LiveView) == view
