"""`nudge status`: where each partition stands, one row each, from the fences in Redis and the ends of the log.

A row is what `fence:{...}`, `outbox:{...}`, `parked:{...}` and `counts:{...}` hold at one moment, beside the high
watermark of the source partition shortly before. Lag is the difference: never negative, unknown without a fence.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiokafka import TopicPartition
from redis.asyncio import Redis

from stream.broker import find_ends
from stream.commands import CommandError
from stream.commands.checks import Layout
from stream.commands.connections import count_partitions, open_consumer, open_redis
from stream.commands.output import print_json, print_line, print_table, write_time
from stream.settings import Settings
from stream.state.keys import Tag, name_key, tag_events, tag_source
from stream.state.partition import read_partitions

COLUMNS: Final = (
    "source", "owner", "epoch", "next", "end", "lag", "clock", "watermark", "outbox", "parked", "counts",
)  # fmt: skip
SHORT: Final = 8
"""Characters of an owner's token that tables show."""


class PartitionStatus(msgspec.Struct, frozen=True):
    """Where one source partition stands; None for what no worker has written yet, or the broker does not hold.

    `next` is the offset that the next batch begins at, `end` the offset after the log's last record; `clock` and
    `watermark` are epoch milliseconds, None before the first event; `outbox` counts entries that wait for Kafka.
    """

    source: str
    partition: int
    owner: str | None
    epoch: int | None
    next: int | None
    end: int | None
    lag: int | None
    clock: int | None
    watermark: int | None
    outbox: int
    parked: int
    counts: dict[str, int]


async def read_partition(redis: Redis, source: str, place: TopicPartition, end: int | None) -> PartitionStatus:
    """Status of one partition of the source `events`, `privacy` or `examples`."""
    tag: Tag = tag_events(place.partition) if source == "events" else tag_source(source, place.partition)
    async with redis.pipeline(transaction=True) as pipe:
        # Of a cluster's client, `hgetall` fails in a transaction.
        pipe.execute_command("HGETALL", name_key("fence", tag))
        pipe.xlen(name_key("outbox", tag))
        pipe.xlen(name_key("parked", tag))
        pipe.execute_command("HGETALL", name_key("counts", tag))
        found, outbox, parked, counts = await pipe.execute()
    fence = {name.decode(): value.decode("utf-8", "replace") for name, value in found.items()}
    following = _number(fence, "next")
    return PartitionStatus(
        source=source,
        partition=place.partition,
        owner=fence.get("owner") or None,
        epoch=_number(fence, "epoch"),
        next=following,
        end=end,
        lag=None if end is None or following is None else max(end - following, 0),
        clock=_number(fence, "clock") or None,
        watermark=_number(fence, "watermark") or None,
        outbox=outbox,
        parked=parked,
        counts={name.decode(): int(count) for name, count in sorted(counts.items())},
    )


def _number(fence: dict[str, str], field: str) -> int | None:
    return int(fence[field]) if fence.get(field) else None


def list_places(settings: Settings, sizes: dict[str, int], layout: Layout | None) -> list[tuple[str, TopicPartition]]:
    """Every partition to report, with its source; those of events also where the topic is gone but state is there."""
    topics = {
        "events": settings.topics.events,
        "privacy": settings.topics.privacy,
        "examples": settings.topics.examples,
    }
    counts = {source: sizes.get(topic, 0) for source, topic in topics.items()}
    if layout is not None:
        counts["events"] = max(counts["events"], layout[0])
    return [(source, TopicPartition(topics[source], each)) for source, size in counts.items() for each in range(size)]


async def read_status(settings: Settings) -> tuple[Layout | None, list[PartitionStatus]]:
    """The layout in Redis and the status of every partition of the sources.

    Raises `Unreachable` when a server is away, `CommandError` when neither knows an events topic.
    """
    async with open_redis(settings) as redis, open_consumer(settings) as consumer:
        layout, sizes = await read_partitions(redis), await count_partitions(settings)
        places = list_places(settings, sizes, layout)
        if not places:
            raise CommandError(
                f"no topic {settings.topics.events} on the broker and no state in Redis: start a worker, or correct "
                "topics.events, kafka.bootstrap and redis.url"
            )
        ends = await find_ends(consumer, [place for _, place in places if place.partition < sizes.get(place.topic, 0)])
        return layout, [await read_partition(redis, source, place, ends.get(place)) for source, place in places]


async def show_status(settings: Settings, *, as_json: bool = False) -> None:
    """Print the status of every partition. Raises as `read_status`."""
    layout, partitions = await read_status(settings)
    if as_json:
        written = dict(zip(("partitions", "partitioner"), layout, strict=True)) if layout else None
        print_json({"layout": written, "partitions": msgspec.to_builtins(partitions)})
        return
    if layout is None:
        print_line("No worker has written state to this Redis yet.")
    print_table(COLUMNS, [_row(each) for each in partitions])
    behind = {
        source: sum(each.lag or 0 for each in partitions if each.source == source) for source in ("events", "examples")
    }
    told = "; ".join(f"{source} behind: {lag}" for source, lag in behind.items())
    print_line(f"{told}; waiting in outboxes: {sum(each.outbox for each in partitions)}")


def _row(status: PartitionStatus) -> tuple[Any, ...]:
    return (
        f"{status.source}/{status.partition}",
        status.owner and status.owner[:SHORT],
        status.epoch,
        status.next,
        status.end,
        status.lag,
        write_time(status.clock),
        write_time(status.watermark),
        status.outbox,
        status.parked,
        " ".join(f"{name}={count}" for name, count in status.counts.items()),
    )
