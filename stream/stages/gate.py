"""Gate: which items may go on. Privacy requests and consent objects take effect here, at their place in the log.

Without consent for the profile's purpose (mode `required`) an event is counted and forgotten; an event seen before is
counted and goes no further, and so does one that was sent back from the dead letters and applied before, however long
ago. Who withdraws that consent is forgotten: profile, open windows, ids seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from models.person import Person
from schemas.event import Event
from schemas.privacy import PURPOSES, Place, PrivacyRequest
from stream.settings import Settings
from stream.stages.batch import Batch, Dossier, Item

SEEN_EVENTS: Final = 8
SEEN_MINUTES: Final = 60
_HASH: Final = 6
_ENTRY: Final = 8


class Gate:
    """The stage's options: built once, called for every batch."""

    def __init__(self, settings: Settings) -> None:
        self.required = settings.consent.mode == "required"
        self.profile = settings.consent.profile
        self.trigger = settings.consent.trigger

    def __call__(self, batch: Batch) -> None:
        """Mark the admitted items, change consent, count what is denied or a duplicate."""
        for item in batch.items:
            if item.event is not None:
                self._admit(batch, item, item.event)
            elif item.request is not None:
                self._hear(batch, item, item.request)

    def may_trigger(self, batch: Batch, user: str, offset: int) -> bool:
        """Whether a trigger may be made for this person at `offset`; what changes later in the batch does not show."""
        history = batch.consented.get(user)
        if history is None:
            return self._permits(batch.people[user])
        return next(allowed for since, allowed in reversed(history) if since <= offset)

    @contextmanager
    def _noting(self, batch: Batch, user: str, item: Item) -> Iterator[None]:
        """Keep what was allowed before the change, and from this item on; see whether the profile has to go."""
        dossier = batch.people[user]
        history = batch.consented.setdefault(user, [(-1, self._permits(dossier))])
        yield
        history.append((item.record.offset, self._permits(dossier)))
        # Not only where it was allowed before: something may be kept of a time with other settings.
        if not self._allows(dossier, self.profile) and (dossier.person is not None or dossier.windows):
            item.withdrawn = True
            if dossier.person is not None:
                # The gate reads ahead of the features stage, which forgets the rest when it comes here.
                dossier.person.seen = b""

    def _permits(self, dossier: Dossier) -> bool:
        return self._allows(dossier, self.profile) and self._allows(dossier, self.trigger)

    def _allows(self, dossier: Dossier, purpose: str) -> bool:
        return dossier.consent.get(purpose, not self.required)

    def _hear(self, batch: Batch, item: Item, request: PrivacyRequest) -> None:
        if item.origin not in batch.replayed:
            with self._noting(batch, request.user_id, item):
                apply_request(batch.people[request.user_id], request, item.ledger, sent_back=bool(item.origin))
            _remember_origin(batch, item)
        batch.counts["consents"] += 1

    def _admit(self, batch: Batch, item: Item, event: Event) -> None:
        dossier = batch.people[event.user_id]
        if item.consent and (news := _choose_news(dossier, item.consent, event.ts)):
            with self._noting(batch, event.user_id, item):
                decide(dossier, news, event.ts)
        if not dossier.consent.get(self.profile, not self.required):
            batch.counts["denied"] += 1
            batch.counts["denied:" + item.role] += 1
            return
        if item.origin in batch.replayed:
            batch.counts["duplicates"] += 1
            batch.counts["duplicates:" + item.role] += 1
            return
        person = dossier.person
        if person is None:
            person = dossier.person = Person()
        entry = remember(person.seen, event.event_id, item.clock // 60_000)
        if entry is None:
            batch.counts["duplicates"] += 1
            batch.counts["duplicates:" + item.role] += 1
            return
        person.seen = entry
        _remember_origin(batch, item)
        item.admitted = True
        item.may_trigger = dossier.consent.get(self.trigger, not self.required)


def remember(seen: bytes, event_id: str, minute: int) -> bytes | None:
    """Put an event before those seen, or return None if it is among the last eight within the last hour.

    >>> once = remember(b"", "e1", 10)
    >>> remember(once, "e1", 70) is None, remember(once, "e1", 71) is None, len(remember(once, "e2", 10))
    (True, False, 16)
    """
    wanted = hashlib.blake2b(event_id.encode(), digest_size=_HASH).digest()
    at = seen.find(wanted)
    while at >= 0:
        if at % _ENTRY == 0:
            then = seen[at + _HASH] | seen[at + _HASH + 1] << 8
            if (minute - then) % 65_536 <= SEEN_MINUTES:
                return None
        at = seen.find(wanted, at + 1)
    return (wanted + (minute % 65_536).to_bytes(2, "little") + seen)[: _ENTRY * SEEN_EVENTS]


def _remember_origin(batch: Batch, item: Item) -> None:
    if item.origin:
        batch.replayed.add(item.origin)
        batch.replays.append(item.origin)


def apply_request(
    dossier: Dossier, request: PrivacyRequest, ledger: tuple[int, Place] | None, *, sent_back: bool = False
) -> None:
    """Change the consent kept in `dossier`, unless this request was applied before.

    A request passed on from the ledger carries its place there: one at or below the last applied of its ledger
    partition is a second copy, and must not undo what came after it. A ledger made anew is of a higher generation, so
    that its low offsets are no copies; so when the same requests are in it again, a grant that is dated before the
    last decision changes nothing. An erasure withdraws every purpose.

    One that was `sent_back` from the dead letters was never applied, whatever its ledger partition has brought since.
    """
    if ledger is not None:
        partition, place = ledger
        last = dossier.ledger.get(partition)
        if last is not None and place <= last:
            if not sent_back:
                return
            place = last
        dossier.ledger[partition] = place
    changes = dict.fromkeys(PURPOSES, False) if request.action == "erase" else request.consent
    news = {
        str(purpose): allowed
        for purpose, allowed in changes.items()
        if not allowed or request.ts >= dossier.decided.get(purpose, -1)
    }
    decide(dossier, news, request.ts)


def decide(dossier: Dossier, changes: Mapping[str, bool], ts: int) -> None:
    """Make `changes`, decided at `ts` (ms), what holds."""
    dossier.consent.update(changes)
    for purpose in changes:
        dossier.decided[purpose] = max(ts, dossier.decided.get(purpose, -1))


def _choose_news(dossier: Dossier, consent: Mapping[str, bool], ts: int) -> dict[str, bool]:
    """What a consent object at `ts` may change: it withdraws always, and grants only what was not decided later.

    Events come twice, late and again from the dead letters; none of that may undo a withdrawal.
    """
    return {
        purpose: allowed
        for purpose, allowed in consent.items()
        if dossier.consent.get(purpose) != allowed and (not allowed or ts > dossier.decided.get(purpose, -1))
    }
