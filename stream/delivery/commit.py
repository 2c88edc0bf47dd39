"""The commit: one Lua call that makes a batch count, whole or not at all."""

from __future__ import annotations

from typing import Final

import msgspec
from redis.asyncio import Redis

from stream.delivery.fence import Fence, settle
from stream.stages.batch import Batch
from stream.state.keys import Tag, name_key
from stream.state.profiles import encode_changes, encode_person
from stream.state.scripts import Argument, Script

_commit: Final = Script("stream.delivery", "commit.lua")
_pack: Final = msgspec.msgpack.Encoder().encode


async def commit_batch(redis: Redis, tag: Tag, batch: Batch, held: Fence, to: Fence, profile_ttl: int) -> None:
    """Apply `batch` and move the fence from `held` to `to`. Raises `Refused`, nothing done.

    `profile_ttl` (ms) is twice applied: logic decides expiry, Redis only sweeps.
    """
    arguments: list[Argument] = [
        tag, held.owner, held.next, to.next, to.clock, to.watermark, to.last_hash, str(to.emitted), 2 * profile_ttl,
        str(held.emitted),
    ]  # fmt: skip
    for rows in (_entries, _profiles, _kept, _closed, _consents, _counts):
        rows(batch, arguments)
    keys = [name_key(kind, tag) for kind in ("fence", "outbox", "due", "counts")]
    settle(await _commit(redis, keys, arguments), held)


def _entries(batch: Batch, out: list[Argument]) -> None:
    out.append(len(batch.entries))
    for position, target, key, value, headers, at in batch.entries:
        out += (str(position), target, key, value, _pack(headers) if headers else b"", at)


def _profiles(batch: Batch, out: list[Argument]) -> None:
    """Whole profiles, or what changed of those that Redis holds as they were before the batch."""
    count = len(out)
    out.append(0)
    written = 0
    for user in batch.touched:
        person, before = batch.people[user].person, batch.before.get(user)
        if person is None:
            continue
        fields = encode_changes(person, before.person) if before and before.person else None
        whole = fields is None
        if fields is None:
            fields = encode_person(person)
        if fields:
            out += (user, int(whole), len(fields), *fields)
            written += 1
    out[count] = written


def _kept(batch: Batch, out: list[Argument]) -> None:
    out.append(len(batch.kept))
    for window in batch.kept.values():
        out += (window.user_id, window.id, window.deadline, _pack(window))


def _closed(batch: Batch, out: list[Argument]) -> None:
    out.append(len(batch.closed))
    for window in batch.closed.values():
        out += (window.user_id, window.id)


def _consents(batch: Batch, out: list[Argument]) -> None:
    changed = [(user, batch.people[user]) for user in batch.consented]
    out.append(len(changed))
    for user, dossier in changed:
        flat: list[Argument] = []
        for purpose, allowed in dossier.consent.items():
            flat += (purpose, int(allowed))
        for purpose, ts in dossier.decided.items():
            flat += (f"~{purpose}", ts)
        for partition, offset in dossier.ledger.items():
            flat += (f"@{partition}", offset)
        out += (user, len(flat), *flat)


def _counts(batch: Batch, out: list[Argument]) -> None:
    out.append(len(batch.counts))
    for name, number in batch.counts.items():
        out += (name, number)
