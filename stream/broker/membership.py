"""Does the broker honour static membership: does a member that comes back under its name take its old place at once?

Two clients join a group of their own under one name, by raw requests. A broker that honours the name cuts the first
one off as soon as the second has asked; others let both in, or have both wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import UnknownMemberIdError
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest

from stream.broker.coordinator import NOT_YET, PAUSE_S

ANSWER_S: Final = 0.6
"""How long a broker that honours names may take; it has nothing to wait for."""

HEAD_START_S: Final = 0.05
"""After which the first join has arrived, also where a broker holds it back."""

SESSION_MS: Final = 6_000
"""The shortest that brokers allow by default; after it nothing is left of the group."""

PROTOCOL: Final = [("range", bytes(10))]
"""A subscription to no topics."""

FENCED_INSTANCE: Final = 82
"""Another member has come under this name; the client has no class for it."""


async def replaces_twins(options: dict[str, Any], prefix: str) -> bool:
    """Whether of two members under one name the older is cut off at once.

    `options` are those of every client; `prefix` begins the group's name. Waits for as long as nobody leads the group;
    raises KafkaError.
    """
    group = f"{prefix}-{uuid.uuid4().hex}"
    async with _open(options) as older, _open(options) as newer:
        while True:
            with contextlib.suppress(*NOT_YET):
                node = await older.coordinator_lookup(CoordinationType.GROUP, group)
                if await _is_led(older, node, group):
                    return await _cuts_off(older, newer, node, group)
            await asyncio.sleep(PAUSE_S)


async def _is_led(client: AIOKafkaClient, node: int, group: str) -> bool:
    """Whether the group's leader answers for it: who is no member is unknown to it."""
    return int(await _beat(client, node, group, "nobody", 0)) not in {error.errno for error in NOT_YET}


async def _cuts_off(older: AIOKafkaClient, newer: AIOKafkaClient, node: int, group: str) -> bool:
    first = asyncio.create_task(_join(older, node, group))
    await asyncio.wait([first], timeout=HEAD_START_S)
    second = asyncio.create_task(_join(newer, node, group))
    try:
        async with asyncio.timeout(ANSWER_S):
            joined = await first
            if joined.error_code == FENCED_INSTANCE:
                return True
            # The place was the first one's; it is the second's when that is in.
            came = await second
            code = await _beat(older, node, group, joined.member_id, joined.generation_id)
            return came.error_code == 0 and code in (FENCED_INSTANCE, UnknownMemberIdError.errno)
    except TimeoutError:
        return False
    finally:
        for join in (first, second):
            join.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


async def _join(client: AIOKafkaClient, node: int, group: str) -> Any:
    request = JoinGroupRequest(group, SESSION_MS, SESSION_MS, "", "twin", "consumer", PROTOCOL)
    return await client.send(node, request, group=ConnectionGroup.COORDINATION)


async def _beat(client: AIOKafkaClient, node: int, group: str, member: str, generation: int) -> int:
    response = await client.send(node, HeartbeatRequest(group, generation, member))
    return int(response.error_code)


@asynccontextmanager
async def _open(options: dict[str, Any]) -> AsyncIterator[AIOKafkaClient]:
    client = AIOKafkaClient(**options)
    try:
        await client.bootstrap()
        yield client
    finally:
        await client.close()
