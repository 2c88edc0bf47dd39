"""Composition root: settings in, a running worker out. Nothing else builds objects.

Faust is the host: it runs the agents, the catalogue's consumer and the engine's services. What must not be lost comes
through the batch sources, which put their batches before the agents' channels.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from aiohttp import web
from aiokafka.errors import InvalidSessionTimeoutError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from models.lifecycle.registry import Champions
from models.outcomes.features import SCHEMA
from models.outcomes.learner import WARM
from models.sentiment import Cascade, WeightsError
from models.sentiment.levels import LOWEST
from schemas.trigger import RecommendationTrigger
from stream.agents.learn import Learning
from stream.agents.models import ModelLoader
from stream.agents.privacy import PrivacySession
from stream.agents.score import Scoring
from stream.agents.supervision import PersistentSupervisor
from stream.broker import TopicSpec, await_coordinators, describe_topics, ensure_topics, probe
from stream.delivery.connection import describe_security
from stream.delivery.fence import Fence
from stream.delivery.ledger import restore_consents
from stream.delivery.producer import Producer
from stream.delivery.seat import take_seat, watch_seat
from stream.delivery.session import Offer, Session, SessionFactory
from stream.delivery.source import BatchSource
from stream.delivery.transactions import name_group
from stream.desk import Desk
from stream.host import add_catalogue, build_faust, keep_place, leave_place, work_offers
from stream.metrics import Metrics
from stream.notes import Moment, Tide, say_waiting
from stream.servers import await_servers
from stream.settings import BadSettings, Settings, require_servers
from stream.stages.pipeline import Stages
from stream.state.client import call, check_cluster, connect_redis
from stream.state.keys import tag_events
from stream.state.partition import check_eviction, check_partitions, clear_partition
from stream.view import LiveView, PartitionView, build_view, list_items
from stream.vitals import Vitals, watch_loop
from stream.watchdog import Watchdog
from stream.web.server import WebService, build_app

log = logging.getLogger(__name__)

AGENT_NAMES: Final = {"events": "score", "examples": "learn", "privacy": "privacy"}
"""Source -> the agent that works its batches."""

DAY: Final = 86_400_000

GIVE_UP_SECONDS: Final = 4.0
"""How long a start that failed may take to end what it had begun."""

AGENTS_AT_ONCE: Final = 4
"""Partitions whose batches may be between the stages at the same time; their waits for Redis overlap."""


def list_topics(settings: Settings) -> list[TopicSpec]:
    """The topics of this installation, as they are made where they are missing."""
    topics = settings.topics
    stamp = "CreateTime" if settings.clock == "event" else "LogAppendTime"
    keep = topics.retention or -1

    def spec(name: str, partitions: int, **options: Any) -> TopicSpec:
        return TopicSpec(name=name, partitions=partitions, replication=topics.replication, **options)

    scored = [spec(topics.scored, topics.partitions, retention_ms=keep)] if settings.send_scores else []
    return [
        spec(topics.events, topics.partitions, retention_ms=keep, timestamp_type=stamp),
        spec(topics.privacy, 1),
        spec(topics.items, 1, cleanup="compact"),
        spec(topics.recommendations, topics.partitions, retention_ms=keep),
        spec(topics.examples, 1, retention_ms=topics.retention_examples or -1),
        spec(topics.dead_letters, 1, retention_ms=keep),
        *scored,
    ]


async def find_topics(settings: Settings) -> dict[str, int]:
    """Partition counts of the topics, made where they are missing and that is allowed; else raises `BadSettings`."""
    specs = list_topics(settings)
    bootstrap, security = settings.kafka.bootstrap, describe_security(settings)
    if settings.topics.create:
        return await ensure_topics(bootstrap, specs, connection=security)
    found = await describe_topics(bootstrap, [spec.name for spec in specs], connection=security)
    missing = [spec.name for spec in specs if spec.name not in found]
    if missing:
        raise BadSettings(f"topics.create is off and there is no topic {', '.join(missing)}: create them first")
    return {name: state.partitions for name, state in found.items()}


class Engine:
    """Everything that one worker process holds, from `start` to `stop`."""

    def __init__(self, settings: Settings) -> None:
        require_servers(settings)
        assert settings.models.snapshot_key is not None
        self.settings = settings
        self.key = settings.models.snapshot_key.get_secret_value().encode()
        self.metrics = Metrics()
        self.vitals = Vitals()
        self.redis: Redis = connect_redis(settings)
        self._opened = contextlib.AsyncExitStack()
        self._opened.push_async_callback(self.redis.aclose)
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="sentiment")
        self.champions = Champions(SCHEMA)
        self.started_at = int(time.time() * 1000)
        self.named: list[RecommendationTrigger] = []
        self.titles: dict[str, str] = {}
        self.tide = Tide()
        self.log_began: int | None = None
        self.desk: Desk | None = None
        self.watchdog: Watchdog | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.sources: list[BatchSource] = []
        self.joining = False
        """Whether the groups are joined: from then on partitions may be at work."""
        self.faust = build_faust(settings)
        add_catalogue(self.faust, settings.topics.items, self.redis, self.metrics)

    async def start(self) -> None:
        """Connect, check, and begin to work; raises what stops a start, with what to do about it."""
        try:
            await self._start()
        except BaseException:
            # What was started beside what failed has threads, which would keep the process for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GIVE_UP_SECONDS):
                    await (self.leave() if self.joining else self._opened.aclose())
            raise

    async def _start(self) -> None:
        settings = self.settings
        self.vitals.pause("start")
        bootstrap, security = settings.kafka.bootstrap, describe_security(settings)
        await await_servers(self.redis, bootstrap, security)
        await check_cluster(self.redis, settings)
        await check_eviction(self.redis)
        capabilities = await probe(bootstrap, connection=security)
        log.info("broker can do: %s", capabilities)
        if settings.output_guarantee == "exactly_once" and not capabilities.transactions:
            raise BadSettings(
                "output_guarantee: exactly_once needs a broker with transactions, and this one has none; "
                "set at_least_once, or use another broker"
            )
        partitions = await find_topics(settings)
        count = partitions[settings.topics.events]
        self.partitions, self.ledger = count, partitions[settings.topics.privacy]
        await check_partitions(self.redis, count, settings.partitioner)
        # A request must go where its person is, also when the topic has grown meanwhile.
        fixed = {settings.topics.events: count}
        self.producer = Producer(settings, idempotent=capabilities.idempotence, fixed=fixed)
        self._opened.push_async_callback(self.producer.stop)
        await self.producer.start()
        await self._prepare_scoring(count, partitions[settings.topics.examples])
        self._build_sources(
            "read_committed" if capabilities.transactions else "read_uncommitted",
            self._take_seat() if capabilities.static_membership else None,
        )
        self.web = WebService(self._build_web(), settings.http.host, settings.http.port)
        self._opened.push_async_callback(self.web.stop)
        try:
            await self.web.start()
        except OSError as error:
            raise BadSettings(f"http.port: {error.strerror}") from error
        self._spawn(watch_loop(self.vitals, self.metrics), self.loader.run(), self._watch())
        if self.desk is not None:
            self._open_desk(self.desk)
        if settings.batch.hang_after:
            self.watchdog = Watchdog(self.vitals, self.desk, settings.batch.hang_after / 1000)
            self.watchdog.start()
            self._opened.callback(self.watchdog.stop)
        self.faust.finalize()
        groups = [source.consumer_group for source in self.sources]
        if settings.output_guarantee == "exactly_once":
            groups.append(name_group(settings))
        await await_coordinators(bootstrap, [*groups, self.faust.conf.id], connection=security)
        self.joining = True
        try:
            await asyncio.gather(self.faust.start(), *(source.start() for source in self.sources))
        except InvalidSessionTimeoutError as error:
            raise BadSettings(
                f"kafka.session_timeout: the broker takes none of {settings.kafka.session_timeout} ms; its "
                "group.min.session.timeout.ms and group.max.session.timeout.ms say which it takes"
            ) from error
        self.vitals.resume("start")
        log.info("at work; live page at %s", self.web.url)

    async def finish(self) -> bool:
        """Finish what is in flight and begin nothing new; whether all that was worked on is committed then."""
        self.vitals.pause("shutdown")
        ends = await asyncio.gather(*(source.finish() for source in self.sources), return_exceptions=True)
        for error in ends:
            if isinstance(error, BaseException):
                raise error
        return all(ends)

    async def leave(self) -> None:
        """Leave the groups and disconnect; takes as long as the servers do, and changes nothing that counts."""
        leave_place(self.faust)
        await asyncio.gather(self.faust.stop(), *(source.leave() for source in self.sources), return_exceptions=True)
        if self.watchdog is not None:
            self.watchdog.stop()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._opened.aclose()
        self.executor.shutdown(wait=False, cancel_futures=True)

    async def _prepare_scoring(self, partitions: int, examples: int) -> None:
        settings = self.settings
        self.loader = ModelLoader(settings, self.redis, self.champions, self.key, examples, self.metrics)
        await self.loader.load()
        if self.loader.unsigned:
            raise BadSettings(
                f"models.snapshot_key: the snapshots of {', '.join(sorted(self.loader.unsigned))} in Redis are signed "
                "with another key; set that one, or delete the keys `snapshot*` to learn again"
            )
        if settings.models.pinned is not None and not self.loader.seen:
            raise BadSettings(f"models.pinned: there is no snapshot of version {settings.models.pinned} in Redis")
        if settings.sentiment.enabled:
            self.desk = self._build_desk()
        self.newest: deque[RecommendationTrigger] = deque(maxlen=12)
        self.scoring = Scoring(
            settings=settings,
            redis=self.redis,
            producer=self.producer,
            stages=Stages(settings, partitions, self.desk, self.executor),
            champions=self.champions,
            metrics=self.metrics,
            vitals=self.vitals,
            newest=self.newest,
        )

    def _build_desk(self) -> Desk:
        options = self.settings.sentiment
        try:
            self.cascade = Cascade(options.folder, options.student, options.cache, options.fixed_level or 0)
        except WeightsError as error:
            raise BadSettings(f"sentiment.student: {error}") from error
        return Desk(self.cascade, options.deadline / 1000 if options.fixed_level is None else None)

    def _open_desk(self, desk: Desk) -> None:
        """Load the transformer beside everything else: neither the start nor an event without text waits for it."""
        loop = asyncio.get_running_loop()

        def show() -> None:
            self.metrics.show_scorer(lambda: desk.level, self.cascade.versions)

        def load() -> None:
            desk.open()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(show)

        show()
        if self.settings.sentiment.fixed_level != LOWEST:
            # A daemon: no stop waits for it.
            threading.Thread(target=load, name="transformer", daemon=True).start()

    def _take_seat(self) -> str | None:
        seat = take_seat(self.settings.app, self.settings.kafka.instance_id)
        if seat is None:
            return None
        self._opened.callback(seat.leave)
        keep_place(self.faust, seat.name)
        log.info("in its groups this worker is %s", seat.name)
        self._spawn(watch_seat(self.redis, seat.name, self.vitals))
        return seat.name

    def _build_sources(self, isolation_level: str, seat: str | None) -> None:
        topics = self.settings.topics

        def find_lag(partition: int) -> int:
            return examples.lags().get(partition, 0)

        learning = Learning(self.settings, self.redis, self.key, self.metrics, find_lag)

        def open_privacy(partition: int, fence: Fence) -> Session:
            return PrivacySession(self.settings, self.redis, self.producer, partition, fence, self.metrics)

        async def clear(partition: int, fence: Fence) -> None:
            # A Redis that lost the fence may have lost this too.
            await check_partitions(self.redis, self.partitions, self.settings.partitioner)
            cleared = await clear_partition(self.redis, tag_events(partition), fence)
            if cleared:
                log.error("partition %d had no fence but %d keys, deleted: the log is read again", partition, cleared)
            if fence.next:
                people = await restore_consents(
                    self.settings, self.redis, partition, fence, of=self.partitions, ledger=self.ledger
                )
                log.info("partition %d: decisions of %d people read back from the ledger", partition, people)

        # What a producer aborted was never said, in any topic.
        reader = {"isolation_level": isolation_level, "seat": seat}
        self._source(
            "events",
            topics.events,
            self.scoring.open,
            clear=clear,
            start_from=self.settings.start_from,
            on_state_loss=self.settings.on_state_loss,
            partitions=self.partitions,
            **reader,
        )
        examples = self._source("examples", topics.examples, learning.open, **reader)
        self._source("privacy", topics.privacy, open_privacy, **reader)

    def _source(self, name: str, topic: str, open_session: SessionFactory, **options: Any) -> BatchSource:
        channel = self.faust.channel(value_type=Offer)
        source = BatchSource(
            name, topic, self.settings, self.redis, channel.put, open_session, self.metrics, self.vitals, **options
        )
        at_once = AGENTS_AT_ONCE if name == "events" else 1
        self.faust.agent(
            channel, name=AGENT_NAMES[name], concurrency=at_once, supervisor_strategy=PersistentSupervisor
        )(work_offers)
        self.sources.append(source)
        return source

    def _build_web(self) -> web.Application:
        token = self.settings.http.token
        secret = token.get_secret_value() if token else None
        return build_app(self.metrics, self.vitals, self.view, secret, reveal=self.settings.http.reveal)

    def view(self) -> LiveView:
        """What the live page shows now."""
        sessions = self.scoring.sessions
        lags = self.sources[0].lags()
        return build_view(
            self.metrics,
            self.vitals,
            at=int(time.time() * 1000),
            started_at=self.started_at,
            window_days=self.settings.outcomes[0].window / DAY if self.settings.outcomes else 0,
            triggers=self.named,
            titles=self.titles,
            notes=self._list_notes(),
            partitions=[
                PartitionView(
                    partition=number,
                    mine=True,
                    next=session.fence.next,
                    outbox=len(session.drain.waiting),
                    lag=lags.get(number),
                )
                for number, session in sorted(sessions.items())
            ],
        )

    def _list_notes(self) -> list[str]:
        """Why a model is silent, and why lag grows, where that is so."""
        notes, log_now = [], self._read_log_clock()
        days = None if self.log_began is None or log_now is None else (log_now - self.log_began) / DAY
        for outcome in self.settings.outcomes:
            if outcome.name not in self.metrics.reports:
                matured = self.metrics.cold.get(outcome.name, 0)
                notes.append(say_waiting(outcome.name, matured, WARM, outcome.window / DAY, days))
        behind = self.tide.say()
        # Lag that a pause makes is explained by the pause.
        return [*notes, behind] if behind and not self.vitals.pauses() else notes

    def _read_log_clock(self) -> int | None:
        """The latest of the partitions' clocks (epoch ms); None before the first event."""
        return max((session.fence.clock for session in self.scoring.sessions.values()), default=0) or None

    def _spawn(self, *work: Coroutine[Any, Any, None]) -> None:
        self.tasks += [asyncio.create_task(one) for one in work]

    async def _watch(self) -> None:
        """Tell vitals and metrics twice a second where the partitions stand."""
        events = self.sources[0]
        while True:
            lags = events.lags()
            self.log_began = self.log_began or self._read_log_clock()
            moment = Moment(time.monotonic(), sum(lags.values()), self.metrics.events.total())
            self.tide.watch(moment, frozenset(lags))
            self.vitals.progress(sum(events.positions().values()), sum(lags.values()))
            for number, session in list(self.scoring.sessions.items()):
                fence = session.fence
                self.metrics.set_partition(
                    number,
                    lag=lags.get(number, 0),
                    watermark_delay=max(fence.clock - fence.watermark, 0) / 1000,
                    outbox=len(session.drain.waiting),
                )
            with contextlib.suppress(RedisError, OSError):
                await self._name_items()
            await asyncio.sleep(0.5)

    async def _name_items(self) -> None:
        """Look up the titles that the newest triggers' words need; only then are they shown."""
        newest = list(self.newest)
        wanted = {item for trigger in newest for item in list_items(trigger)}
        titles = {item: title for item, title in self.titles.items() if item in wanted}
        for item in wanted - titles.keys():
            title = await call(self.redis, "HGET", f"item:{item}", "title")
            if title is not None:
                titles[item] = title.decode()
        self.named, self.titles = newest, titles
