"""`nudge fence reset`: put partitions of a source at another place of their logs, on an operator's word.

The fence is taken from whoever holds it, so that a running worker can write nothing more in the old place; it comes
back by itself and goes on in the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from redis.asyncio import Redis

from stream.broker import find_ends
from stream.commands import CommandError
from stream.commands.connections import open_consumer, open_redis
from stream.commands.output import print_line, print_table
from stream.commands.topic import find_partitions
from stream.delivery.beginning import find_time
from stream.delivery.fence import Fence, acquire_fence, place_fence, read_fence
from stream.settings import Settings
from stream.state.client import call
from stream.state.keys import name_key, tag_source

Source = Literal["events", "privacy"]
COLUMNS = ("partition", "from", "to", "records")


class Target(NamedTuple):
    """Where to: one of an offset, a time (epoch ms), `earliest` and `latest`."""

    offset: int | None = None
    millis: int | None = None
    end: Literal["earliest", "latest"] | None = None


class Move(NamedTuple):
    """One partition's way: from the fence's next offset to another."""

    place: TopicPartition
    now: int
    to: int


async def plan_moves(
    settings: Settings, redis: Redis, consumer: AIOKafkaConsumer, source: Source, numbers: Sequence[int], to: Target
) -> list[Move]:
    """What a reset would do to the partitions `numbers` (all, where none are named).

    Raises `CommandError` for a partition that does not exist or has no fence, and for an offset that its log lacks.
    """
    topic = settings.topics.events if source == "events" else settings.topics.privacy
    places = await find_partitions(settings, topic)
    if unknown := sorted(set(numbers) - {place.partition for place in places}):
        raise CommandError(f"topic {topic} has no partition {', '.join(map(str, unknown))}; it has {len(places)}")
    places = [place for place in places if not numbers or place.partition in numbers]
    ends, starts = await find_ends(consumer, places), await consumer.beginning_offsets(places)
    moves = []
    for place in places:
        fence = await read_fence(redis, tag_source(source, place.partition))
        if fence is None:
            raise CommandError(f"partition {place.partition} has no fence yet; set start_from before the first start")
        start, end = int(starts[place]), ends[place]
        at = await _find_offset(consumer, place, to, start, end)
        if not start <= at <= end:
            raise CommandError(f"partition {place.partition} has no offset {at}: its log reaches from {start} to {end}")
        moves.append(Move(place, fence.next, at))
    return moves


async def _find_offset(consumer: AIOKafkaConsumer, place: TopicPartition, to: Target, start: int, end: int) -> int:
    if to.offset is not None:
        return to.offset
    if to.millis is not None:
        return max(await find_time(consumer, place, to.millis, end), start)
    return start if to.end == "earliest" else end


async def take_fence(redis: Redis, source: Source, move: Move, *, drop_outbox: bool) -> Fence:
    """Take the fence, and leave it where it is.

    Raises `CommandError` where entries wait in the outbox and may not be dropped.
    """
    tag = tag_source(source, move.place.partition)
    held = await acquire_fence(redis, tag, move.now)
    waiting = await call(redis, "XLEN", name_key("outbox", tag))
    if waiting and not drop_outbox:
        raise CommandError(
            f"nothing was changed: {waiting} entries wait in the outbox of partition {move.place.partition}, and "
            "positions to come may be lower than theirs; wait until nudge status shows none, or drop them with "
            "--drop-outbox"
        )
    return held


async def reset_fences(
    settings: Settings,
    source: Source,
    numbers: Sequence[int],
    to: Target,
    *,
    clear: bool,
    drop_outbox: bool,
    confirm: Callable[[str], bool],
) -> bool:
    """Show what would be done, ask, and do it; False where the answer is no. Raises as `plan_moves`, `take_fence`."""
    async with open_redis(settings) as redis, open_consumer(settings) as consumer:
        moves = await plan_moves(settings, redis, consumer, source, numbers, to)
        print_table(COLUMNS, [_row(move) for move in moves])
        if not confirm(_describe(moves, clear, settings.output_guarantee == "exactly_once")):
            return False
        # All are taken before the first is moved: what forbids one move forbids all.
        held = [await take_fence(redis, source, move, drop_outbox=drop_outbox) for move in moves]
        for done, (move, fence) in enumerate(zip(moves, held, strict=True)):
            try:
                await place_fence(redis, tag_source(source, move.place.partition), fence, move.to, clear=clear)
            except BaseException:
                moved = ", ".join(str(before.place.partition) for before in moves[:done])
                print_line(f"Only these partitions were moved: {moved or 'none'}.")
                raise
    print_line("Done. Running workers go on there within a few heartbeats.")
    return True


def _row(move: Move) -> tuple[str, ...]:
    step = move.to - move.now
    words = "stays" if step == 0 else f"{step} passed over" if step > 0 else f"{-step} read again"
    return str(move.place.partition), str(move.now), str(move.to), words


def _describe(moves: Sequence[Move], clear: bool, exactly_once: bool) -> str:
    words = "What is passed over is never applied."
    if clear:
        words = "Profiles, open windows, counts and outboxes of these partitions are deleted and made again."
    elif any(move.to < move.now for move in moves):
        words = "What is read again counts twice in profiles and counts; --clear makes them again instead."
    if exactly_once and any(move.to < move.now for move in moves):
        words += " Nothing is sent again up to where transactions got, not even what was passed over before."
    return f"{words} Go on?"
