"""What is wrong between settings that are each right alone: two topics of one name, a rule on an outcome that is not.

Settings in, conflicts out, each with every setting that it is about; the first of them is where it is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from models.lifecycle.snapshot import KEY_BYTES
from stream.durations import spell_duration

if TYPE_CHECKING:
    from stream.settings import Settings

Location = tuple[int | str, ...]
"""Path of a setting: `("rules", 1, "name")`."""

MARGIN: Final = 7 * 86_400_000
"""Examples are kept at least this much longer than the longest window."""
TOPICS: Final = ("events", "privacy", "items", "recommendations", "scored", "examples", "dead_letters")
"""Settings under `topics` that name one."""


class Conflict(NamedTuple):
    """Settings that do not go together, and why."""

    about: tuple[Location, ...]
    text: str


def find_conflicts(settings: Settings) -> Iterator[Conflict]:
    """Every conflict, in the order of the settings."""
    yield from _check_kafka(settings)
    yield from _check_redis(settings)
    yield from _check_topics(settings)
    yield from _check_names("outcome", [outcome.name for outcome in settings.outcomes])
    yield from _check_names("rule", [rule.name for rule in settings.rules])
    yield from _check_rules(settings)
    yield from _check_outcomes(settings)
    if settings.http.port and settings.http.port + settings.processes > 65_536:
        text = f"{settings.processes} processes need as many ports from {settings.http.port} on"
        yield Conflict((("http", "port"), ("processes",)), text)


def find_missing(settings: Settings) -> Iterator[Conflict]:
    """What every worker needs and nobody can guess: a broker, a Redis and a key for snapshots."""
    if not settings.kafka.bootstrap:
        yield Conflict((("kafka", "bootstrap"),), "missing; set NUDGE_KAFKA_BOOTSTRAP=host:port")
    if not settings.redis.url:
        yield Conflict((("redis", "url"),), "missing; set NUDGE_REDIS_URL=redis://host:port")
    key = settings.models.snapshot_key
    if key is None or len(key.get_secret_value().encode()) < KEY_BYTES:
        found = "missing" if key is None else f"shorter than {KEY_BYTES} bytes"
        yield Conflict(
            (("models", "snapshot_key"),),
            f"{found}; set NUDGE_MODELS_SNAPSHOT_KEY for every worker alike (openssl rand -hex 32)",
        )
    if "boosting-wait" in settings.models.entrants and find_spec("lightgbm") is None:
        text = "boosting-wait needs LightGBM: pip install 'nudge-stream[trees]', or leave it out"
        yield Conflict((("models", "entrants"),), text)


def _check_kafka(settings: Settings) -> Iterator[Conflict]:
    kafka = settings.kafka
    if kafka.heartbeat * 3 > kafka.session_timeout:
        yield Conflict(
            (("kafka", "heartbeat"), ("kafka", "session_timeout")),
            f"{spell_duration(kafka.heartbeat)} is over a third of kafka.session_timeout, "
            f"{spell_duration(kafka.session_timeout)}",
        )
    if kafka.security_protocol.startswith("SASL") and not (kafka.username and kafka.password):
        yield Conflict(
            (("kafka", "security_protocol"), ("kafka", "username"), ("kafka", "password")),
            f"{kafka.security_protocol} needs kafka.username and kafka.password",
        )
    if (kafka.cert_file is None) != (kafka.key_file is None):
        yield Conflict(
            (("kafka", "cert_file"), ("kafka", "key_file")), "a certificate goes with its key; set both or neither"
        )


def _check_redis(settings: Settings) -> Iterator[Conflict]:
    database = urlsplit(settings.redis.url).path.strip("/")
    if settings.redis.cluster and database not in ("", "0"):
        yield Conflict((("redis", "url"), ("redis", "cluster")), f"a cluster has no database {database}, only 0")


def _check_topics(settings: Settings) -> Iterator[Conflict]:
    names = {name: getattr(settings.topics, name) for name in TOPICS}
    for position, (name, topic) in enumerate(names.items()):
        for earlier in TOPICS[:position]:
            if names[earlier] == topic:
                yield Conflict(
                    (("topics", name), ("topics", earlier)),
                    f"topics.{earlier} is {topic!r} too; every topic needs a name of its own",
                )
                break
    kept = settings.topics.retention_examples
    longest = max((outcome.window for outcome in settings.outcomes), default=0)
    if 0 < kept < longest + MARGIN:
        yield Conflict(
            (("topics", "retention_examples"), *(("outcomes", n, "window") for n in range(len(settings.outcomes)))),
            f"{spell_duration(kept)} is too short: the longest outcome window is {spell_duration(longest)}, and "
            f"{spell_duration(MARGIN)} more are needed. Set {spell_duration(longest + MARGIN)} or more",
        )


def _check_names(kind: str, names: list[str]) -> Iterator[Conflict]:
    for position, name in enumerate(names):
        if name in names[:position]:
            first = (f"{kind}s", names.index(name), "name")
            yield Conflict(((f"{kind}s", position, "name"), first), f"{kind} {name!r} is there twice")


def _check_outcomes(settings: Settings) -> Iterator[Conflict]:
    for position, outcome in enumerate(settings.outcomes):
        if outcome.after >= outcome.window:
            yield Conflict(
                (("outcomes", position, "after"), ("outcomes", position, "window")),
                f"nothing can fulfil outcome {outcome.name!r}: what comes within {spell_duration(outcome.after)} does "
                f"not count, and the window is {spell_duration(outcome.window)}",
            )


def _check_rules(settings: Settings) -> Iterator[Conflict]:
    known = sorted({outcome.name for outcome in settings.outcomes})
    names = [("outcomes", number, "name") for number in range(len(settings.outcomes))]
    for position, rule in enumerate(settings.rules):
        if rule.kind == "score" and rule.outcome not in known:
            yield Conflict(
                (("rules", position, "outcome"), *names),
                f"rule {rule.name!r} looks at outcome {rule.outcome!r}; there are {known}",
            )
