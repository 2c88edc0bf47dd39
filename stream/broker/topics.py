"""The topics that nudge needs: created where they are missing, described for who wants to check them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from stream.broker.connection import REQUEST_TIMEOUT_MS, BrokerError, Connection


class TopicSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as it should be created. `retention_ms` -1 keeps records for ever; `replication` -1 is the broker's."""

    name: str
    partitions: int
    cleanup: Literal["delete", "compact"] = "delete"
    retention_ms: int = -1
    timestamp_type: Literal["CreateTime", "LogAppendTime"] = "CreateTime"
    replication: int = -1


class TopicState(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as the broker describes it; None where it does not tell. What is described need not be honoured."""

    partitions: int
    cleanup: str | None
    retention_ms: int | None
    timestamp_type: str | None


async def ensure_topics(
    bootstrap: str, topics: Sequence[TopicSpec], *, timeout_s: float = 10.0, connection: Connection | None = None
) -> dict[str, int]:
    """Create the topics that are missing, and wait until all can be used; topic -> its actual number of partitions.

    Existing topics are left as they are, whatever their settings. Several workers may do this at once. Raises
    BrokerError when no broker answers, a topic is refused, or is not there after `timeout_s`.
    """
    async with open_admin(bootstrap, connection, timeout_s) as admin:
        there = await _partitions(admin)
        missing = [spec for spec in topics if spec.name not in there]
        if missing:
            await _create(admin, missing)
        return await _await_topics(admin, [spec.name for spec in topics], timeout_s)


async def describe_topics(
    bootstrap: str, names: Sequence[str], *, connection: Connection | None = None
) -> dict[str, TopicState]:
    """How the broker describes each of `names`; those that do not exist are left out, and not created either.

    Raises BrokerError when no broker answers.
    """
    async with open_admin(bootstrap, connection) as admin:
        there = await _partitions(admin)
        found = [name for name in names if name in there]
        configs = await _configs(admin, found)
        return {name: _state(there[name], configs.get(name, {})) for name in found}


@asynccontextmanager
async def open_admin(
    bootstrap: str, connection: Connection | None, timeout_s: float = REQUEST_TIMEOUT_MS / 1000
) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client for questions to the broker; raises BrokerError when none answers."""
    admin = AIOKafkaAdminClient(
        bootstrap_servers=bootstrap,
        request_timeout_ms=min(REQUEST_TIMEOUT_MS, round(timeout_s * 1000)),
        **(connection or {}),
    )
    try:
        try:
            await admin.start()
        except KafkaError as error:
            raise BrokerError(f"no Kafka broker answers at {bootstrap}: {error}") from error
        yield admin
    finally:
        await admin.close()


async def _partitions(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Topic -> number of partitions, for all topics: to ask for one by name creates it where that is automatic.

    Left out are topics that are not ready: some partition has no leader yet.
    """
    return {
        topic["topic"]: len(topic["partitions"])
        for topic in await admin.describe_topics()
        if topic["partitions"] and all(partition["leader"] >= 0 for partition in topic["partitions"])
    }


async def _create(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> None:
    response = await admin.create_topics([_new_topic(spec) for spec in specs])
    for name, code, message in response.topic_errors:
        # Another worker may have been faster, or the topic was there and had no leader for a moment.
        if code not in (0, TopicAlreadyExistsError.errno):
            raise BrokerError(f"topic {name} was not created: {message or for_code(code).__name__}")


def _new_topic(spec: TopicSpec) -> NewTopic:
    return NewTopic(
        spec.name,
        spec.partitions,
        spec.replication,
        replica_assignments={} if spec.replication == -1 else None,  # aiokafka wants exactly one of the two to be set
        topic_configs={
            "cleanup.policy": spec.cleanup,
            "retention.ms": str(spec.retention_ms),
            "message.timestamp.type": spec.timestamp_type,
        },
    )


async def _await_topics(admin: AIOKafkaAdminClient, names: Sequence[str], timeout_s: float) -> dict[str, int]:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        there = await _partitions(admin)
        missing = [name for name in names if name not in there]
        if not missing:
            return {name: there[name] for name in names}
        if asyncio.get_running_loop().time() > deadline:
            raise BrokerError(f"not ready after {timeout_s:g} s: {', '.join(missing)}")
        await asyncio.sleep(0.05)


async def _configs(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Topic -> option -> value; a topic that is refused has no options."""
    if not names:
        return {}
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    return {
        name: {option: value for option, value, *_ in entries}
        for response in responses
        for _code, _message, _type, name, entries in response.resources
    }


def _state(partitions: int, options: Mapping[str, str]) -> TopicState:
    retention = options.get("retention.ms")
    return TopicState(
        partitions=partitions,
        cleanup=options.get("cleanup.policy"),
        retention_ms=None if retention is None else int(retention),
        timestamp_type=options.get("message.timestamp.type"),
    )
