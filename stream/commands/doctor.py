"""`nudge doctor`: looks at settings, broker, topics, Redis and model files, and says what to do.

Each server is asked on its own, so one that is away hides nothing of the other. A topic that is missing is named, not
created; only the broker's abilities are tried out, on a small topic for that purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiokafka.errors import KafkaError
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from stream.broker import BrokerError, describe_topics, probe
from stream.commands import CommandError
from stream.commands.checks import (
    Check,
    Layout,
    Topics,
    check_capabilities,
    check_layout,
    check_log,
    check_redis,
    check_settings,
    check_topics,
    name_wanted,
)
from stream.commands.connections import Heard, list_options, name_outages, name_redis, open_redis, quiet_kafka
from stream.commands.output import print_json, print_line, print_table
from stream.settings import BadSettings, Settings
from stream.state.client import ask_servers
from stream.state.partition import read_partitions


async def examine_broker(settings: Settings) -> tuple[list[Check], Topics | None]:
    """Checks of the broker, and the topics of the settings that are on it; None when it is away."""
    wanted = name_wanted(settings)
    try:
        connection = dict(list_options(settings))
        bootstrap = connection.pop("bootstrap_servers")
        # The probe brings a time-out of its own.
        connection.pop("request_timeout_ms")
        heard = Heard()
        with name_outages(settings, heard), quiet_kafka(heard):
            topics = await describe_topics(bootstrap, wanted, connection=connection)
    except (CommandError, BadSettings) as error:
        return [Check("broker", "fail", *_split(error))], None
    capabilities, stamps = await examine_capabilities(bootstrap, connection)
    checks = [
        Check("broker", "ok", bootstrap),
        capabilities,
        *check_topics(settings, topics),
        *check_log(settings, topics, stamps),
    ]
    return checks, topics


async def examine_capabilities(bootstrap: str, connection: Mapping[str, Any]) -> tuple[Check, bool]:
    """What the broker can do, and whether it stamps records; a warning where it does not let us find out."""
    try:
        with quiet_kafka():
            found = await probe(bootstrap, connection=connection)
    except (BrokerError, KafkaError) as error:
        advice = "let nudge create and write its probe topic"
        return Check("capabilities", "warn", f"not found out: {error}", advice), True
    return check_capabilities(msgspec.to_builtins(found)), found.log_append_time


async def examine_redis(settings: Settings) -> tuple[list[Check], Layout | None, bool]:
    """Checks of Redis, the layout that it keeps, and whether it was reached."""
    try:
        async with open_redis(settings) as redis:
            layout = await read_partitions(redis)
            server, memory, persistence = [
                await ask_servers(redis, "INFO", section) for section in ("server", "memory", "persistence")
            ]
            saves = await _read_saves(redis)
    except (CommandError, BadSettings) as error:
        return [Check("redis", "fail", *_split(error))], None, False
    version = server[0].get("valkey_version") or server[0].get("redis_version")
    nodes = f", {len(server)} nodes" if settings.redis.cluster else ""
    checks = [Check("redis", "ok", f"{name_redis(settings.redis.url)}, version {version}{nodes}")]
    for number, section in enumerate(memory):
        checks += check_redis(section, persistence[number], saves[number] if saves else None)
    return checks, layout, True


async def _read_saves(redis: Redis) -> list[str]:
    """The option `save` of every server; nothing where they do not tell."""
    try:
        return [found.get("save", "") for found in await ask_servers(redis, "CONFIG GET", "save")]
    except ResponseError:
        return []


def _split(error: Exception) -> tuple[str, str]:
    """What was found, and what to do, of a message that tells both."""
    found, _, advice = str(error).partition("; ")
    return found, advice


def examine_model(settings: Settings) -> Check:
    """Whether the sentiment models load: their files are there and are those that meta.json describes."""
    if not settings.sentiment.enabled:
        return Check("sentiment model", "ok", "off")
    from models.sentiment import Student, Transformer, WeightsError

    options = settings.sentiment
    try:
        student = Student.load(options.student).version
        return Check("sentiment model", "ok", f"version {Transformer.load(options.folder).version}, student {student}")
    except WeightsError as error:
        advice = "install the package again, correct sentiment.folder or sentiment.student, or set sentiment.enabled "
        advice += "to false"
        return Check("sentiment model", "fail", str(error), advice)


async def examine(settings: Settings) -> list[Check]:
    """Every check, in the order in which they are best mended."""
    broker, topics = await examine_broker(settings)
    redis, layout, reached = await examine_redis(settings)
    agreement = list(check_layout(settings, topics, layout)) if topics is not None and reached else []
    return [*broker, *redis, *agreement, examine_model(settings), *check_settings(settings)]


async def show_health(settings: Settings, *, as_json: bool = False) -> bool:
    """Print every check; False when one fails."""
    checks = await examine(settings)
    failed = sum(each.state == "fail" for each in checks)
    if as_json:
        print_json({"ok": not failed, "checks": msgspec.to_builtins(checks)})
        return not failed
    print_table(("check", "state", "found", "what to do"), [(e.check, e.state, e.found, e.advice) for e in checks])
    warned = sum(each.state == "warn" for each in checks)
    print_line(f"{failed} of {len(checks)} checks failed, {warned} warned" if failed or warned else "all is well")
    return not failed
