"""A worker's stable name in its groups: by it the broker gives a worker that was killed and is back its old place.

The name is made of the host's and of a seat's number, the lowest one free on this host. A seat is held by a socket
that the system lets go when its process ends, however it ends, so a worker that is started again gets its own back.
"""

from __future__ import annotations

import re
import socket
import sys
from typing import Final

from aiokafka import AIOKafkaConsumer

SEATS: Final = 1_000
LONGEST: Final = 200
"""Characters of a host's name that are kept; with its end the broker takes no more than 249."""


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
