"""A worker with something wrong in it, run as a module in place of `nudge worker`; the argument says what.

`agents`: the score agents raise now and then, before and after their work, and the host tells of its rebalances. Only
what an agent does with an offer is disturbed, not what becomes of it. `dies before send`, `dies before commit`, `dies
before trim`: it kills itself at the third outbox entries that were written and not sent, transaction that was sent and
not committed, or that was committed and not trimmed. `poison`: a stage fails at events whose type is
`poison`. `deadly`, `endless`, `asleep`: there the stage kills its process, loops for ever, or sleeps in C and lets no
other thread run. `texts`: the scorer never returns from the text `poison`. `unloaded`: the transformer never is there.
`broken`: a stage fails at every event. `ahead`: the outbox' clock is two hours ahead. `loading`: each group
answers the first time that a member asks for its part that it is being loaded. `confused`: the second time, the host's
aside, something that no client expects.
`host`: no worker at all, but a second host that joins the first one's group and leaves it, again and again.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import GroupLoadInProgressError
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest

from models.sentiment import cascade
from models.sentiment.transformer import Sentiment
from stream import app, process
from stream.agents import learn, score
from stream.broker.membership import FENCED_INSTANCE
from stream.delivery import outbox
from stream.delivery.outbox import Drain
from stream.delivery.session import Offer
from stream.metrics import Metrics
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


def fail(event: Any) -> None:
    raise ZeroDivisionError(f"secret of {event.user_id}")


def end(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def loop(_: Any) -> None:
    while True:
        pass


def sleep(_: Any) -> None:
    # Unlike time.sleep, and unlike what ctypes.CDLL calls, this keeps the interpreter's lock.
    ctypes.PyDLL(None).sleep(1_000)


HARM = {"poison": fail, "deadly": end, "endless": loop, "asleep": sleep, "broken": fail}


def advance_unless_poisoned(harm: Callable[[Any], None], everything: bool) -> Any:
    def advance_roughly(person: Any, event: Any, *rest: Any) -> None:
        if everything or event.type == "poison":
            harm(event)
        advance(person, event, *rest)

    return advance_roughly


def build_slow_reader(*_: Any) -> Any:
    """A scorer that is never done with one text."""
    # What the reference imports would hold up the other kinds of worker.
    from tests.unit.reference import WordScorer

    class SlowReader(WordScorer):
        def score_many(self, texts: Sequence[str], langs: Sequence[str | None] | None = None) -> list[Sentiment]:
            if "poison" in texts:
                time.sleep(1_000)
            return super().score_many(texts, langs)

    return SlowReader()


def read_clock_ahead(read: Callable[..., Awaitable[Callable[[], float]]]) -> Callable[..., Awaitable[Any]]:
    async def read_ahead(redis: Any) -> Callable[[], float]:
        clock = await read(redis)
        return lambda: clock() + 2 * 3_600

    return read_ahead


def load_for_ever(*_: Any) -> Any:
    time.sleep(1_000)


def die_at_third(function: Callable[..., Awaitable[Any]], *, after: bool = False) -> Callable[..., Awaitable[Any]]:
    """`function`, which ends the process by SIGKILL when it is called, or has returned, for the third time."""
    calls = itertools.count(1)

    async def die(*arguments: Any) -> Any:
        last = next(calls) == 3
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = await function(*arguments)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return die


def refuse(
    send: Callable[..., Awaitable[Any]], kind: type[Any], error: int, which: int
) -> Callable[..., Awaitable[Any]]:
    """`send`, which answers with an error when a member asks in this way for the time `which`."""
    asked: Counter[Any] = Counter()

    async def send_or_fail(coordinator: Any, request: Any) -> Any:
        answer = await send(coordinator, request)
        if isinstance(request, kind):
            asked[coordinator] += 1
            if asked[coordinator] == which:
                return SimpleNamespace(error_code=error)
        return answer

    return send_or_fail


def fail_to_seal(snapshot: Any, key: bytes) -> bytes:
    """A learner that opens, learns, and fails each time it is to publish."""
    raise ArithmeticError("a bug")


async def join_and_leave(settings: Settings) -> None:
    while True:
        host = build_faust(settings)
        app.add_catalogue(host, settings.topics.items, connect_redis(settings), Metrics())
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
    if "dies before send" in sys.argv:
        Drain._send = die_at_third(Drain._send)  # type: ignore[method-assign, assignment]
    if "dies before commit" in sys.argv:
        AIOKafkaProducer.commit_transaction = die_at_third(AIOKafkaProducer.commit_transaction)
    if "dies before trim" in sys.argv:
        AIOKafkaProducer.commit_transaction = die_at_third(AIOKafkaProducer.commit_transaction, after=True)
    if "unsealed" in sys.argv:
        learn.seal = fail_to_seal
    if "texts" in sys.argv:
        app.Cascade = build_slow_reader  # type: ignore[assignment,misc]
    if "unloaded" in sys.argv:
        cascade.Transformer.load = load_for_ever  # type: ignore[method-assign]
    if "loading" in sys.argv:
        loading = GroupLoadInProgressError.errno
        GroupCoordinator._send_req = refuse(GroupCoordinator._send_req, SyncGroupRequest, loading, 1)
    if "replaced" in sys.argv:
        GroupCoordinator._send_req = refuse(GroupCoordinator._send_req, SyncGroupRequest, FENCED_INSTANCE, 2)
    if "outrun" in sys.argv:
        GroupCoordinator._send_req = refuse(GroupCoordinator._send_req, JoinGroupRequest, FENCED_INSTANCE, 2)
    if "ahead" in sys.argv:
        score.read_clock = read_clock_ahead(score.read_clock)  # type: ignore[assignment]
        outbox.read_clock = read_clock_ahead(outbox.read_clock)  # type: ignore[assignment]
    for name in HARM.keys() & set(sys.argv):
        features.advance = advance_unless_poisoned(HARM[name], name == "broken")
    process.run_worker(load_settings())
