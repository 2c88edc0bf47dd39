"""The people of one partition: loaded in one call a batch, kept in memory while this worker owns the partition.

A batch gets working copies. They become the cache's own only after the commit said yes; a refusal, an unknown reply
or a revocation empties the cache, because then nobody here knows what Redis holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from redis.asyncio import Redis

from models.outcomes.windows import Window
from stream.stages.batch import Batch, Dossier
from stream.state.keys import Tag, name_key
from stream.state.profiles import decode_person
from stream.state.scripts import Argument, Script

_fetch: Final = Script("stream.state", "fetch.lua")
_window: Final = msgspec.msgpack.Decoder(Window)
_FAR: Final = float("inf")


class People:
    """Cache of the dossiers of one partition; at most `most`, the least recently written go first."""

    def __init__(self, redis: Redis, tag: Tag, most: int, closings_per_event: int) -> None:
        self.redis = redis
        self.tag = tag
        self.most = most
        self.closings_per_event = closings_per_event
        self.cache: dict[str, Dossier] = {}
        self.earliest = -_FAR
        """No window in Redis is due before this; unknown at first."""

    async def load(self, batch: Batch, watermark: int) -> None:
        """Fill `batch.people` with working copies of everybody in it, and `batch.due`.

        `watermark` is the highest that the batch reaches.
        """
        users = {about.user_id for item in batch.items if (about := item.event or item.request) is not None}
        missing = [user for user in users if user not in self.cache]
        due: Sequence[bytes] = ()
        if missing or self.earliest < watermark:
            due = await self._fetch(missing, watermark, self._most_due(batch, users))
        for user in users:
            self._copy(batch, user)
        for member in due:
            identity, user = member[:16].decode(), member[17:].decode()
            if user not in batch.people:
                self._copy(batch, user)
            window = batch.people[user].windows.get(identity)
            if window is not None:
                batch.due.append(window)
            else:
                # A deadline whose window is gone closes nothing, and goes with this batch.
                batch.closed[identity] = Window(identity, "outcome", "", user, "", 0, 0)

    def _copy(self, batch: Batch, user: str) -> None:
        before = batch.before[user] = self.cache[user]
        batch.people[user] = before.copy()

    def accept(self, batch: Batch) -> None:
        """Make the committed batch's copies the cache's own."""
        for user in batch.people.keys() - batch.touched - batch.consented.keys():
            # Windows of people without an event of their own may have closed too.
            self.cache[user] = batch.people[user]
        for user in batch.touched | batch.consented.keys():
            self.cache.pop(user, None)
            self.cache[user] = batch.people[user]
        for window in batch.kept.values():
            self.earliest = min(self.earliest, window.deadline)
        while len(self.cache) > self.most:
            del self.cache[next(iter(self.cache))]

    def clear(self) -> None:
        """Forget everything: what Redis holds is not known any more."""
        self.cache.clear()
        self.earliest = -_FAR

    def _most_due(self, batch: Batch, users: set[str]) -> int:
        cancellable = sum(len(self.cache[user].windows) for user in users if user in self.cache)
        return len(batch.items) * self.closings_per_event + cancellable

    async def _fetch(self, missing: list[str], watermark: int, most: int) -> Sequence[bytes]:
        arguments: list[Argument] = [self.tag, watermark, most, len(missing), *missing]
        earliest, due, flat = await _fetch(self.redis, [name_key("due", self.tag)], arguments)
        # What is due now may stay open, if an event may not close as many; and who asks for none learns nothing.
        if most + len(missing) > 0:
            self.earliest = -_FAR if due else _FAR if earliest is None else float(earliest)
        for at in range(0, len(flat), 4):
            user = flat[at].decode()
            if user not in self.cache:
                self.cache[user] = _read_dossier(flat[at + 1], flat[at + 2], flat[at + 3])
        return due  # type: ignore[no-any-return]


def _read_dossier(profile: Sequence[bytes], pending: Sequence[bytes], consent: Sequence[bytes]) -> Dossier:
    dossier = Dossier(person=decode_person(profile))
    dossier.windows = {
        identity.decode(): _window.decode(packed) for identity, packed in zip(pending[::2], pending[1::2], strict=True)
    }
    for name, value in zip(consent[::2], consent[1::2], strict=True):
        if name.startswith(b"@"):
            dossier.ledger[int(name[1:])] = int(value)
        elif name.startswith(b"~"):
            dossier.decided[name[1:].decode()] = int(value)
        else:
            dossier.consent[name.decode()] = value == b"1"
    return dossier
