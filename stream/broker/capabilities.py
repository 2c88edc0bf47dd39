"""What a broker can do, found out at start by trying.

Nothing is concluded from a broker's name or version, because compatible brokers accept requests that they do not
honour. Whatever does not answer in time counts as absent, with a warning in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from stream.broker.connection import REQUEST_TIMEOUT_MS, Connection
from stream.broker.membership import replaces_twins
from stream.broker.topics import TopicSpec, describe_topics, ensure_topics

logger = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 1.0
_BATCH = 3  # records; a wrong end offset shows only behind a batch of more than one
_ROUNDS = 10


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker was seen to do.

    `idempotence`: an idempotent producer gets its id and can write. `transactions`: a record of an open transaction
    stays hidden from `read_committed` readers, and the transaction commits. `compaction`: a topic keeps its policy
    `compact` and refuses records without a key (that old values go in the end is not waited for). `end_offsets`:
    the latest offset is the one that the next record gets. `log_append_time`: the broker sets the record's time.
    `static_membership`: of two group members under one name the older is cut off at once.
    """

    idempotence: bool
    transactions: bool
    compaction: bool
    end_offsets: bool
    log_append_time: bool
    static_membership: bool


async def probe(
    bootstrap: str, *, topic: str = "nudge.probe", timeout_s: float = 10.0, connection: Connection | None = None
) -> Capabilities:
    """Try out the broker at `bootstrap` (`host:port`, several separated by commas) by writing a few records to `topic`.

    The topic is created if need be: one partition, compacted. Several workers may probe at once. Creating it and
    trying the abilities, most of them side by side, get `timeout_s` each: three times that bounds the whole. Raises
    BrokerError when no broker answers or the topic cannot be had. A secured broker must permit transactional ids that
    begin with `topic`.
    """
    spec = TopicSpec(name=topic, partitions=1, cleanup="compact", timestamp_type="LogAppendTime")
    await ensure_topics(bootstrap, [spec], timeout_s=timeout_s, connection=connection)
    trial = _Trial(bootstrap, TopicPartition(topic, 0), connection or {}, timeout_s)
    with _quiet_refusals():
        end_offsets = await trial.of(_knows_its_end)  # first: the others would write in between
        idempotence, transactions, compaction, append_time, static = await asyncio.gather(
            trial.of(_writes_idempotently),
            trial.of(_hides_open_transactions),
            trial.of(_refuses_keyless_records),
            trial.of(_stamps_records),
            trial.of(_replaces_members),
        )
    return Capabilities(
        idempotence=idempotence,
        transactions=transactions,
        compaction=compaction,
        end_offsets=end_offsets,
        log_append_time=append_time,
        static_membership=static,
    )


class _Trial:
    """The probe topic's only partition, and clients for it."""

    def __init__(self, bootstrap: str, partition: TopicPartition, connection: Connection, timeout_s: float) -> None:
        self.bootstrap = bootstrap
        self.partition = partition
        self.connection = connection
        self.options = {"bootstrap_servers": bootstrap, "request_timeout_ms": REQUEST_TIMEOUT_MS, **connection}
        self._timeout_s = timeout_s

    async def of(self, ability: Callable[[_Trial], Awaitable[bool]]) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await ability(self)
        except KafkaError:
            return False
        except TimeoutError:
            what = ability.__name__.strip("_").replace("_", " ")
            logger.warning("broker: no answer within %g s to whether it %s; taken as no", self._timeout_s, what)
            return False

    @asynccontextmanager
    async def producer(self, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
        producer = AIOKafkaProducer(acks="all", **self.options, **options)
        try:
            await producer.start()
            yield producer
        finally:
            await _stop(producer)

    @asynccontextmanager
    async def reader(self, isolation: str) -> AsyncIterator[AIOKafkaConsumer]:
        reader = AIOKafkaConsumer(enable_auto_commit=False, isolation_level=isolation, **self.options)
        try:
            await reader.start()
            yield reader
        finally:
            await _stop(reader)

    async def write(self, producer: AIOKafkaProducer, key: bytes | None = b"probe", records: int = 1) -> Any:
        """Write one batch; the broker's answer for its first record."""
        batch = producer.create_batch()
        for _ in range(records):
            batch.append(key=key, value=b"probe", timestamp=None)
        return await (await producer.send_batch(batch, self.partition.topic, partition=self.partition.partition))

    async def end(self, reader: AIOKafkaConsumer) -> int:
        """What the broker says is the offset behind the last record."""
        return int((await reader.end_offsets([self.partition]))[self.partition])


async def _writes_idempotently(trial: _Trial) -> bool:
    async with trial.producer(enable_idempotence=True) as producer:
        await trial.write(producer)
        return True


async def _hides_open_transactions(trial: _Trial) -> bool:
    transactional_id = f"{trial.partition.topic}-{uuid.uuid4().hex}"  # a shared one would fence other workers' probes
    async with trial.producer(transactional_id=transactional_id) as producer, trial.reader("read_committed") as reader:
        await producer.begin_transaction()
        record = await trial.write(producer)
        hidden = bool(await trial.end(reader) <= record.offset)
        await producer.commit_transaction()
        return hidden


async def _refuses_keyless_records(trial: _Trial) -> bool:
    """A broker that compacts has to refuse them; one that only remembers the policy's name lets them in."""
    topic = trial.partition.topic
    described = await describe_topics(trial.bootstrap, [topic], connection=trial.connection)
    if described[topic].cleanup != "compact":
        return False
    async with trial.producer() as producer:
        try:
            await trial.write(producer, key=None, records=_BATCH)
        except KafkaError:
            return True
        return False


async def _knows_its_end(trial: _Trial) -> bool:
    """Between two batches the end lies behind the first and not beyond the second.

    One round decides when the second batch follows the first directly. Where another worker, probing as well, wrote
    in between, a wrong end may look right, so such a round can only say no; ten that do not are a yes.
    """
    async with trial.producer() as producer, trial.reader("read_uncommitted") as reader:
        for _ in range(_ROUNDS):
            before = await trial.write(producer, records=_BATCH)
            end = await trial.end(reader)
            after = await trial.write(producer, records=_BATCH)
            if not before.offset + _BATCH <= end <= after.offset:
                return False
            if after.offset == before.offset + _BATCH:
                return True
            await asyncio.sleep(random.uniform(0, 0.05))
        return True


async def _stamps_records(trial: _Trial) -> bool:
    async with trial.producer() as producer:
        return bool((await trial.write(producer, records=_BATCH)).timestamp_type == 1)


async def _replaces_members(trial: _Trial) -> bool:
    return await replaces_twins(trial.options, trial.partition.topic)


async def _stop(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """Stop, whatever state a refusal left the client in; a broker that hangs must not make us hang."""
    with contextlib.suppress(KafkaError, TimeoutError):
        await asyncio.wait_for(client.stop(), _STOP_TIMEOUT_S)


@contextmanager
def _quiet_refusals() -> Iterator[None]:
    """Keep the one error line out of the log that aiokafka writes when a producer id is refused: we asked for it."""

    def is_news(record: logging.LogRecord) -> bool:
        return "InitProducerId" not in str(record.msg)

    sender = logging.getLogger("aiokafka.producer.sender")
    sender.addFilter(is_news)
    try:
        yield
    finally:
        sender.removeFilter(is_news)
