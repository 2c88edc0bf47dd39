"""The fence: who owns a source partition, and up to where it is done. One Redis hash a partition.

`owner` is a token made fresh at each acquisition and compared for equality, and so is `next`: moving forward is not
enough, because a replica that lagged and was promoted holds an older `next` under the same epoch. The epoch is for
people and metrics. Redis, not the group's committed offset, says what was done.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec
from redis.asyncio import Redis

from stream.delivery.errors import Refused
from stream.delivery.lineage import Lineage
from stream.stages.batch import Clock, Position, Record
from stream.state.client import call
from stream.state.forms import WRITTEN
from stream.state.keys import Tag, name_key
from stream.state.scripts import Argument, Script

_acquire: Final = Script("stream.delivery", "acquire.lua")
_advance: Final = Script("stream.delivery", "advance.lua")
_check: Final = Script("stream.delivery", "check.lua")


GENERATION: Final = 10**12
"""More than a partition has offsets, and few enough that a thousand generations fit into a float of 64 bits."""


CHOSEN: Final = "-"
"""Stands for the hash of the last record applied where somebody chose to begin at `next`, and nobody read before it."""


class Reached(NamedTuple):
    """How far transactions sent the outbox: the log's generation, and the last entry's position in it."""

    generation: int
    position: Position

    def __str__(self) -> str:
        return f"{self.generation}/{self.position}"


class Fence(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a partition as the fence keeps it. `next` is the first offset not applied, -1 for no fence.

    `clock` and `watermark` are epoch milliseconds; `last_hash` is of the record at `next - 1`; `emitted` is the
    position of the last outbox entry; `generation` counts how often another log was found under the fence, in which
    offsets begin again. `clearing` says that what an older fence left behind is still being deleted. `reached` is there
    where transactions were sent; the broker may know of a later one. `form` is the highest in which an owner of the
    partition wrote state. `began` is the first offset that state was made of.
    """

    owner: str
    epoch: int
    next: int
    clock: int
    watermark: int
    last_hash: str
    emitted: Position
    generation: int = 0
    clearing: bool = False
    reached: Reached | None = None
    form: int = 1
    began: int = 0

    @property
    def lineage(self) -> Lineage:
        """What is told of the log beside the offset, for a fence that gets lost."""
        return Lineage(self.generation, self.began)

    def clocks(self) -> Clock:
        """The clocks to begin the next batch with."""
        return Clock(self.clock, self.watermark)


def parse_fence(flat: Sequence[bytes]) -> Fence | None:
    """Fence of a hash as Redis returns it; None if it is not there."""
    if not flat:
        return None
    fields = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
    offset, index = fields["emitted"].rsplit("-", 1)
    return Fence(
        owner=fields["owner"],
        epoch=int(fields["epoch"]),
        next=int(fields["next"]),
        clock=int(fields["clock"]),
        watermark=int(fields["watermark"]),
        last_hash=fields["last_hash"],
        emitted=Position(int(offset), int(index)),
        # Fences were written without one before logs were told apart.
        generation=int(fields.get("generation", "0")),
        clearing="clearing" in fields,
        reached=_parse_reached(fields["reached"]) if "reached" in fields else None,
        form=int(fields.get("form", "1")),
        began=int(fields.get("began", "0")),
    )


def _parse_reached(text: str) -> Reached:
    """
    >>> _parse_reached(str(Reached(1, Position(41, 3))))
    Reached(generation=1, position=Position(offset=41, number=3))
    """
    generation, place = text.split("/")
    offset, number = place.split("-")
    return Reached(int(generation), Position(int(offset), int(number)))


def hash_record(record: Record) -> str:
    """What the fence remembers of the last record applied: a hash of its offset, key and value."""
    digest = hashlib.blake2b(str(record.offset).encode(), digest_size=8)
    for part in (record.key, record.value):
        digest.update(b"\x00" if part is None else b"\x01%d:" % len(part) + part)
    return digest.hexdigest()


def rank(generation: int, offset: int) -> int:
    """One number for an offset of a log that may have been made anew: the later of two is the greater.

    >>> rank(0, 41), rank(1, 7)
    (41, 1000000000007)
    """
    return generation * GENERATION + offset


async def read_fence(redis: Redis, tag: Tag) -> Fence | None:
    """The fence as it stands."""
    fields: dict[bytes, bytes] = await call(redis, "HGETALL", name_key("fence", tag))
    return parse_fence([part for pair in fields.items() for part in pair])


async def acquire_fence(
    redis: Redis,
    tag: Tag,
    start: int,
    *,
    clear: bool = False,
    last_hash: Literal["", "-"] = "",
    lineage: Lineage | None = None,
) -> Fence:
    """Take the partition over with a fresh token; it begins at offset `start` if it has no fence yet.

    `last_hash` is empty where that is the log's beginning, `CHOSEN` where it is another place; `lineage` is what is
    known of the log all the same, None for a log as it first was, of which state is made from `start` on.

    With `clear`, a new fence is marked as `clearing`, for whoever holds it to clear the partition and call
    `open_fence`; until then the mark passes from owner to owner.
    """
    keys = [name_key("fence", tag), name_key("generation", tag)]
    generation, began = lineage or Lineage(began=start)
    arguments: list[Argument] = [uuid.uuid4().hex, start, int(clear), last_hash, WRITTEN, generation, began]
    fence = parse_fence(await _acquire(redis, keys, arguments))
    assert fence is not None
    return fence


async def advance_fence(redis: Redis, tag: Tag, held: Fence, to: Fence, commands: Iterable[Sequence[Argument]]) -> None:
    """Move the fence from `held` to `to`, and run `commands` in the same breath. Raises `Refused`, nothing done.

    All keys in `commands` must carry `tag`.
    """
    arguments: list[Argument] = [held.owner, held.next, to.next, to.clock, to.watermark, to.last_hash, str(to.emitted)]
    for command in commands:
        arguments += [len(command), *command]
    settle(await _advance(redis, [name_key("fence", tag)], arguments), held)


async def check_fence(redis: Redis, tag: Tag, held: Fence) -> None:
    """See that the fence stands where `held` does. Raises `Refused`, or `RedisError` where nothing can be written."""
    settle(await _check(redis, [name_key("fence", tag)], [held.owner, held.next]), held)


async def open_fence(redis: Redis, tag: Tag, held: Fence) -> Fence:
    """Take the mark `clearing` away, and return the fence without it. Raises `Refused`."""
    await advance_fence(redis, tag, held, held, [("HDEL", name_key("fence", tag), "clearing")])
    return msgspec.structs.replace(held, clearing=False)


async def reset_fence(redis: Redis, tag: Tag, held: Fence, start: int, *, another: bool) -> None:
    """Begin at offset `start`: clock and watermark stay, the outbox and its positions go.

    `another` says that it is another log than before: its generation is one higher. That is written down beside the
    fence too, for a fence that is lost must not begin a generation again whose offsets are known elsewhere.
    """
    generation = held.generation + another
    anew = msgspec.structs.replace(held, next=start, last_hash="", emitted=Position(-1, 0))
    commands: list[tuple[Argument, ...]] = [("DEL", name_key("outbox", tag))]
    if another:
        commands += [
            ("HSET", name_key("fence", tag), "generation", generation, "began", start),
            ("SET", name_key("generation", tag), generation),
        ]
    await advance_fence(redis, tag, held, anew, commands)


async def place_fence(redis: Redis, tag: Tag, held: Fence, at: int, *, clear: bool) -> None:
    """Have the partition go on at offset `at` of the same log, chosen by an operator. Raises `Refused`.

    With `clear` all that the log makes again goes first, clocks too, by whoever acquires the partition next. The
    outbox must be empty: entries to come may have lower positions.
    """
    # What a quiet partition closes shares an offset with what was sent before it, and must not share a place too.
    emitted = held.emitted if held.emitted.offset < at else Position(-1, 0)
    anew = msgspec.structs.replace(held, next=at, last_hash=CHOSEN, emitted=emitted)
    commands: list[tuple[Argument, ...]] = [("DEL", name_key("outbox", tag))]
    if clear or at < held.began:
        commands.append(("HSET", name_key("fence", tag), "began", at))
    if clear:
        anew = msgspec.structs.replace(anew, clock=0, watermark=0)
        commands.append(("HSET", name_key("fence", tag), "clearing", 1))
    await advance_fence(redis, tag, held, anew, commands)


def settle(reply: object, held: Fence) -> None:
    """Raise `Refused` unless the script said yes."""
    if reply == 1:
        return
    if reply == b"gone":
        raise Refused(
            held.owner, held.next, held.owner, held.next, "a profile that was to be changed is not there any more"
        )
    now = parse_fence(reply) if isinstance(reply, list) else None
    raise Refused(held.owner, held.next, None if now is None else now.owner, None if now is None else now.next)
