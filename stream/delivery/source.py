"""The batch source: one consumer in a group, a lane for each partition that the group gives to this worker.

Auto-commit is off and there is no automatic reset: where to read is always said by the fence. What the group is told
as committed offsets is a hint for those who watch lag, sent behind the work.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.structs import TopicPartition
from redis.asyncio import Redis

from stream.delivery.beginning import EARLIEST, Beginning, OnStateLoss, choose_beginning
from stream.delivery.connection import describe_connection
from stream.delivery.errors import PartitionsChanged
from stream.delivery.fence import Fence
from stream.delivery.lane import Lane
from stream.delivery.lineage import read_told
from stream.delivery.refusals import name_cause
from stream.delivery.seat import forget_name
from stream.delivery.session import Offer, SessionFactory
from stream.metrics import Metrics
from stream.settings import Settings
from stream.vitals import Vitals

log = logging.getLogger(__name__)

DRAIN_SHARE = 0.4
"""Share of the rebalance time-out in which all partitions that go must have gone."""

KEPT = 0.25
KEPT_SECONDS = 1.0
"""Of that share a quarter, at most so much, is kept for what follows the batches: fence, outbox and offsets."""

HINT_INTERVAL = 1.0


def divide_deadline(rebalance_timeout: float) -> tuple[float, float]:
    """Seconds that batches in flight have when their partitions go, and seconds more for all that follows them.

    >>> divide_deadline(20.0), divide_deadline(1.0)
    ((7.0, 1.0), (0.3, 0.1))
    """
    whole = DRAIN_SHARE * rebalance_timeout
    kept = min(KEPT * whole, KEPT_SECONDS)
    return round(whole - kept, 3), round(kept, 3)


class BatchSource(ConsumerRebalanceListener):  # type: ignore[misc]
    """Reads `topic` for the group `<app>-<name>` and puts its batches, as offers, before an agent."""

    def __init__(
        self,
        name: str,
        topic: str,
        settings: Settings,
        redis: Redis,
        put: Callable[[Offer], Awaitable[object]],
        open_session: SessionFactory,
        metrics: Metrics,
        vitals: Vitals,
        *,
        isolation_level: str = "read_uncommitted",
        seat: str | None = None,
        clear: Callable[[int, Fence], Awaitable[None]] | None = None,
        start_from: str = EARLIEST,
        on_state_loss: OnStateLoss = "replay",
        partitions: int | None = None,
    ) -> None:
        """`clear` deletes what a partition without a fence left behind; None where the fence is all there is.

        `seat` is the worker's stable name in the group, None for none; `partitions` is how many the topic must have,
        None for any number.
        """
        self.name = name
        self.consumer_group = f"{settings.app}-{name}"
        self.topic = topic
        self.settings = settings
        self.redis = redis
        self.put = put
        self.open_session = open_session
        self.metrics = metrics
        self.vitals = vitals
        self.isolation_level = isolation_level
        self.seat = seat
        self.clear = clear
        self.start_from, self.on_state_loss = start_from, on_state_loss
        self.partitions = partitions
        self.heartbeat = settings.kafka.heartbeat / 1000
        self.max_records = settings.batch.max_records
        self.on_log_mismatch = settings.on_log_mismatch
        self.lanes: dict[TopicPartition, Lane] = {}
        self.turns: defaultdict[TopicPartition, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Held by who reads a partition: one lane at a time, also where one that should have ended has not."""
        self._parting: list[Lane] = []
        self._finishing = False
        self.consumer: AIOKafkaConsumer
        self._hints: asyncio.Task[None] | None = None
        self._left = time.monotonic()

    async def start(self) -> None:
        """Join the group; lanes come and go with its assignments from now on."""
        kafka = self.settings.kafka
        self._left = time.monotonic()
        self.consumer = AIOKafkaConsumer(
            **describe_connection(self.settings),
            group_id=self.consumer_group,
            group_instance_id=self.seat,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=self.isolation_level,
            session_timeout_ms=kafka.session_timeout,
            heartbeat_interval_ms=kafka.heartbeat,
            rebalance_timeout_ms=kafka.rebalance_timeout,
            # Whether the position moves is judged by our own liveness check, back-pressure considered.
            max_poll_interval_ms=24 * 3_600_000,
            fetch_max_wait_ms=100,
            max_partition_fetch_bytes=2 * 1024 * 1024,
            retry_backoff_ms=100,
            metadata_max_age_ms=kafka.metadata_age,
        )
        self.consumer.subscribe([self.topic], listener=self)
        await self.consumer.start()
        self._hints = asyncio.create_task(self._hint(), name=f"hints {self.name}")

    async def finish(self) -> bool:
        """Finish the batches in flight and tell the group where we stand; nothing is begun from now on.

        False if one could not be finished in time, and will be read again.
        """
        self._finishing = True
        if self._hints is not None:
            self._hints.cancel()
            await asyncio.wait([self._hints])
            await self._tell()
        lanes = list(self.lanes.values())
        await self._end(list(self.lanes))
        return not any(lane.abandoned for lane in lanes)

    async def leave(self) -> None:
        """Leave the group. A rebalance under way can hold this up for as long as other members take."""
        forget_name(self.consumer)
        await self.consumer.stop()
        await self._end(list(self.lanes))
        if self._parting:
            # Their clients are closed next.
            await asyncio.wait([lane.task for lane in self._parting])
        self.vitals.resume("broker", f"hints {self.name}")

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Only pause and begin: heartbeats stand still while this runs."""
        partitions = list(assigned)
        self.metrics.rebalance.of("join").observe(time.monotonic() - self._left)
        self.consumer.pause(*partitions)
        for partition in partitions:
            if (former := self.lanes.pop(partition, None)) is not None:
                # Given again without having been taken away: two lanes would share what comes.
                former.abandon()
                self._parting.append(former)
            if not self._finishing:
                self.lanes[partition] = Lane(self, partition)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Let the batches in flight finish within the deadline that all share, then let go."""
        began = time.monotonic()
        partitions = [partition for partition in revoked if partition in self.lanes]
        # The offsets first, as they are now: the lanes go while they are told.
        await asyncio.gather(self._tell(), self._end(partitions))
        self._left = time.monotonic()
        if partitions:
            self.metrics.rebalances.add()
            self.metrics.rebalance.of("drain").observe(self._left - began)

    async def choose_beginning(self, partition: TopicPartition, start: int) -> Beginning:
        """Where a partition without a fence begins, whose first offset is `start`."""
        told = None
        if await self.consumer.committed(partition) is not None:
            # The consumer says nothing of the metadata.
            told = await read_told(self.settings, self.consumer_group, partition)
        begin = await choose_beginning(self.consumer, partition, start, self.start_from, self.on_state_loss, told)
        if told is not None:
            self.metrics.state_losses.add(1)
            log.error(
                "%s %d: Redis has lost its state, which reached offset %d; on_state_loss: %s, so it begins at %d",
                self.name, partition.partition, told.offset, self.on_state_loss, begin.offset,
            )  # fmt: skip
        return begin

    def check_partitions(self) -> None:
        """Raise `PartitionsChanged` if the topic is known to have another number of partitions than it must have."""
        numbers = self.consumer.partitions_for_topic(self.topic)
        if self.partitions is not None and numbers and len(numbers) != self.partitions:
            raise PartitionsChanged(
                f"topic {self.topic} has {len(numbers)} partitions now, and had {self.partitions}: people are looked "
                "for in the wrong one. Stop the producers; then go back to a topic with as many as before, or rebuild: "
                "point nudge at an empty Redis database and let it read the log again from its start"
            )

    def positions(self) -> dict[int, int]:
        """Next offset to read, by partition, of the lanes that are at work."""
        return {tp.partition: lane.position for tp, lane in self.lanes.items() if lane.position is not None}

    def lags(self) -> dict[int, int]:
        """Records between position and high watermark, by partition, as far as a fetch has told it."""
        found = {}
        for tp, lane in self.lanes.items():
            high = self.consumer.highwater(tp) if tp in self.consumer.assignment() else None
            if high is not None and lane.position is not None:
                found[tp.partition] = max(high - lane.position, 0)
        return found

    async def _end(self, partitions: list[TopicPartition]) -> None:
        """Stop lanes, and wait for those too that a rebalance is stopping."""
        self._parting += [self.lanes.pop(partition) for partition in partitions]
        work, kept = divide_deadline(self.settings.kafka.rebalance_timeout / 1000)
        await asyncio.gather(*(lane.stop(work, kept) for lane in self._parting))
        self._parting = [lane for lane in self._parting if not lane.task.done()]

    async def _hint(self) -> None:
        while True:
            await asyncio.sleep(HINT_INTERVAL)
            await self._tell()
            await self._hear()

    async def _hear(self) -> None:
        """Hear of what went wrong in the group: until somebody has, the client does not try to join it again.

        A lane that reads hears of it; where there is none yet, nobody else would.
        """
        holder = f"group {self.name}"
        try:
            if not self.lanes:
                await self.consumer.getmany(timeout_ms=0)
        except KafkaError as error:
            log.warning("%s: the group: %r; trying again", self.name, error)
            self.vitals.pause(name_cause(error), holder)
            return
        for cause in ("broker", "forbidden"):
            self.vitals.resume(cause, holder)

    async def _tell(self) -> None:
        offsets = {
            tp: (lane.position, str(lane.lineage)) for tp, lane in self.lanes.items() if lane.position is not None
        }
        if not offsets:
            return
        try:
            # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the answer.
            async with asyncio.timeout(2.0):
                await self.consumer.commit(offsets)
        except CommitFailedError as error:
            log.debug("%s: offsets not told: %r", self.name, error)
        except (KafkaError, TimeoutError) as error:
            log.debug("%s: offsets not told: %r", self.name, error)
            self.vitals.pause("broker", f"hints {self.name}")
            return
        self.vitals.resume("broker", f"hints {self.name}")
