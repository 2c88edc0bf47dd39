"""A worker whose score agents raise now and then, before and after their work, and who tells of its host's rebalances.

Run as a module in place of `nudge worker`. What it disturbs is Faust's side alone: what the agents do with an offer,
not what becomes of it.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterable
from typing import Any

from stream import app
from stream.delivery.session import Offer
from stream.settings import load_settings

numbers = itertools.count(1)
build_faust = app.build_faust


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


if __name__ == "__main__":
    app.work_offers = work_roughly
    app.build_faust = build_talking_faust
    app.run_worker(load_settings())
