"""The demo from start to end: servers, worker, catalogue and consents, events, and the wait until all is worked off.

`play` owns the processes, `Replay` the time in which the worker runs. Whatever ends it (the log's end, Ctrl-C, a
failure), the worker and the servers are gone afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self, cast

import aiohttp
import msgspec
from redis.asyncio import Redis

from stream.broker import find_ends
from stream.commands import CommandError
from stream.commands.connections import list_options, open_consumer, open_redis, quiet_kafka
from stream.commands.output import print_json
from stream.commands.topic import find_partitions
from stream.demo.cast import Cast
from stream.demo.interrupts import Interrupts
from stream.demo.progress import PATIENCE_SECONDS, Meter, Patience, Progress, Standstill
from stream.demo.screen import Screen, choose_screen, open_browser, print_summary, say, tell_addresses
from stream.demo.servers import check_unused
from stream.demo.setting import build_settings, choose_overrides, write_environment
from stream.demo.summary import Summary, check_balance, collect_summary, describe_haste
from stream.demo.worker import COMMAND, WorkerProcess
from stream.embedded import Broker, Guard, ServerError, Servers, free_port, start_servers
from stream.produce import Record, produce
from stream.sample.log import SampleLog
from stream.settings import Settings, load_settings
from stream.view import LiveView

RATE: Final = 1_000.0
"""Events per second unless said otherwise: slow enough that decisions come at once, texts included, on two cores."""
TICK_SECONDS: Final = 0.1
VIEW_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for. `rate` None is no limit; `worker` is the command of the child process."""

    events: int | None = None
    rate: float | None = RATE
    as_json: bool = False
    browser: bool = False
    broker: Broker = "embedded"
    worker: Sequence[str] = COMMAND
    patience: float = PATIENCE_SECONDS

    @classmethod
    def of(cls, *, events: int | None, rate: float | None, as_json: bool, browser: bool, broker: str) -> Self:
        """Options of the command line, where a `rate` of None is the default and 0 no limit."""
        chosen = RATE if rate is None else rate or None
        kind = cast(Broker, broker)
        return cls(events=events, rate=chosen, as_json=as_json, browser=browser and not as_json, broker=kind)

    @property
    def ends(self) -> bool:
        """Whether it ends by itself when all is worked off."""
        return self.as_json or self.events is not None


def play(options: Options) -> int:
    """Run the demo and print what came of it; the exit code.

    Raises `KeyboardInterrupt` after Ctrl-C before the log's end, everything tidied up.
    """
    given = load_settings()
    bootstrap, url = given.kafka.bootstrap or None, given.redis.url or None
    if not (bootstrap and url):
        say(f"starting {'the embedded servers' if options.broker == 'embedded' else f'servers ({options.broker})'}")
    try:
        with start_servers(options.broker, kafka_bootstrap=bootstrap, redis_url=url) as servers, Guard() as guard:
            return _play(options, servers, guard)
    except ServerError as error:
        raise CommandError(str(error)) from error


def _play(options: Options, servers: Servers, guard: Guard) -> int:
    port = free_port()
    overrides = choose_overrides(servers, port)
    settings = build_settings(overrides)
    asyncio.run(check_unused(settings))
    interrupts = Interrupts()
    say("starting a worker")
    environment = write_environment(overrides, settings)
    worker = WorkerProcess(options.worker, environment, guard=guard, folder=guard.make_folder(), port=port)
    try:
        replay = Replay(options, settings, Cast(SampleLog.load(), options.events), worker)
        worker.wait_until_ready()
        tell_addresses(servers, worker.url)
        if options.browser:
            open_browser(worker.url)
        interrupts.end()
        try:
            asyncio.run(replay.run())
        except KeyboardInterrupt:
            if replay.summary is None:
                raise
    finally:
        worker.stop()
    return _report(replay, worker, options)


def _report(replay: Replay, worker: WorkerProcess, options: Options) -> int:
    """Print the summary, and on standard error what is wrong with it; the exit code."""
    assert replay.summary is not None
    errors = worker.list_errors()
    summary = msgspec.structs.replace(replay.summary, errors=len(errors))
    problems = [*replay.problems, *check_balance(summary), *(f"the worker's log: {line}" for line in errors)]
    haste = describe_haste(summary)
    if not options.as_json:
        print_summary(summary)
    for each in [*problems, *([haste] if haste else [])]:
        say(each)
    if options.as_json:
        print_json(summary.as_dict())
    return int(bool(problems))


class Replay:
    """Sends the cast to a ready worker and waits until it is done; afterwards `summary` and `problems` are there."""

    def __init__(self, options: Options, settings: Settings, cast: Cast, worker: WorkerProcess) -> None:
        self.summary: Summary | None = None
        self.problems: list[str] = []
        self._options, self._settings, self._cast, self._worker = options, settings, cast, worker
        self._patience = Patience(options.patience)
        self._view: LiveView | None = None
        self._sent = self._consents = 0
        self._seconds = 0.0

    async def run(self) -> None:
        """Replay; returns when all is worked off, or stays until cancelled if the options say so.

        Raises `CommandError` when worker or servers fail. A standstill becomes a problem beside the summary.
        """
        screen = choose_screen(self._worker.url, as_json=self._options.as_json)
        async with open_redis(self._settings) as redis:
            with quiet_kafka(), screen:
                async with self._watching(screen):
                    examples = await find_partitions(self._settings, self._settings.topics.examples)
                    meter = await Meter.open(redis, len(examples))
                    with self._bearing():
                        await self._introduce(meter, screen)
                        await self._send_events(meter)
                        await self._settle(meter)
                    self.summary = await self._collect(redis, meter)
                    if not self._options.ends and not self.problems:
                        screen.say("The log has ended and is worked off. Ctrl-C leaves.")
                        await self._stay()

    async def _introduce(self, meter: Meter, screen: Screen) -> None:
        """Catalogue and consents; these count from their place in the log, so the events wait for them."""
        topics = self._settings.topics
        screen.say("sending the catalogue and the consents")
        await self._produce(topics.items, self._cast.list_items())
        self._consents = await self._produce(topics.privacy, self._cast.list_consents())
        async for progress in self._poll(meter):
            found = progress.count("consents")
            if found >= self._consents:
                return
            self._patience.check(progress, f"{found:,} of {self._consents:,} consents have come into effect")

    async def _send_events(self, meter: Meter) -> None:
        """All events, and the wait until the last is accounted for."""
        began = time.monotonic()
        task = asyncio.create_task(
            self._produce(self._settings.topics.events, self._cast.list_events(), self._options.rate, self._note)
        )
        try:
            async for progress in self._poll(meter):
                self._seconds = time.monotonic() - began
                found = progress.accounted
                if task.done():
                    self._sent = task.result()
                    if found >= self._sent:
                        return
                self._patience.check(progress, self._say_owed(progress) if found < self._sent else None)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _note(self, acknowledged: int) -> None:
        self._sent = acknowledged

    def _say_owed(self, progress: Progress) -> str:
        return f"{progress.accounted:,} of {self._sent:,} events are accounted for ({progress.describe()})"

    async def _settle(self, meter: Meter) -> None:
        """Until the outboxes are empty and the learner has published all that was sent to it."""
        async for progress in self._poll(meter):
            if not progress.outbox:
                break
            self._patience.check(progress, f"{progress.outbox:,} entries wait in the outboxes")
        async with open_consumer(self._settings) as consumer:
            partitions = await find_partitions(self._settings, self._settings.topics.examples)
            end = sum((await find_ends(consumer, partitions)).values())
        async for progress in self._poll(meter):
            if progress.learned >= end:
                return
            owed = f"{progress.learned:,} of {end:,} records for the learners are in a published snapshot"
            self._patience.check(progress, owed)

    async def _collect(self, redis: Redis, meter: Meter) -> Summary:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with aiohttp.ClientSession() as session:
                self._view = await fetch_view(session, self._worker.url)
        return await collect_summary(
            redis,
            self._settings,
            await meter.read(),
            self._view,
            events_in=self._sent,
            consents=self._consents,
            seconds=self._seconds,
            examples_partitions=meter.examples,
        )

    async def _produce(
        self,
        topic: str,
        records: Iterable[Record],
        rate: float | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> int:
        client = list_options(self._settings)
        bootstrap = client.pop("bootstrap_servers")
        return await produce(
            records,
            bootstrap,
            topic,
            rate=rate,
            on_progress=on_progress,
            partitioner=self._settings.partitioner,
            client=client,
        )

    async def _poll(self, meter: Meter) -> AsyncIterator[Progress]:
        """Progress again and again, for as long as the worker runs; raises `WorkerFailed` when it does not."""
        while True:
            self._worker.check()
            yield await meter.read()
            await asyncio.sleep(TICK_SECONDS)

    async def _stay(self) -> None:
        while True:
            self._worker.check()
            await asyncio.sleep(VIEW_SECONDS)

    @contextlib.contextmanager
    def _bearing(self) -> Iterator[None]:
        """A standstill ends the block and is told at the end, beside the sums that it broke."""
        try:
            yield
        except Standstill as error:
            self.problems.append(str(error))

    @contextlib.asynccontextmanager
    async def _watching(self, screen: Screen) -> AsyncIterator[None]:
        """Show the worker's view twice a second during the block."""
        task = asyncio.create_task(self._show(screen))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _show(self, screen: Screen) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    view = await fetch_view(session, self._worker.url)
                    self._view = msgspec.structs.replace(view, events_in=self._sent)
                    screen.show(self._view)
                await asyncio.sleep(VIEW_SECONDS)


async def fetch_view(session: aiohttp.ClientSession, url: str) -> LiveView:
    """What the worker's page shows now. Raises `aiohttp.ClientError` or `TimeoutError`."""
    async with session.get(f"{url}live.json", timeout=aiohttp.ClientTimeout(5.0)) as response:
        response.raise_for_status()
        return msgspec.json.decode(await response.read(), type=LiveView)
