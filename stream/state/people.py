"""The people of one partition: loaded in one call a batch, kept in memory while this worker owns the partition.

A batch takes its people out of the cache and changes them in place; they come back only after the commit said yes, so
that what came to nothing is forgotten and read again. A refusal, an unknown reply or a revocation empties the cache,
because then nobody here knows what Redis holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from redis.asyncio import Redis

from models.outcomes.windows import Window
from stream.stages.batch import Batch, Dossier
from stream.state.client import call
from stream.state.consents import decode_consent
from stream.state.forms import UnknownState
from stream.state.keys import Tag, name_key
from stream.state.profiles import decode_stored
from stream.state.scripts import Argument, Script

_fetch: Final = Script("stream.state", "fetch.lua")
_window: Final = msgspec.msgpack.Decoder(Window)
_FAR: Final = float("inf")


class People:
    """Cache of the dossiers of one partition; at most `most`, the least recently used go first."""

    def __init__(self, redis: Redis, tag: Tag, most: int, closings_per_event: int) -> None:
        self.redis = redis
        self.tag = tag
        self.most = most
        self.closings_per_event = closings_per_event
        self.cache: dict[str, Dossier] = {}
        self.earliest = -_FAR
        """No window in Redis is due before this; unknown at first."""

    async def load(self, batch: Batch, watermark: int) -> None:
        """Fill `batch.people` with everybody in it, `batch.due`, and `batch.replayed`.

        `watermark` is the highest that the batch reaches.
        """
        if origins := [item.origin for item in batch.items if item.origin]:
            known = await call(self.redis, "SMISMEMBER", name_key("replayed", self.tag), *origins)
            batch.replayed.update([origin for origin, applied in zip(origins, known, strict=True) if applied])
        missing = self._take({item.user_id for item in batch.items if item.user_id}, batch)
        members: Sequence[bytes] = ()
        if missing or self.earliest < watermark:
            members = await self._fetch(batch, missing, watermark)
        due = [(member[:16].decode(), member[17:].decode()) for member in members]
        if others := self._take({user for _, user in due if user not in batch.people}, batch):
            await self._fetch(batch, others, None)
        for identity, user in due:
            window = batch.people[user].windows.get(identity)
            if window is not None:
                batch.due.append(window)
            else:
                # A deadline whose window is gone closes nothing, and goes with this batch.
                batch.closed[identity] = Window(identity, "outcome", "", user, "", 0, 0)

    def _take(self, users: Iterable[str], batch: Batch) -> list[str]:
        """Move people from the cache into the batch; return those who are not there."""
        people, cache = batch.people, self.cache
        missing = []
        for user in users:
            dossier = cache.pop(user, None)
            if dossier is None:
                missing.append(user)
            else:
                people[user] = dossier
        return missing

    def accept(self, batch: Batch) -> None:
        """Take the committed batch's people back."""
        self.cache.update(batch.people)
        if batch.kept:
            self.earliest = min(self.earliest, min([window.deadline for window in batch.kept.values()]))
        while len(self.cache) > self.most:
            del self.cache[next(iter(self.cache))]

    def clear(self) -> None:
        """Forget everything: what Redis holds is not known any more."""
        self.cache.clear()
        self.earliest = -_FAR

    async def _fetch(self, batch: Batch, missing: list[str], watermark: int | None) -> Sequence[bytes]:
        """Read people into the batch; return the members due before `watermark` (None: none are asked for)."""
        # A window that this batch cancels must not shorten what the others can close.
        cancellable = sum([len(dossier.windows) for dossier in batch.people.values()])
        most = 0 if watermark is None else len(batch.items) * self.closings_per_event + cancellable
        arguments: list[Argument] = [self.tag, watermark or 0, most, *missing]
        earliest, due, flat = await _fetch(self.redis, [name_key("due", self.tag)], arguments)
        # What is due now may stay open, if an event may not close as many; and who asks for none learns nothing.
        if watermark is not None and most + len(missing) > 0:
            self.earliest = -_FAR if due else _FAR if earliest is None else float(earliest)
        try:
            for user, at in zip(missing, range(0, len(flat), 3), strict=True):
                batch.people[user] = _read_dossier(flat[at], flat[at + 1], flat[at + 2])
        except (ValueError, KeyError, struct.error) as error:
            # No event is to blame, and the next one of the partition would fail alike.
            raise UnknownState(f"what is kept of a person can't be read: {type(error).__name__}") from error
        return due  # type: ignore[no-any-return]


def _read_dossier(profile: Sequence[bytes], pending: Sequence[bytes], consent: Sequence[bytes]) -> Dossier:
    dossier = Dossier()
    if (found := decode_stored(profile)) is not None:
        dossier.person, dossier.stored = found
    if pending:
        dossier.windows = {
            name.decode(): _window.decode(packed) for name, packed in zip(pending[::2], pending[1::2], strict=True)
        }
    if consent:
        decode_consent(consent, dossier)
    return dossier
