"""`nudge dlq --parked`: entries that could not be sent, listed, and sent on once the reason is gone.

They lie in Redis beside the outbox that they left, and dead letters of the ledger under its partitions. Replay sends
each to the topic and partition that the worker would have chosen and forgets it after the acknowledgement, so a replay
that is cut short may send one twice and loses none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from time import time
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from stream.commands import CommandError
from stream.commands.connections import count_partitions, name_outages, open_producer, open_redis
from stream.commands.output import print_json, print_line, print_table, write_time
from stream.delivery.entries import name_topics, read_entry
from stream.delivery.refusals import FOR_GOOD
from stream.partition import Partitioner, hash_key
from stream.settings import Settings
from stream.stages.batch import Entry
from stream.state.client import call
from stream.state.keys import Tag, name_key, tag_events, tag_source
from stream.state.partition import read_partitions

CHUNK: Final = 100
"""Entries read at once; each may be large."""
MOST_BYTES: Final = 256 * 1024 * 1024
"""Size that the client lets pass: the broker is to judge."""
COLUMNS: Final = ("at", "topic", "time", "error", "size")


class Parked(msgspec.Struct, frozen=True):
    """One parked entry of a partition of `events` or `privacy`, and why it lies there (empty where that was not kept).

    `identity` is its id in the stream, which is its position unless a higher one was parked before it.
    """

    source: str
    partition: int
    identity: bytes
    entry: Entry
    error: str

    @property
    def key(self) -> str:
        """Key of the stream that it lies in."""
        return name_key("parked", tag_source(self.source, self.partition))

    def __str__(self) -> str:
        place = f"{self.partition}/{self.entry.position}"
        return place if self.source == "events" else f"{self.source}/{place}"


async def read_parked(redis: Redis, ledger: int) -> AsyncIterator[Parked]:
    """All that is parked, partition after partition, each in order; the privacy topic has `ledger` partitions.

    Raises `CommandError` without state in Redis.
    """
    layout = await read_partitions(redis)
    if layout is None:
        raise CommandError("no state in Redis: no worker has run on it yet")
    counts = {"events": layout[0], "privacy": ledger}
    for source, partition in [(source, each) for source, count in counts.items() for each in range(count)]:
        key, since = name_key("parked", tag_source(source, partition)), "-"
        while some := await call(redis, "XRANGE", key, since, "+", "COUNT", CHUNK):
            for identity, flat in some:
                fields = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
                error = fields.get(b"error", b"").decode("utf-8", "replace")
                yield Parked(source, partition, identity, read_entry(identity, fields), error)
            since = f"({some[-1][0].decode()}"


async def list_parked(settings: Settings, *, limit: int, as_json: bool = False) -> None:
    """Print the newest `limit` parked entries, the newest last: where to, why and when, nothing of what they hold."""
    sizes, topics = await count_partitions(settings), name_topics(settings)
    rows: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    async with open_redis(settings) as redis:
        async for each in read_parked(redis, sizes.get(settings.topics.privacy, 0)):
            entry = each.entry
            counts[topics[entry.target]] += 1
            values = (str(each), topics[entry.target], entry.at, each.error, len(entry.value))
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    shown = sorted(rows, key=lambda row: row["time"])[-limit:]
    if as_json:
        for row in shown:
            print_json(row)
        return
    print_table(COLUMNS, [tuple({**row, "time": write_time(row["time"])}.values()) for row in shown])
    by_topic = ", ".join(f"{topic} {count}" for topic, count in sorted(counts.items()))
    print_line(f"{len(shown)} of {len(rows)} parked entries" + (f": {by_topic}" if by_topic else ""))


async def replay_parked(settings: Settings, *, limit: int | None = None, dry_run: bool = False) -> int:
    """Send at most `limit` parked entries on and forget them; the number that the broker acknowledged.

    What is no longer to be sent stays where it is and is counted: triggers that are too old, or of people who have
    withdrawn their consent since. Raises `CommandError` before anything is sent when a topic is gone, and at the end
    when the broker refused some again; those stay too.
    """
    sizes, topics = await count_partitions(settings), name_topics(settings)
    ledger = sizes.get(settings.topics.privacy, 0)
    counts: Counter[str] = Counter()
    async with open_redis(settings) as redis:
        wanted = {topics[each.entry.target] async for each in read_parked(redis, ledger)}
        if gone := sorted(wanted - set(sizes)):
            raise CommandError(f"topics {', '.join(gone)}: not on the broker; nothing was sent")
        async with open_producer(settings, max_request_size=MOST_BYTES) as producer:
            async for each in read_parked(redis, ledger):
                if counts["sent"] == limit:
                    break
                result = await _judge(settings, redis, each)
                if result == "sent" and not dry_run:
                    topic = topics[each.entry.target]
                    with name_outages(settings):
                        result = await _send_on(producer, each.entry, topic, sizes[topic], settings.partitioner)
                    if result == "sent":
                        await redis.xdel(each.key, each.identity)
                counts[result] += 1
    _report(counts, dry_run=dry_run)
    return counts["sent"]


def _report(counts: Counter[str], *, dry_run: bool) -> None:
    print_line(f"{counts['sent']} parked entries {'would be ' if dry_run else ''}sent on")
    if counts["old"]:
        print_line(f"{counts['old']} triggers are older than outbox.max_trigger_age; they stay parked")
    if counts["denied"]:
        print_line(f"{counts['denied']} triggers are of people without consent; they stay parked")
    if counts["refused"]:
        raise CommandError(
            f"{counts['refused']} entries were refused again and stay parked; raise max.message.bytes of their topics"
        )


async def _judge(settings: Settings, redis: Redis, parked: Parked) -> str:
    """`sent` if the entry may be sent, else why not; the worker asks the same of its outbox and of its events."""
    entry, most = parked.entry, settings.outbox.max_trigger_age
    if entry.target != "recommendations":
        return "sent"
    if most and settings.clock != "event" and time() * 1_000 - entry.at > most:
        return "old"
    return "sent" if await _may_trigger(settings, redis, tag_events(parked.partition), entry.key.decode()) else "denied"


async def _may_trigger(settings: Settings, redis: Redis, tag: Tag, user: str) -> bool:
    consent = settings.consent
    default = b"0" if consent.mode == "required" else b"1"
    found = await redis.hmget(name_key("consent", tag, user), [consent.profile, consent.trigger])
    return all((given or default) == b"1" for given in found)


async def _send_on(
    producer: AIOKafkaProducer, entry: Entry, topic: str, partitions: int, partitioner: Partitioner
) -> str:
    # One by one, so that one that is refused is told from the others.
    try:
        await producer.send_and_wait(
            topic,
            entry.value,
            key=entry.key or None,
            partition=hash_key(entry.key, partitioner) % partitions if entry.key else 0,
            headers=list(entry.headers),
        )
    except FOR_GOOD:
        return "refused"
    return "sent"
