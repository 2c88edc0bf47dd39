"""What a scrape shows, and what the percentiles are worth."""

import math
import re
from collections import Counter

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.sentiment import Sentiment
from stream.desk import Scored
from stream.instruments import SECONDS, Distribution, Recent
from stream.metrics import Metrics, ModelReport

TYPES = {
    "counter": {
        "events", "late", "dead_letters", "unknown_fields", "unknown_consent_categories", "consents", "consent_denials",
        "rebalances",
        "fence_rejections", "outbox_sent", "outbox_known", "outbox_parked", "stale_triggers", "sentiment_source",
        "sentiment_label", "sentiment_failures", "catalogue_records", "examples", "relearns", "state_losses",
        "triggers", "suppressed",
    },
    "gauge": {
        "lag", "watermark_delay_seconds", "outbox_entries", "sentiment_cache_ratio", "sentiment_level",
        "sentiment_model", "model_log_loss",
        "model_champion", "model_contestant_log_loss", "model_contestant_calibration_ratio", "model_drifts",
        "model_drift_severity", "model_shifts", "model_psi", "model_sampling_rate",
        "model_calibration_ratio", "model_ece", "model_auc", "model_version", "model_age_seconds", "busy_ratio",
        "paused",
    },
    "histogram": {
        "batch_size", "stage_seconds", "event_latency_seconds", "end_to_end_seconds", "redis_seconds",
        "event_loop_lag_seconds", "transaction_seconds", "rebalance_seconds",
    },
}  # fmt: skip
LABELS = {"role", "result", "reason", "partition", "stage", "call", "topic", "source", "label", "model", "rule"}
LABELS |= {"variant", "cause", "phase", "le", "level", "version", "contestant"}


class Watch:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def tell_texts(answered: dict[str, int], labels: dict[str, int], failures: int = 0, level: int = 1) -> Scored:
    found = [Sentiment(0.0, 0.5, label, "student", "1", level) for label, count in labels.items() for _ in range(count)]
    return Scored(found, Counter(answered), failures, level)


def scrape(metrics: Metrics) -> dict:
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None, f"{name} {labels} is not exposed"
    return found


def test_a_scrape_shows_every_metric_with_its_type_and_a_help_text() -> None:
    families = {name: one for name, one in scrape(Metrics()).items() if name.startswith("nudge_")}

    found = {kind: {n.removeprefix("nudge_") for n, one in families.items() if one.type == kind} for kind in TYPES}
    assert found == TYPES
    assert all(one.documentation.endswith(".") for one in families.values())


def test_names_end_in_base_units() -> None:
    for name, family in scrape(Metrics()).items():
        assert not re.search(r"_(ms|millis|milliseconds|percent|kb|mb)(_|$)", name), name
        if family.type == "histogram":
            assert name.endswith(("_seconds", "_size")), name


def test_labels_are_kinds_and_never_people() -> None:
    metrics = fill(Metrics())
    seen = {label for family in scrape(metrics).values() for sample in family.samples for label in sample.labels}

    assert seen == LABELS


def fill(metrics: Metrics) -> Metrics:
    metrics.stages.of("decode").observe(0.002)
    metrics.redis.of("commit").observe(0.002)
    metrics.outbox_sent.add_all({"t": 1})
    metrics.set_partition(3, lag=7, watermark_delay=300.0, outbox=2)
    metrics.count_sentiment(tell_texts({"cache": 1, "transformer": 3}, {"positive": 3, "negative": 1}))
    metrics.show_scorer(lambda: 2, {"transformer": "abc"})
    contestants = {"f4-wait": {"log_loss": 0.4}, "f4-fnw": {"log_loss": 0.5, "calibration_ratio": 0.9}}
    metrics.set_model(
        ModelReport(
            name="conversion",
            version=41,
            published_at=1_000_000,
            log_loss=0.4,
            champion="f4-wait",
            contestants=contestants,
        )
    )
    metrics.triggers.add_all({("abandoned-intent", "none"): 2})
    metrics.suppressed.add_all({"cooldown": 5})
    return metrics


def test_a_batch_told_at_once_counts_each_event() -> None:
    metrics = Metrics()

    metrics.count_events({("conversion", "scored"): 900, ("view", "denied"): 100})
    metrics.count_events({("conversion", "scored"): 50})

    assert value(metrics, "nudge_events_total", role="conversion", result="scored") == 950
    assert metrics.events.sum_by("result") == {"scored": 950, "denied": 100}


def test_series_are_there_before_their_first_event() -> None:
    metrics = Metrics()

    assert value(metrics, "nudge_events_total", role="view", result="scored") == 0
    assert value(metrics, "nudge_dead_letters_total", reason="not_json") == 0
    assert value(metrics, "nudge_paused", cause="redis") == 0


def test_a_lost_partition_is_shown_no_longer() -> None:
    metrics = fill(Metrics())
    assert value(metrics, "nudge_lag", partition="3") == 7

    metrics.forget_partition(3)
    metrics.forget_partition(4)

    assert metrics.registry.get_sample_value("nudge_lag", {"partition": "3"}) is None
    assert metrics.lag.read() == {}


def test_one_contestant_is_the_champion_and_all_are_judged() -> None:
    metrics = fill(Metrics())
    assert value(metrics, "nudge_model_champion", model="conversion", contestant="f4-wait") == 1
    assert value(metrics, "nudge_model_champion", model="conversion", contestant="f4-fnw") == 0
    assert value(metrics, "nudge_model_contestant_log_loss", model="conversion", contestant="f4-fnw") == 0.5
    assert value(metrics, "nudge_model_contestant_calibration_ratio", model="conversion", contestant="f4-fnw") == 0.9


def test_a_models_age_grows_between_scrapes() -> None:
    watch = Watch()
    metrics = fill(Metrics(wall=watch))
    assert value(metrics, "nudge_model_age_seconds", model="conversion") == 0

    watch.now += 90

    assert value(metrics, "nudge_model_age_seconds", model="conversion") == 90
    assert value(metrics, "nudge_model_version", model="conversion") == 41
    assert metrics.registry.get_sample_value("nudge_model_auc", {"model": "conversion"}) is None


def test_the_cache_ratio_is_a_share_of_texts_and_no_number_without_texts() -> None:
    assert math.isnan(value(Metrics(), "nudge_sentiment_cache_ratio"))
    assert value(fill(Metrics()), "nudge_sentiment_cache_ratio") == 0.25


def test_who_answered_is_told_with_the_level_and_failures_by_themselves() -> None:
    metrics = fill(Metrics())
    metrics.count_sentiment(tell_texts({"student": 2}, {"negative": 2}, failures=1, level=4))

    assert value(metrics, "nudge_sentiment_source_total", source="transformer", level="1") == 3
    assert value(metrics, "nudge_sentiment_source_total", source="student", level="4") == 2
    assert value(metrics, "nudge_sentiment_failures_total") == 1


def test_the_scorers_level_is_as_of_the_scrape_and_its_models_are_named() -> None:
    metrics, levels = Metrics(), iter([0, 3, 3])
    assert math.isnan(value(metrics, "nudge_sentiment_level"))
    metrics.show_scorer(lambda: next(levels), {"student": "abc"})

    assert [value(metrics, "nudge_sentiment_level") for _ in range(2)] == [0, 3]
    assert value(metrics, "nudge_sentiment_model", source="student", version="abc") == 1


def test_pauses_show_their_cause_alone() -> None:
    metrics = Metrics()

    metrics.show_pauses({"redis"})

    assert {cause for (cause,), on in metrics.paused.read().items() if on} == {"redis"}
    metrics.show_pauses(())
    assert not any(metrics.paused.read().values())


def test_two_workers_in_one_process_share_nothing() -> None:
    first, second = Metrics(), Metrics()

    first.late.add(3)

    assert second.late.total() == 0


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
def test_quantiles_lie_within_two_percent(spread: float) -> None:
    latency = Distribution(SECONDS, Watch())
    values = np.random.default_rng(1).lognormal(-4, spread, 20_000)

    for part in np.array_split(values, 37):
        latency.observe_all(part)

    for share in (0.01, 0.5, 0.9, 0.99, 0.999):
        exact = float(np.quantile(values, share, method="inverted_cdf"))
        assert latency.quantile(share) == pytest.approx(exact, rel=0.02)


def test_buckets_hold_what_is_at_most_their_bound() -> None:
    values = [*SECONDS, *(bound * 1.0001 for bound in SECONDS), 0.0, 1e9]
    latency = Distribution(SECONDS, Watch())
    latency.observe_all(values)

    for bound, count in latency.buckets():
        assert count == sum(value <= float(bound) for value in values), bound


def test_one_by_one_and_at_once_give_the_same() -> None:
    values = [*np.random.default_rng(2).lognormal(-3, 2, 500), *SECONDS, 0.0, -0.5, 1e9]
    together, alone = Distribution(SECONDS, Watch()), Distribution(SECONDS, Watch())

    together.observe_all(values)
    for one in values:
        alone.observe(one)

    assert together.buckets() == alone.buckets()
    assert together.sum == pytest.approx(alone.sum)
    assert [together.quantile(s) for s in (0.1, 0.5, 0.999)] == [alone.quantile(s) for s in (0.1, 0.5, 0.999)]


def test_a_clock_behind_the_producers_counts_as_zero() -> None:
    latency = Distribution(SECONDS, Watch())

    latency.observe_all([-3.0, -0.1])

    assert (latency.sum, latency.count, latency.quantile(0.5)) == (0.0, 2, 0.0)


def test_no_values_have_no_quantile() -> None:
    latency = Distribution(SECONDS, Watch())
    latency.observe_all([])

    assert latency.quantile(0.5) is None
    assert latency.recent_quantile(0.99) is None


def test_values_beyond_all_buckets_are_told_by_the_largest() -> None:
    latency = Distribution(SECONDS, Watch())

    latency.observe_all([1e12])

    assert latency.quantile(0.5) == 1e12
    assert latency.buckets()[-1] == ("+Inf", 1.0)


def test_recent_quantiles_forget_and_the_whole_run_does_not() -> None:
    watch = Watch()
    latency = Distribution(SECONDS, watch, recent_seconds=10)
    latency.observe_all([1.0] * 100)
    watch.now += 5
    latency.observe_all([0.01] * 50)
    assert latency.recent_quantile(0.99) == pytest.approx(1.0, rel=0.02)

    watch.now += 6

    assert latency.recent_quantile(0.99) == pytest.approx(0.01, rel=0.02)
    assert latency.quantile(0.99) == pytest.approx(1.0, rel=0.02)
    watch.now += 100
    assert latency.recent_quantile(0.99) is None


def test_the_rate_is_right_from_the_first_seconds_and_ends_with_the_events() -> None:
    watch = Watch()
    metrics = Metrics(clock=watch)
    rates = []
    for _ in range(200):
        metrics.count_events({("view", "scored"): 100})
        watch.now += 0.1
        rates.append(metrics.events_per_second)

    assert all(rate == pytest.approx(1_000, rel=0.25) for rate in rates[5:])
    assert rates[-1] == pytest.approx(1_000, rel=0.05)
    watch.now += 6
    assert metrics.events_per_second == 0


def test_a_slot_taken_again_begins_at_zero() -> None:
    watch = Watch()
    recent = Recent(1, slots=2, slot_seconds=1.0, clock=watch)
    for _ in range(10):
        recent.row()[0] += 5
        watch.now += 1.0

    assert recent.rate() == 5.0
    assert recent.total()[0] == 10
