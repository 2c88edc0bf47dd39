"""What a source's partition is worked by, from its acquisition to its loss, and how a batch reaches it.

A `Session` knows what is done with the records; the lane that owns it knows where they come from. Between the two
stands a Faust agent: a batch travels to it as an `Offer`, whose future the lane awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from stream.delivery.fence import Fence
from stream.stages.batch import Record


class Session(Protocol):
    """Work on one partition under one owner token. Any exception ends it; the partition is then acquired again."""

    fence: Fence
    """The fence as this session last wrote or acquired it."""

    async def open(self) -> int:
        """Read what is needed to go on; return the offset to read from, at most the fence's `next`.

        Raises `StateLost` where that is not there: the fence is then set back to the log's start.
        """

    async def handle(self, records: Sequence[Record]) -> None:
        """Make the records count, once, or raise and leave no trace."""

    async def idle(self) -> None:
        """Called now and then while no records come."""

    async def wait_for_room(self) -> None:
        """Return as soon as another batch may be decided."""

    async def close(self) -> None:
        """Give up: the partition is not this worker's any more, or is about to be acquired again."""


SessionFactory = Callable[[int, Fence], Session]
"""Makes the session of a partition that was just acquired with that fence."""


class Offer:
    """A batch on its way to a Faust agent, at most one a partition.

    A rebalance of Faust's own group clears the queues of its channels, and an agent that raises loses its item, both
    in silence; so the lane offers again whatever is neither done nor being worked on. The fence makes that safe.
    """

    def __init__(self, session: Session, records: Sequence[Record]) -> None:
        self.session = session
        self.records = records
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running = False

    async def work(self) -> None:
        """Called by the agent. Does nothing for a second copy; failures go to the lane, not to the agent."""
        if self.running or self.done.done():
            return
        self.running = True
        try:
            await self.session.handle(self.records)
        except Exception as error:
            if not self.done.done():
                self.done.set_exception(error)
        else:
            if not self.done.done():
                self.done.set_result(None)
        finally:
            self.running = False

    async def settle(self, put: Callable[[Offer], Awaitable[object]], patience: float) -> None:
        """Put this offer before the agent until it is done, again after `patience` seconds in which nobody took it."""
        try:
            while not self.done.done():
                await put(self)
                while True:
                    await asyncio.wait([self.done], timeout=patience)
                    if self.done.done() or not self.running:
                        break
            self.done.result()
        finally:
            # Whoever still holds a copy must not begin it after the lane has given up.
            self.done.cancel()
