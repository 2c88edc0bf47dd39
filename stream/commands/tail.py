"""`nudge tail`: triggers in plain words, one line each, as they reach the recommendations topic.

"From now on" begins at the high watermark of a first fetch, so it holds on brokers whose latest offset is wrong. The
topic is read without a group: any number of tails may run, none disturbs another consumer. A record that is no
trigger of this version is named by its position and passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from schemas.trigger import RecommendationTrigger
from stream.broker import find_ends
from stream.commands.connections import open_consumer
from stream.commands.output import escape, print_line, write_time
from stream.commands.topic import find_partitions
from stream.settings import Settings

POLL: Final = 200
"""Milliseconds that a fetch may wait for records."""

_decoder: Final = msgspec.json.Decoder(RecommendationTrigger)


def describe_trigger(trigger: RecommendationTrigger) -> str:
    """One line in plain words: when, whom, why, what and how.

    >>> describe_trigger(RecommendationTrigger(trigger_id="t", user_id="ann", rule="abandoned-intent", event_id="e",
    ...     decided_at=0, expires_at=60_000, reason="left a mug in the cart", channel="email"))
    '1970-01-01 00:00:00.000Z  ann: left a mug in the cart (rule abandoned-intent); nothing to show by email'
    """
    items = ", ".join(f"{item.title or item.item_id} ({item.reason})" for item in trigger.items)
    words = f"{trigger.user_id}: {trigger.reason} (rule {trigger.rule}); "
    words += f"show {items}" if items else "nothing to show"
    words += f" by {trigger.channel}" if trigger.channel else ""
    words += f", variant {trigger.variant}" if trigger.variant else ""
    words += f", not before {write_time(trigger.send_at)}" if trigger.send_at else ""
    return escape(f"{write_time(trigger.decided_at)}  {words}")


def describe_record(record: ConsumerRecord, *, as_json: bool) -> str:
    """The line for one record: its JSON as it stands, or its trigger in words."""
    where = f"{record.topic}/{record.partition}/{record.offset}"
    try:
        trigger = _decoder.decode(record.value or b"")
    except msgspec.MsgspecError as error:
        problem = f"{where}: not a trigger that this version reads ({error})"
        return msgspec.json.encode({"error": problem}).decode() if as_json else escape(problem)
    # Line breaks in JSON lie between tokens only, so a record of several lines still becomes one.
    return msgspec.json.format(record.value, indent=-1).decode() if as_json else describe_trigger(trigger)


async def read_on(consumer: AIOKafkaConsumer) -> AsyncIterator[ConsumerRecord]:
    """Records of the assigned partitions from their positions, for ever."""
    while True:
        for records in (await consumer.getmany(timeout_ms=POLL)).values():
            for record in records:
                yield record


async def tail_triggers(
    settings: Settings, *, as_json: bool = False, from_start: bool = False, limit: int | None = None
) -> None:
    """Print triggers until `limit` of them are printed, or for ever.

    Raises `CommandError` when there is no such topic and `Unreachable` when the broker is away at the start; later
    outages are waited out.
    """
    partitions = await find_partitions(settings, settings.topics.recommendations)
    async with open_consumer(settings) as consumer:
        ends = await find_ends(consumer, partitions)
        if from_start:
            await consumer.seek_to_beginning(*partitions)
        else:
            for partition, end in ends.items():
                consumer.seek(partition, end)
        printed = 0
        async for record in read_on(consumer):
            print_line(describe_record(record, as_json=as_json))
            printed += 1
            if printed == limit:
                return


def run_tail(settings: Settings, *, as_json: bool, from_start: bool, limit: int | None) -> None:
    """Run `tail_triggers` until it ends or the reader interrupts it."""
    try:
        asyncio.run(tail_triggers(settings, as_json=as_json, from_start=from_start, limit=limit))
    except KeyboardInterrupt:
        return
