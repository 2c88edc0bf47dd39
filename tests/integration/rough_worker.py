"""A worker with something wrong in it, run as a module in place of `nudge worker`; the argument says what.

`agents`: the score agents raise now and then, before and after their work, and the host tells of its rebalances. Only
what an agent does with an offer is disturbed, not what becomes of it. `poison`: a stage fails at events whose type is
`poison`. `host`: no worker at all, but a second host that joins the first one's group and leaves it, again and again.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterable
from typing import Any

from stream import app, process
from stream.delivery.session import Offer
from stream.settings import Settings, load_settings
from stream.stages import features
from stream.state.client import connect_redis

numbers = itertools.count(1)
build_faust = app.build_faust
advance = features.advance


async def work_roughly(stream: AsyncIterable[Offer]) -> None:
    async for offer in stream:
        number = next(numbers)
        if number % 7 == 3:
            raise RuntimeError("raised on purpose, before the work")
        await offer.work()
        if number % 7 == 5:
            raise RuntimeError("raised on purpose, after the work")


def build_talking_faust(*arguments: Any) -> Any:
    faust = build_faust(*arguments)

    @faust.on_partitions_assigned.connect
    async def tell(*_: Any, **__: Any) -> None:
        print("rebalance of the host", flush=True)

    return faust


def advance_unless_poisoned(person: Any, event: Any, *rest: Any) -> None:
    if event.type == "poison":
        raise ZeroDivisionError(f"secret of {event.user_id}")
    advance(person, event, *rest)


async def join_and_leave(settings: Settings) -> None:
    while True:
        host = build_faust(settings)
        app.add_catalogue(host, settings.topics.items, connect_redis(settings))
        host.finalize()
        await host.start()
        await asyncio.sleep(1.0)
        await host.stop()


if __name__ == "__main__":
    if "host" in sys.argv:
        asyncio.run(join_and_leave(load_settings()))
    if "agents" in sys.argv:
        app.work_offers = work_roughly
        app.build_faust = build_talking_faust
    if "poison" in sys.argv:
        features.advance = advance_unless_poisoned
    process.run_worker(load_settings())
