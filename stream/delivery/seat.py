"""A worker's stable name in its groups: by it the broker gives a worker that was killed and is back its old place.

The name is made of the host's and of a seat's number, the lowest one free on this host. A seat is held by a socket
that the system lets go when its process ends, however it ends, so a worker that is started again gets its own back.

Hosts may have the same name, and a name may be set. Two processes of one name put each other out of their groups for
ever, and no broker tells them: they find each other in Redis.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import socket
import sys
import uuid
from typing import Final, NoReturn

from aiokafka import AIOKafkaConsumer
from redis.asyncio import Redis
from redis.exceptions import RedisError

from stream.vitals import Vitals

log = logging.getLogger(__name__)

SEATS: Final = 1_000
LONGEST: Final = 200
"""Characters of a host's name that are kept; with its end the broker takes no more than 249."""

WATCH_SECONDS: Final = 2.0
"""Between two looks at whether another process goes by the same name."""

SHOWN: Final = 5
"""Looks that another process is remembered for: both write, and do not see each other in each of them."""

KEPT_SECONDS: Final = 60


class Seat:
    """The name `name`, this process' own until it ends or calls `leave`."""

    def __init__(self, name: str, holder: socket.socket | None = None) -> None:
        self.name = name
        self._holder = holder

    def leave(self) -> None:
        """Let others have it."""
        if self._holder is not None:
            self._holder.close()


def forget_name(consumer: AIOKafkaConsumer) -> None:
    """Have `consumer` leave its group when it is stopped next.

    The client keeps the place of one that has a name; but who is told to stop may not come back, and others wait.
    """
    coordinator = consumer._coordinator
    if coordinator is not None:
        coordinator._group_instance_id = None


def take_seat(app: str, asked: str, host: str | None = None) -> Seat | None:
    """The seat of a worker of `app`. `asked` is a name, or `auto` for one by host and number, or `none`.

    None also where `auto` can't tell whether a number is taken. Names in the network's own namespace are used, not
    files: containers that share a host's name share its network, and the other way round.
    """
    if asked != "auto":
        return None if asked == "none" else Seat(asked)
    if sys.platform != "linux":
        return None
    name = re.sub(r"[^a-zA-Z0-9._-]", "-", host or socket.gethostname())[:LONGEST]
    for number in range(SEATS):
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            holder.bind(f"\0nudge/{app}/{number}")
        except OSError:
            holder.close()
        else:
            return Seat(f"{name}-{number}", holder)
    return None


async def watch_seat(redis: Redis, name: str, vitals: Vitals) -> NoReturn:
    """Name it as a pause of this worker while another process goes by `name` too.

    Each process writes a token of its own again and again. Only one that is at work now can have written another over
    it, twice: the token of one that was here before was read with the first, or comes with an older copy of Redis.
    """
    token, key = uuid.uuid4().hex, f"seat:{name}"
    ours, seen, named = False, 0, False
    while True:
        try:
            found = await redis.set(key, token, ex=KEPT_SECONDS, get=True)
        except (RedisError, OSError):
            # Named by those who need Redis for their work.
            await asyncio.sleep(WATCH_SECONDS)
            continue
        if ours and found not in (None, token.encode()):
            if seen and not named:
                log.error(
                    "another process is %s too, and each puts the other out of their groups: "
                    "give every worker a kafka.instance_id of its own, or its host another name",
                    name,
                )
                vitals.pause("name", name)
                named = True
            seen = SHOWN
        elif seen:
            seen -= 1
            if not seen and named:
                vitals.resume("name", name)
                named = False
        ours = True
        # Two in step would each read its own.
        await asyncio.sleep(random.uniform(0.5, 1.5) * WATCH_SECONDS)
