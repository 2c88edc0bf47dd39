"""Can the broker lead consumer groups yet? A fresh one can't: the topic that this needs is made at the first question.

Clients that join a group before that log errors about it, although all is well a second later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
)

from stream.broker.connection import Connection
from stream.broker.topics import open_admin

logger = logging.getLogger(__name__)

PAUSE_S: Final = 0.1
NOT_YET: Final = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)


async def await_coordinators(
    bootstrap: str, groups: Sequence[str], *, timeout_s: float = 20.0, connection: Connection | None = None
) -> bool:
    """Return True once somebody leads each of `groups`, or False after `timeout_s`, with a warning.

    Raises BrokerError when no broker answers.
    """
    try:
        async with asyncio.timeout(timeout_s), open_admin(bootstrap, connection) as admin:
            for group in groups:
                await _await_leader(admin, group)
    except TimeoutError:
        logger.warning("broker: not all groups are led after %g s (%s); going on", timeout_s, ", ".join(groups))
        return False
    return True


async def _await_leader(admin: AIOKafkaAdminClient, group: str) -> None:
    while True:
        if await _is_led(admin, group):
            return
        await asyncio.sleep(PAUSE_S)


async def _is_led(admin: AIOKafkaAdminClient, group: str) -> bool:
    """Whether the group's leader is named, and says of itself that it is; other refusals are for the group's members.

    The broker names one before that one has read what it must know.
    """
    try:
        responses = await admin.describe_consumer_groups([group])
    except KafkaError as error:
        return not isinstance(error, NOT_YET)
    codes = {described[0] for response in responses for described in response.groups}
    return not codes & {error.errno for error in NOT_YET}
