"""A lane: one assigned partition, from the assignment procedure through its batches to its loss.

Assigned, the partition is paused. The lane makes sure that it is still a member of the group (an offset commit, which
the coordinator refuses to others), takes the fence with a fresh token, makes sure once more, reads the last record
applied again to see that the log is the one the fence knows, and only then goes on at `next`. Whatever fails after
that (a refusal, a position that somebody moved, an error of Redis) ends the session, and the lane begins again from
the fence.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NoReturn

from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    KafkaTimeoutError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnknownMemberIdError,
)
from aiokafka.structs import TopicPartition
from redis.exceptions import RedisError

from stream.delivery.continuity import judge
from stream.delivery.errors import (
    BreakerOpen,
    LogMismatch,
    NotMember,
    OutOfStep,
    PartitionsChanged,
    Refused,
    StateLost,
)
from stream.delivery.fence import (
    CHOSEN,
    Fence,
    acquire_fence,
    check_fence,
    hash_record,
    open_fence,
    read_fence,
    reset_fence,
)
from stream.delivery.lineage import Lineage
from stream.delivery.refusals import BARRED, BARRING, name_cause
from stream.delivery.session import Offer, Session
from stream.stages.batch import Record
from stream.state.client import call
from stream.state.forms import UnknownState, check_form
from stream.state.keys import name_key, tag_source
from stream.vitals import Cause

if TYPE_CHECKING:
    from stream.delivery.source import BatchSource

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0

MEMBERSHIP_SECONDS = 5.0
"""How long the group's coordinator may take to say whether this worker is a member."""

POLL = 200
"""Milliseconds that one read waits for records."""

FRESH_SECONDS = 2.0
"""How old the broker's last answer may be if it is to say that nothing more lies in the log."""


class Lane:
    """Works one partition until it is stopped; `position` is the next offset to read."""

    def __init__(self, source: BatchSource, partition: TopicPartition) -> None:
        self.source = source
        self.partition = partition
        self.tag = tag_source(source.name, partition.partition)
        self.position: int | None = None
        self.lineage = Lineage()
        self.busy = asyncio.Lock()
        self.checked = time.monotonic()
        self.held: Cause | None = None
        """Why the last session ended, until the next one is open."""
        self.task = asyncio.create_task(self._run(), name=f"lane {source.name} {partition.partition}")
        self.task.add_done_callback(lambda _: self._hold(None))
        self.abandoned = False
        """Whether a batch was in flight when the lane had to end, and was cut off."""
        self._stopping: asyncio.Task[None] | None = None
        self._over = False
        self._turn = source.turns[partition]
        self._at: int | None = None
        """Where the client stood after the last seek or read of this lane."""

    async def stop(self, seconds: float, kept: float) -> None:
        """End the lane; a batch in flight may finish within `seconds`, counted from the first call.

        `kept` is for the rest: what has not ended by then ends behind our back, where the fence lets it do no harm.
        Who stops waiting does not stop the stop: the client cancels its rebalance callbacks when it is closed.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(seconds, kept), name=f"end of {self.task.get_name()}")
        await asyncio.shield(self._stopping)

    async def _stop(self, seconds: float, kept: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.busy.acquire()
        except TimeoutError:
            self.abandoned = True
            log.warning("%s %d: batch in flight abandoned", self.source.name, self.partition.partition)
        # A client that loses the cancellation must not make the lane live on.
        self._over = True
        self.task.cancel()
        await asyncio.wait([self.task], timeout=kept)
        # It holds from one session to the next, and ends with the last.
        self.source.vitals.resume("breaker", self.tag)

    def abandon(self) -> None:
        """End the lane at once, whatever it is at."""
        self._over = True
        self.task.cancel()

    @contextmanager
    def _pause(self, cause: Cause) -> Iterator[None]:
        """Name what holds this partition, for as long as it does."""
        self.source.vitals.pause(cause, self.partition)
        try:
            yield
        finally:
            self.source.vitals.resume(cause, self.partition)

    def _hold(self, cause: Cause | None) -> None:
        """Name what holds this partition until something else is named, or nothing."""
        if self.held not in (None, cause):
            self.source.vitals.resume(self.held, self.partition)
        if cause is not None:
            self.source.vitals.pause(cause, self.partition)
        self.held = cause

    def _say(self, cause: Cause, text: str) -> None:
        """Log why the session ended: an outage once, and not at each of the tries that it lasts for."""
        level = logging.DEBUG if cause == self.held else logging.WARNING
        log.log(level, "%s %d: %s", self.source.name, self.partition.partition, text)

    async def _run(self) -> None:
        while not self._over:
            cause: Cause = "assignment"
            wait = 0.0
            try:
                await self._work()
            except (Refused, NotMember, OutOfStep) as error:
                self.source.metrics.fence_rejections.add(1)
                log.warning("%s %d: %s", self.source.name, self.partition.partition, error)
                wait = 1.5 * self.source.heartbeat
            except LogMismatch as error:
                cause, wait = "log_mismatch", 5.0
                log.error("%s %d: %s", self.source.name, self.partition.partition, error)
            except PartitionsChanged as error:
                cause, wait = "partitions", 5.0
                log.error("%s %d: %s", self.source.name, self.partition.partition, error)
            except UnknownState as error:
                cause, wait = "state", 5.0
                log.error("%s %d: %s", self.source.name, self.partition.partition, error)
            except BreakerOpen as error:
                cause, wait = "breaker", error.wait
                log.error("%s %d: %s", self.source.name, self.partition.partition, error)
            except (RedisError, OSError) as error:
                cause, wait = "redis", random.uniform(0.05, 0.3)
                self._say(cause, f"Redis: {error}")
            except BARRED as error:
                cause, wait = name_cause(error), random.uniform(2.5, 5.0)
                self._say(cause, f"the broker forbids it: {error!r}")
            except KafkaError as error:
                cause, wait = "broker", random.uniform(0.2, 0.6)
                self._say(cause, f"broker: {error!r}")
            except Exception:
                cause, wait = "failure", 1.0
                log.exception("%s %d: unexpected failure, trying again", self.source.name, self.partition.partition)
            # What ended the session is taken as mended only when the next one is open.
            self._hold(cause)
            await asyncio.sleep(wait)

    async def _work(self) -> None:
        began = time.monotonic()
        with self._pause("assignment"):
            fence, start = await self._acquire()
            session = self.source.open_session(self.partition.partition, fence)
        try:
            with self._pause("assignment"):
                self.position = max(await self._open(session, fence, start), start)
                await self._seek(self.position)
            self.source.metrics.rebalance.of("acquire").observe(time.monotonic() - began)
            if self.held not in (*BARRING, "failure"):
                self._hold(None)
            await self._serve(session)
        finally:
            self.position = None
            await session.close()

    async def _acquire(self) -> tuple[Fence, int]:
        """Take the fence, for members of the group alone; with it comes the first offset of the log."""
        clear = self.source.clear
        self.source.check_partitions()
        fence = await read_fence(self.source.redis, self.tag)
        if fence is not None:
            # Before anything is touched: whoever can read it may be at work there.
            check_form(fence.form)
        start = await self._find_start()
        if fence is None:
            async with self._turn:
                begin, self.lineage = await self.source.choose_beginning(self.partition, start)
        else:
            begin, self.lineage = start, fence.lineage
            await self._check_membership(fence.next)
        # Without a fence nothing is told to the group yet: its offset would say, if this fails, that state was lost.
        last_hash: Literal["", "-"] = "" if begin == start else CHOSEN
        acquired = await acquire_fence(
            self.source.redis, self.tag, begin, clear=clear is not None, last_hash=last_hash, lineage=self.lineage
        )
        check_form(acquired.form)
        self.lineage = acquired.lineage
        await self._check_membership(acquired.next)
        if acquired.clearing and clear is not None:
            # Only under the token, or a worker that stalls here could delete what the next owner has made.
            await clear(self.partition.partition, acquired)
            acquired = await open_fence(self.source.redis, self.tag, acquired)
        return acquired, start

    async def _open(self, session: Session, fence: Fence, start: int) -> int:
        """Where to read from, once the session has what it needs and the log is the one that the fence knows."""
        try:
            position = await session.open()
        except StateLost as error:
            await self._verify(session, fence, start)
            log.error("%s: %s; made again from the log's start at %d", self.tag, error, start)
            await self._begin_anew(session, fence, start, another=False)
        await self._verify(session, fence, start)
        return position

    async def _find_start(self) -> int:
        return int((await self.source.consumer.beginning_offsets([self.partition]))[self.partition])

    async def _check_membership(self, offset: int) -> None:
        try:
            # The client would try for ever; not wait_for, as in `BatchSource`.
            async with asyncio.timeout(MEMBERSHIP_SECONDS):
                await self.source.consumer.commit({self.partition: (offset, str(self.lineage))})
        except TimeoutError as error:
            raise KafkaTimeoutError(f"no group coordinator answered in {MEMBERSHIP_SECONDS:g} s") from error
        except (CommitFailedError, UnknownMemberIdError, IllegalStateError) as error:
            raise NotMember(f"not a member of the group any more: {error}") from error

    async def _verify(self, session: Session, fence: Fence, start: int) -> None:
        """Return if the log is the one that the fence knows; else stop, or begin anew, by setting."""
        verdict, why = judge(fence, start)
        if verdict == "look":
            start, end, witness = await self._look(fence, start)
            verdict, why = judge(fence, start, end, witness)
        if verdict == "go_on":
            return
        if self.source.on_log_mismatch == "pause":
            raise LogMismatch(
                f"{why}; was the topic made anew? on_log_mismatch: earliest begins at its start and keeps the "
                "profiles. If it lost its end, what it still holds would count twice: nudge fence reset --to-latest "
                "goes on there"
            )
        log.error("%s: %s; beginning anew at %d, as configured", self.tag, why, start)
        await self._begin_anew(session, fence, start, another=verdict == "another")

    async def _begin_anew(self, session: Session, fence: Fence, start: int, *, another: bool) -> NoReturn:
        """Set the fence back to the log's start, and have the partition acquired again from there.

        What was decided of the old log is sent first: the outbox goes with its positions.
        """
        while await call(self.source.redis, "XLEN", name_key("outbox", self.tag)):
            now = await read_fence(self.source.redis, self.tag)
            if now is None or now.owner != fence.owner:
                raise Refused(fence.owner, fence.next, now.owner if now else None, now.next if now else None)
            # Who sends it may have ended: what became of a transaction is told to the next owner alone.
            await session.wait_for_room()
            await asyncio.sleep(0.05)
        await reset_fence(self.source.redis, self.tag, fence, start, another=another)
        raise Refused(fence.owner, fence.next, fence.owner, start, f"set back from {fence.next} to {start}")

    async def _look(self, fence: Fence, start: int) -> tuple[int, int | None, str | None]:
        """Start, end if it lies below the fence, and the hash of the record before `next` if there is one."""
        await self._seek(fence.next - 1)
        while True:
            try:
                records = await self._read(1)
            except LogMismatch:
                # Behind the end; or before the beginning, if that has moved meanwhile.
                return await self._find_start(), fence.next - 1, None
            high = self.source.consumer.highwater(self.partition)
            if high is not None and high < fence.next:
                return start, high, None
            if fence.last_hash == CHOSEN and high is not None:
                # Nobody read there, so that any record will do; and where transactions end there is none.
                return start, None, CHOSEN
            if records:
                return start, None, hash_record(records[0])

    async def _seek(self, offset: int) -> None:
        async with self._turn:
            self._check_turn()
            self.source.consumer.seek(self.partition, offset)
            self.source.consumer.resume(self.partition)
            self._at = offset

    def _check_turn(self) -> None:
        """Raise `OutOfStep` if this lane is to end: another may read its partition by now."""
        if self._over:
            raise OutOfStep("the lane is over")

    def _is_read_out(self) -> bool:
        """Whether the broker said just now that nothing lies behind what was read, in open transactions neither."""
        consumer = self.source.consumer
        high, asked = consumer.highwater(self.partition), consumer.last_poll_timestamp(self.partition)
        if high is None or asked is None or self._at is None:
            return False
        return bool(self._at >= high) and time.time() - asked / 1000 < FRESH_SECONDS

    async def _serve(self, session: Session) -> None:
        opened_at = session.fence.next
        # Told only where there was work at once: else it says how long nothing came.
        began: float | None = time.monotonic()
        while not self._over:
            await session.wait_for_room()
            records = await self._read(self.source.max_records)
            self.source.check_partitions()
            if not records:
                began = None
                quiet = self._is_read_out()
                await self._check_quiet(session)
                if quiet:
                    await session.idle()
                    self._hold(None)
                continue
            async with self.busy:
                await Offer(session, records).settle(self.source.put, patience=0.5)
                # What is forbidden may be the writing, and shows as mended no earlier; nor does what fails each time
                # that something is to be committed, which need not be at each batch.
                if self.held != "failure" or session.fence.next > opened_at:
                    self._hold(None)
                self.position = records[-1].offset + 1
            if began is not None:
                self.source.metrics.rebalance.of("first_batch").observe(time.monotonic() - began)
                began = None

    async def _check_quiet(self, session: Session) -> None:
        """See, while nothing comes, that Redis holds what it held, and the log too: a quiet partition must notice.

        A topic made anew shows by its end; not every broker says that what is asked for lies behind it.
        """
        if time.monotonic() - self.checked < CHECK_SECONDS:
            return
        self.checked = time.monotonic()
        high = self.source.consumer.highwater(self.partition)
        if high is not None and self.position is not None and high < self.position:
            raise LogMismatch(f"the log ends at {high}, before {self.position}")
        # By a write: a Redis that only answers can't take what comes next, and a worker on it is not ready.
        await check_fence(self.source.redis, self.tag, session.fence)

    async def _read(self, most: int) -> Sequence[Record]:
        """The next records. Raises `OutOfStep` unless they follow on those that this lane read, or its seek.

        The client is one for all lanes there ever were of this partition: what one takes, the other does not get, and
        offsets may have holes, so that the records themselves do not tell.
        """
        async with self._turn:
            self._check_turn()
            at = await self.source.consumer.position(self.partition)
            if at != self._at:
                raise OutOfStep(f"the client stands at {at}, and not at {self._at}, where this lane left it")
            try:
                found = await self.source.consumer.getmany(self.partition, timeout_ms=POLL, max_records=most)
            except NoOffsetForPartitionError:
                # Left over from before the seek: without a committed offset the client notes that it has none.
                return []
            except OffsetOutOfRangeError as error:
                raise LogMismatch(f"the log does not reach where the fence stands: {error}") from error
            self._at = await self.source.consumer.position(self.partition)
        return found.get(self.partition, [])  # type: ignore[no-any-return]
