"""Every option of nudge: from `NUDGE_*` environment variables over `nudge.yaml` over the defaults below.

`load_settings` builds the one typed object that is passed down; nothing else reads the environment. All problems are
reported at once, each with its field, what was found and, where it came from the file, its line. Durations are
milliseconds inside and `500ms`, `30s`, `15m`, `6h` or `7d` outside.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from schemas.event import Role
from schemas.privacy import Purpose

UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
MARGIN: Final = 7 * 86_400_000
"""Examples are kept at least this much longer than the longest window."""
FOREIGN: Final = frozenset({"NUDGE_CONFIG", "NUDGE_DATA", "NUDGE_TOOLS"})
"""Variables with our prefix that are no settings."""


class BadSettings(Exception):
    """The configuration can't be used; the message lists every problem, one a line."""


def parse_duration(value: object) -> int:
    """Turn `15m` into 900000; whole numbers are milliseconds already.

    >>> parse_duration("15m"), parse_duration(250)
    (900000, 250)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ValueError("not a duration; write 500ms, 30s, 15m, 6h or 7d")
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", value)
    if match is None:
        raise ValueError(f"not a duration: {value!r}; write 500ms, 30s, 15m, 6h or 7d")
    if len(match[1]) > 15:
        raise ValueError(f"not a duration anybody waits for: {value[:20]}...")
    return round(float(match[1]) * UNITS[match[2] or "ms"])


Duration = Annotated[int, BeforeValidator(parse_duration), Field(ge=0, le=36_525 * 86_400_000)]
"""Milliseconds, at most a hundred years."""


class Section(BaseModel):
    """A part of the settings: frozen, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Topics(Section):
    """Topic names, and how they are made where they are missing."""

    events: str = Field("marketing.events.v1", description="in: events, keyed by user id")
    privacy: str = Field("marketing.privacy.v1", description="in: consent requests; the ledger, kept for ever")
    items: str = Field("marketing.items.v1", description="in: the item catalogue, keyed by item id")
    recommendations: str = Field("marketing.recommendations.v1", description="out: triggers, keyed by user id")
    examples: str = Field("marketing.examples.v1", description="internal: what the learners learn from")
    dead_letters: str = Field("marketing.events.v1.dlq", description="out: records that can't be used, as they came")
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

    bootstrap: str = Field("", description="host:port, several separated by commas")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    username: str | None = Field(None, description="for SASL")
    password: SecretStr | None = Field(None, description="for SASL")
    ca_file: Path | None = Field(None, description="certificates that the brokers' are checked against")
    session_timeout: Duration = Field(6_000, ge=500, description="a worker not heard of for so long is taken as gone")
    heartbeat: Duration = Field(800, ge=50, description="how often a worker is heard of; at most a third of the above")
    rebalance_timeout: Duration = Field(
        20_000, ge=1_000, description="what a rebalance may take; batches in flight get two fifths of it"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heartbeat * 3 > self.session_timeout:
            raise ValueError(
                f"heartbeat is {self.heartbeat} ms: over a third of session_timeout, {self.session_timeout} ms"
            )
        if self.security_protocol.startswith("SASL") and not (self.username and self.password):
            raise ValueError(f"security_protocol {self.security_protocol} needs username and password")
        return self


class Redis(Section):
    """How to reach Redis (or Valkey)."""

    url: str = Field("", description="redis://host:port/db, rediss:// for TLS")
    timeout: Duration = Field(3_000, ge=50, description="of a connection and of a call")


class Batch(Section):
    """How much is taken at once."""

    max_records: int = Field(2_000, ge=1, le=10_000, description="in a batch")
    cached_people: int = Field(100_000, ge=100, description="people kept in memory per worker")
    closings_per_event: int = Field(16, ge=1, le=1_000, description="windows that one event may close")
    max_event_bytes: int = Field(65_536, ge=256, description="larger records are dead-lettered")


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


class Outcome(Section):
    """One yes/no outcome that is learned: which roles open a window, which fulfil it, how long it is."""

    name: str = Field("conversion", pattern=r"^[a-z][a-z0-9_]{0,63}$", description="of the model too")
    opened_by: tuple[Role, ...] = Field(("exposure", "conversion"), description="roles that open a window")
    fulfilled_by: tuple[Role, ...] = Field(
        ("conversion",), description="roles that fulfil it, in another session and, after an exposure, of its campaign"
    )
    window: Duration = Field(parse_duration("30d"), ge=1_000, description="how long a fulfilment counts")
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


class Recommend(Section):
    """What the recommender learns from."""

    roles: tuple[Role, ...] = Field(("intent", "conversion"), description="events whose items are learned")


class Models(Section):
    """Snapshots of what the learners know."""

    snapshot_key: SecretStr | None = Field(None, description="signs snapshots; the same for every worker")
    snapshot_interval: Duration = Field(1_000, ge=50, description="how often a learner publishes at most")
    reload_interval: Duration = Field(500, ge=20, description="how often a worker looks for newer ones")
    keep: int = Field(16, ge=2, description="newest snapshots kept, beside one an hour")
    pinned: int | None = Field(None, description="score with this version for ever; for comparisons")


class Sentiment(Section):
    """The scorer of texts."""

    enabled: bool = Field(True, description="off: texts are not scored")
    folder: Path | None = Field(None, description="model.onnx, tokenizer.json, meta.json; the shipped model if unset")
    cache: int = Field(50_000, ge=0, description="texts whose score is remembered")


class Http(Section):
    """Where /metrics, /health and the live page are served."""

    host: str = Field("127.0.0.1", description="address to serve on")
    port: int = Field(6066, ge=0, le=65_535, description="0 takes a free one")
    token: SecretStr | None = Field(None, description="asked for by /v1; without one /v1 is off")
    reveal: bool = Field(False, description="show user ids on the live page; for data that name nobody")


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
    outbox: Outbox = Outbox()
    consent: Consent = Consent()
    models: Models = Models()
    sentiment: Sentiment = Sentiment()
    recommend: Recommend = Recommend()
    http: Http = Http()
    clock: Literal["log", "event"] = Field(
        "log", description="what `now` is: record times, or event times for old logs"
    )
    lateness: Duration = Field(parse_duration("5m"), description="how far the watermark stays behind")
    future_tolerance: Duration = Field(parse_duration("5m"), description="event time over record time; log clock only")
    idle_after: Duration = Field(parse_duration("30s"), description="then a quiet partition closes what is due")
    partitioner: Literal["murmur2", "crc32"] = Field(
        "murmur2", description="of the producers: murmur2 (Java, aiokafka) or crc32 (librdkafka)"
    )
    on_log_mismatch: Literal["pause", "earliest"] = Field(
        "pause", description="when the log is not the one that the fence knows: wait, or begin at its start"
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
    outcomes: tuple[Outcome, ...] = (Outcome(),)
    rules: tuple[AnyRule, ...] = Field(DEFAULT_RULES, max_length=200)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="of the log, on stderr")

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [f"{kind} {name!r} is there twice" for kind, name in _repeated(self)]
        known = {outcome.name for outcome in self.outcomes}
        problems += [
            f"rule {rule.name!r} looks at outcome {rule.outcome!r}; there are {sorted(known)}"
            for rule in self.rules
            if isinstance(rule, ScoreRule) and rule.outcome not in known
        ]
        longest = max((outcome.window for outcome in self.outcomes), default=0) + MARGIN
        if 0 < self.topics.retention_examples < longest:
            problems.append(
                f"topics.retention_examples is below the longest outcome window and 7 days: set {longest // 1000}s"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

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
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=find_file())


def _repeated(settings: Settings) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for kind, names in (("outcome", [o.name for o in settings.outcomes]), ("rule", [r.name for r in settings.rules])):
        found += [(kind, name) for name in sorted(set(names)) if names.count(name) > 1]
    return found


def find_file() -> Path:
    """Path of the configuration file: `NUDGE_CONFIG`, else `nudge.yaml` here. It need not exist."""
    return Path(os.environ.get("NUDGE_CONFIG", "nudge.yaml"))


def load_settings(**overrides: Any) -> Settings:
    """Build the settings; `overrides` win over the environment, which wins over the file.

    Raises `BadSettings` with every problem: unknown variables, unknown fields, wrong values, a file that was asked for
    and is not there or is not YAML.
    """
    problems = [f"{name}: no such setting; remove it or correct its name" for name in _unknown_variables()]
    path = find_file()
    if "NUDGE_CONFIG" in os.environ and not path.is_file():
        problems.append(f"NUDGE_CONFIG: there is no file {path}")
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        lines = _LineFinder(path)
        problems += [_describe(dict(problem), lines) for problem in error.errors()]
    except (yaml.YAMLError, SettingsError, ValueError) as error:
        problems.append(f"{path}: {error}")
    if problems:
        raise BadSettings("\n".join(problems))
    return settings


def require_servers(settings: Settings) -> None:
    """Raise `BadSettings` unless a broker, a Redis and a key for snapshots are named, as every worker needs."""
    problems = []
    if not settings.kafka.bootstrap:
        problems.append("kafka.bootstrap: missing; set NUDGE_KAFKA_BOOTSTRAP=host:port")
    if not settings.redis.url:
        problems.append("redis.url: missing; set NUDGE_REDIS_URL=redis://host:port")
    if settings.models.snapshot_key is None:
        problems.append(
            "models.snapshot_key: missing; set NUDGE_MODELS_SNAPSHOT_KEY for every worker alike (openssl rand -hex 32)"
        )
    if problems:
        raise BadSettings("\n".join(problems))


def _unknown_variables() -> list[str]:
    known = set(FOREIGN)
    for name, field in Settings.model_fields.items():
        known.add(f"NUDGE_{name}".upper())
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            known |= {f"NUDGE_{name}_{inner}".upper() for inner in field.annotation.model_fields}
    return sorted(name for name in os.environ if name.startswith("NUDGE_") and name not in known)


def _describe(problem: dict[str, Any], lines: _LineFinder) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "settings"
    line = lines.find(problem["loc"])
    found = problem.get("input")
    # An unknown field may be a misspelt secret.
    silent = isinstance(found, dict | Section) or problem["type"] in ("missing", "extra_forbidden")
    shape = "" if silent else f" (found {_shape(where, found)})"
    return f"{where}: {problem['msg']}{shape}{f', line {line}' if line else ''}"


def _shape(where: str, found: object) -> str:
    """What was found, but never a secret."""
    if re.search("pas|key|secret|token|redis|url|cred", where):
        return type(found).__name__
    return f"{found!r:.80}"


class _LineFinder:
    """Lines of `nudge.yaml` by path of keys."""

    def __init__(self, path: Path) -> None:
        self.root = yaml.compose(path.read_text()) if path.is_file() else None

    def find(self, location: tuple[int | str, ...]) -> int | None:
        """Line (from 1) of the deepest node that the path reaches; None if the file does not hold its first key."""
        node, line = self.root, None
        for part in location:
            child = _step(node, part)
            if child is None:
                # A discriminated union adds its tag to the path; the file has no such level.
                continue
            line, node = child
        return line


def _step(node: yaml.Node | None, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        value = node.value[part]
        return value.start_mark.line + 1, value
    return None
