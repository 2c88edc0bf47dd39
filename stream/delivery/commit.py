"""The commit: one Lua call that makes a batch count, whole or not at all.

What the batch does to Redis is a list of commands, packed in pieces: Redis unpacks them in C, where an argument each
would cost the client more than all of its other work on an event, and one piece with all of them falls out of Redis'
cache before it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

import msgpack
import msgspec
from redis.asyncio import Redis

from stream.delivery.fence import Fence, settle
from stream.stages.batch import Batch
from stream.state.consents import encode_consent
from stream.state.keys import Tag, name_key
from stream.state.profiles import encode_changes, encode_image, read_last_seen, take_image
from stream.state.scripts import Argument, Script

Command = Sequence[bytes | str | int]
T = TypeVar("T")

_commit: Final = Script("stream.delivery", "commit.lua")
_encode: Final = msgspec.msgpack.Encoder().encode
# Redis unpacks only the raw type of msgpack's first version.
_pack: Final = msgpack.Packer(use_bin_type=False).pack

MOST: Final = 1_000
"""Values in one command; Lua can't unpack many more."""

PIECE: Final = 128
"""Commands in one piece."""

REFRESHES: Final = 16
"""A profile's time to live in Redis is set anew when so great a part of it has passed since it last was."""


async def commit_batch(
    redis: Redis, tag: Tag, batch: Batch, held: Fence, to: Fence, profile_ttl: int, besides: Sequence[Command] = ()
) -> None:
    """Apply `batch` and move the fence from `held` to `to`. Raises `Refused`, nothing done.

    `profile_ttl` (ms) is twice applied: logic decides expiry, Redis only sweeps. Commands of `besides` are run with the
    rest; their keys must carry `tag`. The dossiers say then what Redis holds: after an error they are good for nothing.
    """
    commands: list[Command] = []
    _add_entries(tag, batch, commands)
    changed = _add_profiles(tag, batch, commands, profile_ttl)
    _add_windows(tag, batch, commands)
    _add_consents(tag, batch, commands)
    commands += [("SADD", name_key("replayed", tag), *some) for some in _split(batch.replays)]
    counts = name_key("counts", tag)
    commands += [("HINCRBY", counts, name, number) for name, number in batch.counts.items()]
    commands += besides
    arguments: list[Argument] = [
        held.owner, held.next, str(held.emitted),
        to.next, to.clock, to.watermark, to.last_hash, str(to.emitted),
        _pack(_split(changed)), *map(_pack, _split(commands, PIECE)),
    ]  # fmt: skip
    settle(await _commit(redis, [name_key("fence", tag)], arguments), held)


def _add_entries(tag: Tag, batch: Batch, out: list[Command]) -> None:
    """Entries first: a position that is not above the last one is the one thing here that Redis may refuse."""
    outbox = name_key("outbox", tag)
    for entry in batch.entries:
        packed = _encode(entry.headers) if entry.headers else b""
        out.append((
            "XADD", outbox, str(entry.position),
            "target", entry.target, "key", entry.key, "value", entry.value, "headers", packed, "at", entry.at,
        ))  # fmt: skip


def _add_profiles(tag: Tag, batch: Batch, out: list[Command], ttl: int) -> list[str]:
    """Whole profiles, or what changed of those that Redis holds; returns the keys of these.

    A person in whom there is no event any more, after a withdrawal, goes.
    """
    prefix = name_key("profile", tag, "")
    slot = max(ttl // REFRESHES, 1)
    changed = []
    for user in batch.touched:
        dossier = batch.people[user]
        if dossier.person is None:
            continue
        key, before = prefix + user, dossier.stored
        if dossier.person.version == 0:
            dossier.person = dossier.stored = None
            out.append(("DEL", key))
            continue
        image = dossier.stored = take_image(dossier.person)
        fields = None if before is None else encode_changes(image, before)
        if fields is None or before is None:
            out += (("DEL", key), ("HSET", key, *encode_image(image)), ("PEXPIRE", key, 2 * ttl))
        elif fields:
            changed.append(key)
            out.append(("HSET", key, *fields))
            if read_last_seen(image) // slot != read_last_seen(before) // slot:
                out.append(("PEXPIRE", key, 2 * ttl))
    return changed


def _add_windows(tag: Tag, batch: Batch, out: list[Command]) -> None:
    """Windows kept and closed: packed beside their person, and their deadlines in one set for all."""
    prefix, due = name_key("pending", tag, ""), name_key("due", tag)
    deadlines: list[str | int] = []
    for window in batch.kept.values():
        out.append(("HSET", prefix + window.user_id, window.id, _encode(window)))
        deadlines += (window.deadline, f"{window.id} {window.user_id}")
    members = []
    for window in batch.closed.values():
        out.append(("HDEL", prefix + window.user_id, window.id))
        members.append(f"{window.id} {window.user_id}")
    out += [("ZADD", due, *some) for some in _split(deadlines)]
    out += [("ZREM", due, *some) for some in _split(members)]


def _add_consents(tag: Tag, batch: Batch, out: list[Command]) -> None:
    prefix = name_key("consent", tag, "")
    out += [("HSET", prefix + user, *encode_consent(batch.people[user])) for user in batch.consented]


def _split(values: Sequence[T], most: int = MOST) -> list[Sequence[T]]:
    return [values[at : at + most] for at in range(0, len(values), most)]
