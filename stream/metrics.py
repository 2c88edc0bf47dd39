"""Every Prometheus metric of nudge, declared in one place, with its own registry.

Callers count within a batch and tell the sums once per batch: `metrics.triggers.add_all(counts)`, or a method below
where one fact feeds several metrics. Labels name parts and kinds, never people.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Literal, get_args

import msgspec
from numpy.typing import ArrayLike
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, generate_latest

from schemas.event import ROLES
from schemas.example import Stage as ExampleStage
from schemas.reasons import REASONS
from stream.desk import Scored
from stream.instruments import SECONDS, SHORT_SECONDS, SIZES, Clock, Level, Recent, Spread, Tally
from stream.vitals import CAUSES

Result = Literal["scored", "duplicate", "denied", "dead_letter"]
RESULTS: Final[tuple[Result, ...]] = get_args(Result)

REBALANCE_PHASES: Final = ("drain", "join", "acquire", "first_batch")
"""Until batches in flight are done, partitions are given out, one is ours, its first batch is done."""

SENTIMENT_LABELS: Final = ("negative", "neutral", "positive")
RATE_SLOTS: Final = 20
RATE_SLOT_SECONDS: Final = 0.25


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot says about its model: quality on matured labels (None before there are any), and its age.

    `published_at` is in epoch milliseconds. `base_log_loss` is what always answering the base rate would get;
    `calibration_ratio` is predicted over observed positives; `matured` counts the labels that these rest on and
    `examples` all that was learned. `contestants` holds by name what each model would have got, beside the `champion`
    that is in use: `log_loss`, `calibration_ratio`. `drifts` counts changes of what the champion gets wrong, and
    `drift_severity` is by how much its mean residual moved at the last. `shifts` counts changes of the rows, and `psi`
    is the highest stability index of a column (None before there is one). `sampling_rate` is the share of the windows
    that negatives are learned from.
    """

    name: str
    version: int
    published_at: int
    log_loss: float | None = None
    base_log_loss: float | None = None
    calibration_ratio: float | None = None
    ece: float | None = None
    auc: float | None = None
    matured: int = 0
    examples: int = 0
    champion: str = ""
    drifts: int = 0
    drift_severity: float = 0.0
    shifts: int = 0
    psi: float | None = None
    sampling_rate: float = 1.0
    contestants: dict[str, dict[str, float]] = {}


class Metrics:
    """All metrics of one worker. `clock` gives monotonic seconds, `wall` seconds since 1970.

    >>> metrics = Metrics()
    >>> metrics.count_events({("conversion", "scored"): 998, ("unknown", "dead_letter"): 2})
    >>> metrics.events.sum_by("result")
    {'scored': 998, 'dead_letter': 2}
    """

    def __init__(self, clock: Clock = time.monotonic, wall: Clock = time.time) -> None:
        # Creation times double the number of series and tell nothing that the process' start time does not.
        disable_created_metrics()
        self.registry: CollectorRegistry = CollectorRegistry()
        self._wall = wall
        self._rate = Recent(1, RATE_SLOTS, RATE_SLOT_SECONDS, clock)
        self.reports: dict[str, ModelReport] = {}
        self.cold: dict[str, int] = {}
        """Matured labels of models whose newest snapshot is too young to score; stale once there is a report."""
        ProcessCollector(registry=self.registry)
        self._declare_events(clock)
        self._declare_delivery(clock)
        self._declare_models()
        self._declare_decisions()
        self._declare_worker(clock)

    def _declare_events(self, clock: Clock) -> None:
        tally, spread = self._tally, self._spread
        self.events = tally(
            "events", "Records done with, by role (unknown if not decoded) and result.", "role", "result"
        )
        self.late = tally("late", "Events behind the watermark; they are scored too.")
        self.dead_letters = tally("dead_letters", "Records sent to the dead-letter topic.", "reason")
        self.unknown_fields = tally("unknown_fields", "Fields that the contract does not know, dropped.")
        self.unknown_categories = tally(
            "unknown_consent_categories", "Categories in the consent of Segment calls that stand for no purpose."
        )
        self.consents = tally("consents", "Privacy requests that granted or withdrew consent.")
        self.denials = tally("consent_denials", "Events forgotten because consent is missing.")
        self.catalogue = tally("catalogue_records", "Records of the catalogue, by what came of them.", "result")
        self.batch_size = spread("batch_size", "Records in a batch.", clock, bounds=SIZES)
        self.stages = spread("stage_seconds", "Time that a batch spends in a stage.", clock, "stage", SHORT_SECONDS)
        self.latency = spread("event_latency_seconds", "From produced to committed in Redis, by event.", clock)
        self.end_to_end = spread("end_to_end_seconds", "From event produced to trigger acknowledged.", clock)
        self.events.prepare((role, result) for role in ROLES for result in RESULTS if result != "dead_letter")
        self.events.prepare([("unknown", "dead_letter")])
        self.catalogue.prepare((result,) for result in ("kept", "removed", "rejected"))
        self.dead_letters.prepare((reason,) for reason in REASONS)

    def _declare_delivery(self, clock: Clock) -> None:
        tally, level = self._tally, self._level
        self.lag = level("lag", "Records of the partition not yet committed.", "partition")
        self.watermark_delay = level("watermark_delay_seconds", "How far the watermark is behind.", "partition")
        self.rebalances = tally("rebalances", "Times that partitions were given out anew.")
        self.rebalance = self._spread(
            "rebalance_seconds", "Time that a phase of a rebalance takes, by phase.", clock, "phase", SHORT_SECONDS
        )
        for phase in REBALANCE_PHASES:
            self.rebalance.of(phase)
        self.fence_rejections = tally("fence_rejections", "Batches refused because another worker owns the partition.")
        self.redis = self._spread("redis_seconds", "Time that a call to Redis takes.", clock, "call", SHORT_SECONDS)
        self.outbox = level("outbox_entries", "Entries decided and not yet acknowledged by the broker.", "partition")
        self.outbox_sent = tally("outbox_sent", "Entries that the broker acknowledged.", "topic")
        self.transactions = self._spread("transaction_seconds", "Time from a transaction's begin to its commit.", clock)
        self.outbox_known = tally("outbox_known", "Entries left out because a transaction before had sent them.")
        self.outbox_parked = tally("outbox_parked", "Entries that the broker refused for good.")
        self.stale_triggers = tally("stale_triggers", "Triggers older than max_trigger_age at the drain, not sent.")

    def _declare_models(self) -> None:
        tally, level = self._tally, self._level
        self.sentiment_sources = tally(
            "sentiment_source", "Texts scored, by who answered and the level at which.", "source", "level"
        )
        self.sentiment_failures = tally(
            "sentiment_failures", "Texts that the transformer should have answered and the student did."
        )
        self.sentiment_level = level(
            "sentiment_level", "How much the transformer is asked: 0 about all English texts, to 4, about none."
        )
        self.sentiment_model = level("sentiment_model", "1 for each model that may answer.", "source", "version")
        self.sentiment_labels = tally("sentiment_label", "Texts scored, by label.", "label")
        self.cache_ratio = level("sentiment_cache_ratio", "Share of texts answered from the cache, since the start.")
        self.state_losses = tally("state_losses", "Partitions whose state was gone from Redis when they were acquired.")
        self.relearns = tally("relearns", "Times that a missing snapshot made the examples be learned from the start.")
        self.examples = tally("examples", "Examples written for the learners.", "stage", "label")
        self.log_loss = level("model_log_loss", "Log-loss on matured labels, in nats.", "model")
        self.calibration = level("model_calibration_ratio", "Predicted over observed positives; 1 is right.", "model")
        self.ece = level("model_ece", "Expected calibration error, 0 to 1.", "model")
        self.auc = level("model_auc", "Area under the ROC curve, 0 to 1.", "model")
        self.champion = level("model_champion", "1 for the contestant that is in use.", "model", "contestant")
        self.contestant_log_loss = level(
            "model_contestant_log_loss", "Log-loss that a contestant would have got, in nats.", "model", "contestant"
        )
        self.contestant_calibration = level(
            "model_contestant_calibration_ratio", "What a contestant predicted over what came.", "model", "contestant"
        )
        self.drifts = level("model_drifts", "Changes found in what the champion gets wrong.", "model")
        self.drift_severity = level(
            "model_drift_severity", "How much the mean residual moved at the last drift, 0 to 1.", "model"
        )
        self.shifts = level("model_shifts", "Changes found in the rows that a model is asked about.", "model")
        self.psi = level("model_psi", "Highest population stability index of a feature; above 0.25 it moved.", "model")
        self.sampling_rate = level("model_sampling_rate", "Share of the negatives that is learned from.", "model")
        self.model_version = level("model_version", "Examples offset that the loaded snapshot includes.", "model")
        self.model_age = level("model_age_seconds", "Time since the loaded snapshot was published.", "model")
        self.cache_ratio.follow(self._share_cached)
        self.sentiment_level.set(math.nan)
        self.sentiment_labels.prepare((label,) for label in SENTIMENT_LABELS)
        self.examples.prepare((stage, label) for stage in get_args(ExampleStage) for label in ("0", "1"))

    def _declare_decisions(self) -> None:
        self.triggers = self._tally("triggers", "Triggers decided, by rule and variant.", "rule", "variant")
        self.suppressed = self._tally("suppressed", "Triggers that a rule wanted and something forbade.", "reason")

    def _declare_worker(self, clock: Clock) -> None:
        lags = "How much later than asked the event loop wakes a sleeper."
        self.loop_lag = self._spread("event_loop_lag_seconds", lags, clock, bounds=SHORT_SECONDS)
        self.busy = self._level("busy_ratio", "Share of the last second that the event loop's thread spent on a CPU.")
        self.paused = self._level("paused", "1 while the worker is paused by this cause.", "cause")
        self.show_pauses(())

    def _tally(self, name: str, text: str, *labels: str) -> Tally:
        return Tally(self.registry, f"nudge_{name}_total", text, labels)

    def _level(self, name: str, text: str, *labels: str) -> Level:
        return Level(self.registry, f"nudge_{name}", text, labels)

    def _spread(
        self, name: str, text: str, clock: Clock, label: str | None = None, bounds: tuple[float, ...] = SECONDS
    ) -> Spread:
        return Spread(self.registry, f"nudge_{name}", text, clock, label, bounds)

    def count_events(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Add a committed batch's records by (role, result); they make up `events_per_second` too."""
        self.events.add_all(counts)
        self._rate.row()[0] += sum(counts.values())

    @property
    def events_per_second(self) -> float:
        """Records done with a second, over the last five seconds."""
        return self._rate.rate()

    def observe_latency(self, seconds: ArrayLike) -> None:
        """Take a committed batch's latencies, produced to committed, shape (events,)."""
        self.latency.of().observe_all(seconds)

    def observe_end_to_end(self, seconds: ArrayLike) -> None:
        """Take the latencies of triggers just acknowledged, event produced to acknowledgement, shape (triggers,)."""
        self.end_to_end.of().observe_all(seconds)

    def count_sentiment(self, scored: Scored) -> None:
        """Add a committed batch's texts by who answered (`cache`, `transformer`, ...) at which level, and by label."""
        level = str(scored.level)
        self.sentiment_sources.add_all({(source, level): count for source, count in scored.answered.items()})
        self.sentiment_failures.add(scored.failures)
        self.sentiment_labels.add_all(Counter(found.label for found in scored.sentiments))

    def show_scorer(self, level: Callable[[], int], versions: Mapping[str, str]) -> None:
        """Show what scores texts: its level as of each scrape, and the version of each model by source."""
        self.sentiment_level.follow(level)
        for source, version in versions.items():
            self.sentiment_model.set(1, source, version)

    def _share_cached(self) -> float:
        answered = self.sentiment_sources.sum_by("source")
        texts = sum(answered.values())
        # Not a number rather than zero: an alert on a low share must not fire where there are no texts.
        return answered.get("cache", 0) / texts if texts else math.nan

    def set_partition(self, partition: int, *, lag: int, watermark_delay: float, outbox: int) -> None:
        """Show an owned partition: records not yet committed, seconds, and entries waiting."""
        name = str(partition)
        self.lag.set(lag, name)
        self.watermark_delay.set(watermark_delay, name)
        self.outbox.set(outbox, name)

    def forget_partition(self, partition: int) -> None:
        """Show a partition no longer: another worker has it, and two answers would be added up."""
        for level in (self.lag, self.watermark_delay, self.outbox):
            level.forget(str(partition))

    def set_model(self, report: ModelReport) -> None:
        """Show the snapshot that scores now."""
        self.reports[report.name] = report
        for level, value in (
            (self.log_loss, report.log_loss),
            (self.calibration, report.calibration_ratio),
            (self.ece, report.ece),
            (self.auc, report.auc),
            (self.psi, report.psi),
        ):
            if value is not None:
                level.set(value, report.name)
        for contestant, metrics in report.contestants.items():
            self.champion.set(contestant == report.champion, report.name, contestant)
            self.contestant_log_loss.set(metrics.get("log_loss", math.nan), report.name, contestant)
            self.contestant_calibration.set(metrics.get("calibration_ratio", math.nan), report.name, contestant)
        self.drifts.set(report.drifts, report.name)
        self.drift_severity.set(report.drift_severity, report.name)
        self.shifts.set(report.shifts, report.name)
        self.sampling_rate.set(report.sampling_rate, report.name)
        self.model_version.set(report.version, report.name)
        self.model_age.follow(lambda: self._wall() - report.published_at / 1000, report.name)

    def show_pauses(self, causes: Collection[str]) -> None:
        """Show which causes hold the worker now, and that the others do not."""
        for cause in CAUSES:
            self.paused.set(cause in causes, cause)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format 0.0.4."""
        text: Any = generate_latest(self.registry)
        return bytes(text)
