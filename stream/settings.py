"""Every option of nudge: from `NUDGE_*` environment variables over `nudge.yaml` over the defaults below.

`load_settings` builds the one typed object that is passed down; nothing else reads the environment. All problems are
reported at once, each with its field, what was found and where it stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    FilePath,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from models.outcomes.entrants import Entrant
from schemas.event import Role
from schemas.privacy import PURPOSES, Purpose
from stream.addresses import Brokers, RedisUrl
from stream.configuration import Variables, find_file, list_unknown, list_variables, name_variable, read_file
from stream.conflicts import Conflict, find_conflicts, find_missing
from stream.durations import Duration, Start, parse_duration
from stream.problems import Describer, join_problems, overlap, strike, suggest
from stream.rules import DEFAULT_ROLES, DEFAULT_RULES, AbandonedRule, AnyRule, Outcome, Rule, ScoreRule, Section

__all__ = [
    "AbandonedRule",
    "BadSettings",
    "Outcome",
    "Rule",
    "ScoreRule",
    "Section",
    "Settings",
    "Topics",
    "load_settings",
    "require_servers",
]


class BadSettings(Exception):
    """The configuration can't be used; the message lists every problem, one a line."""


TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]


class Topics(Section):
    """Topic names, and how they are made where they are missing."""

    events: TopicName = Field("marketing.events.v1", description="in: events, keyed by user id")
    privacy: TopicName = Field("marketing.privacy.v1", description="in: consent requests; the ledger, kept for ever")
    items: TopicName = Field("marketing.items.v1", description="in: the item catalogue, keyed by item id")
    recommendations: TopicName = Field("marketing.recommendations.v1", description="out: triggers, keyed by user id")
    scored: TopicName = Field("marketing.scored.v1", description="out: every event's scores, where send_scores is on")
    examples: TopicName = Field("marketing.examples.v1", description="internal: what the learners learn from")
    dead_letters: TopicName = Field(
        "marketing.events.v1.dlq", description="out: records that can't be used, as they came"
    )
    create: bool = Field(True, description="make missing topics at start; off, a missing one stops the start")
    partitions: int = Field(8, ge=1, le=10_000, description="of the events topic, when nudge creates it")
    replication: int = Field(1, ge=1, le=15, description="of topics that nudge creates")
    retention: Duration = Field(
        parse_duration("30d"), description="of the events topic, and of the topics nudge writes; 0 keeps for ever"
    )
    retention_examples: Duration = Field(
        parse_duration("60d"), description="at least the longest outcome window and 7 days; 0 keeps for ever"
    )


class Kafka(Section):
    """How to reach the brokers, and the group's clocks."""

    bootstrap: Brokers = Field("", description="host:port, several separated by commas")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    username: str | None = Field(None, description="for SASL")
    password: SecretStr | None = Field(None, description="for SASL")
    ca_file: FilePath | None = Field(None, description="certificates that the brokers' are checked against")
    cert_file: FilePath | None = Field(
        None, description="certificate that the brokers know this client by; with its key"
    )
    key_file: FilePath | None = Field(None, description="private key of that certificate, without a password")
    instance_id: str = Field(
        "auto",
        pattern=r"^[a-zA-Z0-9._-]{1,249}$",
        description="this worker's own stable name in its groups, where the broker honours such names: one that is "
        "killed and back within the session time-out stops nobody else. auto: by host and number; none: without",
    )
    session_timeout: Duration = Field(6_000, ge=500, description="a worker not heard of for so long is taken as gone")
    heartbeat: Duration = Field(800, ge=50, description="how often a worker is heard of; at most a third of the above")
    metadata_age: Duration = Field(
        parse_duration("30s"), ge=100, description="after so long the broker is asked again what its topics are"
    )
    rebalance_timeout: Duration = Field(
        20_000, ge=1_000, description="what a rebalance may take; partitions that go have two fifths of it to finish"
    )


class Redis(Section):
    """How to reach Redis (or Valkey)."""

    url: RedisUrl = Field("", description="redis://host:port/db, rediss:// for TLS")
    timeout: Duration = Field(3_000, ge=50, description="of a connection and of a call")
    cluster: bool = Field(False, description="the server at `url` is a node of a Redis Cluster; it tells the others")


class Batch(Section):
    """How much is taken at once."""

    max_records: int = Field(2_000, ge=1, le=10_000, description="in a batch")
    cached_people: int = Field(100_000, ge=100, description="people kept in memory per worker")
    closings_per_event: int = Field(16, ge=1, le=1_000, description="windows that one event may close")
    max_event_bytes: int = Field(65_536, ge=256, description="larger records are dead-lettered")
    hang_after: Duration = Field(
        60_000, description="a batch that stands still for so long ends the worker, stacks dumped; 0 never does"
    )


class Breaker(Section):
    """When a partition stops, because so many events crash that it can't be them."""

    in_a_row: int = Field(20, ge=1, le=10_000, description="crashes dead-lettered one after the other; then it pauses")
    window: int = Field(200, ge=1, le=10_000, description="last events of which the share below is taken")
    share: float = Field(0.5, gt=0, le=1, description="part of them that may be dead-lettered as crashes")
    retry_after: Duration = Field(1_000, ge=10, description="until one event is tried again, each time twice as long")
    retry_most: Duration = Field(60_000, ge=10, description="longest time between two tries")


class Outbox(Section):
    """What waits for the output topics."""

    max_entries: int = Field(20_000, ge=100, description="per partition; above it the partition pauses")
    max_trigger_age: Duration = Field(
        parse_duration("1h"), description="older triggers are counted as stale, not sent; 0 sends all"
    )
    max_entry_bytes: int = Field(900_000, ge=1_000, description="larger entries are parked, counted and passed")


class Consent(Section):
    """Which purposes must be granted before nudge does anything for a person."""

    mode: Literal["required", "optional"] = Field(
        "required", description="required: nothing is done for a person who has not granted; optional: unless withdrawn"
    )
    profile: Purpose = Field("personalisation", description="purpose that a profile needs")
    trigger: Purpose = Field("marketing", description="purpose that a trigger needs besides")
    categories: dict[str, Purpose] = Field(
        default_factory=lambda: {str(purpose): purpose for purpose in PURPOSES},
        description="category of Segment's consent object -> purpose it stands for, others are passed over; of several "
        "for one purpose all must be granted; replaces the default",
    )


class Recommend(Section):
    """What the recommender learns from."""

    roles: tuple[Role, ...] = Field(("intent", "conversion"), description="events whose items are learned")


class Models(Section):
    """Snapshots of what the learners know."""

    snapshot_key: SecretStr | None = Field(None, description="signs snapshots; the same for every worker")
    snapshot_interval: Duration = Field(1_000, ge=50, description="how often a learner publishes at most")
    sample_after: Duration = Field(
        30_000,
        ge=100,
        description="how far learning may fall behind, in time of its own, before it samples negatives",
    )
    entrants: tuple[Entrant, ...] = Field(
        (), description="trees that challenge the champion too, and cost much; boosting-wait needs LightGBM"
    )
    reload_interval: Duration = Field(500, ge=20, description="how often a worker looks for newer ones")
    keep: int = Field(16, ge=2, description="newest snapshots kept, beside one an hour")
    pinned: int | None = Field(None, description="score with this version for ever; for comparisons")


Level = Annotated[Literal["auto", "0", "1", "2", "3", "4"], BeforeValidator(str)]
"""A level of `models.sentiment.levels`, or none that is fixed; YAML has a number, a variable has text."""


class Sentiment(Section):
    """The scorer of texts."""

    enabled: bool = Field(True, description="off: texts are not scored")
    folder: Path | None = Field(
        None, description="the transformer's model.onnx, tokenizer.json, meta.json; the shipped one if unset"
    )
    student: Path | None = Field(None, description="the student's student.npz, meta.json; the shipped one if unset")
    level: Level = Field(
        "auto",
        description="how much the transformer is asked: 0 (about every English text), 1, 2, 3 or 4 (about none, the "
        "student alone), the same for all texts, so that a replay gives the same scores; auto: by load",
    )
    deadline: Duration = Field(
        100,
        ge=1,
        description="under level: auto, what the texts of a batch may take, waiting included; what takes longer lowers "
        "the level",
    )
    cache: int = Field(50_000, ge=0, description="texts whose score is remembered; 0 remembers none")

    @property
    def fixed_level(self) -> int | None:
        """The level of all texts; None where it follows the load."""
        return None if self.level == "auto" else int(self.level)


class Http(Section):
    """Where /metrics, /health and the live page are served."""

    host: str = Field("127.0.0.1", description="address to serve on")
    port: int = Field(6066, ge=0, le=65_535, description="0 takes a free one")
    token: SecretStr | None = Field(None, description="asked for by /v1; without one /v1 is off")
    reveal: bool = Field(False, description="show user ids on the live page; for data that name nobody")


class Settings(BaseSettings):
    """All options. `NUDGE_KAFKA_BOOTSTRAP` sets `kafka.bootstrap`; lists and mappings are written as JSON."""

    model_config = SettingsConfigDict(
        env_prefix="NUDGE_", env_nested_delimiter="_", env_nested_max_split=1, extra="forbid", frozen=True
    )

    app: str = Field("nudge", pattern=r"^[a-zA-Z0-9._-]{1,64}$", description="group ids begin with it")
    kafka: Kafka = Kafka()
    redis: Redis = Redis()
    topics: Topics = Topics()
    batch: Batch = Batch()
    breaker: Breaker = Breaker()
    outbox: Outbox = Outbox()
    consent: Consent = Consent()
    models: Models = Models()
    sentiment: Sentiment = Sentiment()
    recommend: Recommend = Recommend()
    http: Http = Http()
    output_guarantee: Literal["at_least_once", "exactly_once"] = Field(
        "at_least_once",
        description="of triggers, examples and dead letters; exactly_once for read_committed readers, where the broker "
        "has transactions",
    )
    clock: Literal["log", "event"] = Field(
        "log", description="what `now` is: record times, or event times for old logs"
    )
    lateness: Duration = Field(parse_duration("5m"), description="how far the watermark stays behind")
    future_tolerance: Duration | None = Field(
        None, description="how far event time may lie after record time; unset, 5m under clock: log, else no bound"
    )
    idle_after: Duration = Field(parse_duration("30s"), description="then a quiet partition closes what is due")
    partitioner: Literal["murmur2", "crc32"] = Field(
        "murmur2", description="of the producers: murmur2 (Java, aiokafka) or crc32 (librdkafka)"
    )
    on_log_mismatch: Literal["pause", "earliest"] = Field(
        "pause", description="when the log is not the one that the fence knows: wait, or begin at its start"
    )
    start_from: Start = Field(
        "earliest", description="where events are read from at the very first start: earliest, latest or a time"
    )
    on_state_loss: Literal["replay", "resume"] = Field(
        "replay", description="when Redis has lost a fence: read the log again, or go on where the group was"
    )
    profile_ttl: Duration = Field(
        parse_duration("400d"), ge=60_000, description="a person not seen for so long begins anew"
    )
    roles: dict[str, Role] = Field(
        default_factory=lambda: dict(DEFAULT_ROLES), description="event type -> what it means; replaces the default"
    )
    score_on: tuple[Role, ...] = Field(
        ("exposure", "click", "view", "intent", "conversion", "feedback"), description="events that are scored"
    )
    send_scores: bool = Field(False, description="send what was said of every event to topics.scored")
    outcomes: tuple[Outcome, ...] = (Outcome(),)
    rules: tuple[AnyRule, ...] = Field(DEFAULT_RULES, max_length=200)
    processes: int = Field(
        1,
        ge=1,
        le=256,
        description="that `nudge worker` runs, one a core and no more than partitions; each has a page of its own, on "
        "http.port and the ports after it",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="of the log, on stderr")

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Look for conflicts between settings also where some are wrong alone, so that all are told at once."""
        try:
            settings, errors = handler(data), list[ErrorDetails]()
        except ValidationError as error:
            errors = error.errors(include_url=False)
            settings = handler(strike(data, [each["loc"] for each in errors]))
        places = [each["loc"] for each in errors]
        conflicts = [each for each in cls._find_conflicts(settings) if not overlap(each, places)]
        if errors or conflicts:
            raise join_problems(cls.__name__, errors, conflicts)
        return settings

    @classmethod
    def _find_conflicts(cls, settings: Settings) -> Iterator[Conflict]:
        return find_conflicts(settings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over environment over file."""
        return init_settings, Variables(settings_cls), YamlConfigSettingsSource(settings_cls, yaml_file=find_file())


class FilelessSettings(Settings):
    """The settings without the file: what else is wrong where the file can't be read."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over environment."""
        return init_settings, Variables(settings_cls)


class WorkerSettings(Settings):
    """The settings with all that a worker can't do without."""

    @classmethod
    def _find_conflicts(cls, settings: Settings) -> Iterator[Conflict]:
        yield from find_missing(settings)
        yield from find_conflicts(settings)


def load_settings(**overrides: Any) -> Settings:
    """Build the settings; `overrides` win over the environment, which wins over the file.

    Raises `BadSettings` with every problem: unknown variables, unknown fields, wrong values, settings that do not go
    together, a file that was asked for and is not there or can't be read.
    """
    return _load(Settings, overrides)


def load_worker_settings(**overrides: Any) -> Settings:
    """Build the settings of a worker: as `load_settings`, and a broker, a Redis and a key for snapshots are named."""
    return _load(WorkerSettings, overrides)


def _load(model: type[Settings], overrides: dict[str, Any]) -> Settings:
    known = list_variables(Settings)
    unknown = list_unknown(known)
    problems = [f"{name}: {suggest(name, known)}" for name in unknown]
    text, broken = "", False
    try:
        text, twice = read_file(find_file())
        problems += twice
    except ValueError as error:
        problems.append(str(error))
        broken = True
    try:
        settings = (FilelessSettings if broken else model)(**overrides)
    except ValidationError as error:
        describer = Describer(Settings, text, os.environ)
        problems += [
            describer.describe(each)
            for each in error.errors(include_url=False)
            if not (broken and each["type"] == "conflict")
            # Told already by its variable.
            and (name_variable(each["loc"]) not in unknown or describer.holds(each["loc"]))
        ]
    if problems:
        raise BadSettings("\n".join(problems))
    return settings


def require_servers(settings: Settings) -> None:
    """Raise `BadSettings` unless a broker, a Redis and a key for snapshots are named, as every worker needs."""
    if missing := list(find_missing(settings)):
        raise BadSettings("\n".join(f"{'.'.join(map(str, each.about[0]))}: {each.text}" for each in missing))
