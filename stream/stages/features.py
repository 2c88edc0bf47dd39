"""Features: the walk in which events become part of their people, in log order.

At each item the windows that fell due are closed first, in (deadline, id) order and a bounded number; then the event
fulfils or cancels windows, changes its person, has its features frozen and opens windows. What a decision needs later
is captured here, at the item, so that no later event of the batch shows.
"""

from __future__ import annotations

import heapq
import itertools
import struct
from collections import defaultdict
from typing import Final

from models.outcomes.features import DAY, FEATURES, freeze
from models.outcomes.windows import Window, fulfils, name_window
from models.person import Person, advance, hash_session
from schemas.event import Event, Role
from stream.settings import AbandonedRule, Outcome, Settings
from stream.stages.batch import Batch, Closing, Dossier, Item, Moment
from stream.stages.gate import Gate

Heap = list[tuple[int, str, int, Window]]
"""Windows by (deadline, id); the number only keeps two of one id from being compared."""

_numbers = itertools.count()
_pack_row: Final = struct.Struct(f"{len(FEATURES)}d").pack


class Features:
    """The stage's options: built once, called for every batch."""

    def __init__(self, settings: Settings, gate: Gate) -> None:
        self.gate = gate
        self.ttl = settings.profile_ttl
        self.bound = settings.batch.closings_per_event
        self.opening: dict[Role, list[Outcome]] = defaultdict(list)
        self.arming: dict[Role, list[AbandonedRule]] = defaultdict(list)
        self.ending: dict[Role, dict[tuple[str, str], Outcome | None]] = defaultdict(dict)
        """What ends windows of a kind and name: the outcome that they are of, None for a rule."""
        for outcome in settings.outcomes:
            for role in outcome.opened_by:
                self.opening[role].append(outcome)
            for role in outcome.fulfilled_by:
                self.ending[role]["outcome", outcome.name] = outcome
        for rule in settings.rules:
            if isinstance(rule, AbandonedRule):
                for role in rule.opened_by:
                    self.arming[role].append(rule)
                for role in rule.cancelled_by:
                    self.ending[role]["rule", rule.name] = None
        self.frozen = frozenset((*settings.score_on, *self.opening))

    def __call__(self, batch: Batch) -> None:
        """Fill `closings`, `fulfilled`, `opened`, `row` and `moment` of the items, and what the batch is to write."""
        heap: Heap = [(window.deadline, window.id, next(_numbers), window) for window in batch.due]
        heapq.heapify(heap)
        for item in batch.items:
            if heap and heap[0][0] < item.watermark:
                self._close(batch, item, heap)
            if item.withdrawn:
                _forget(batch, item.user_id)
            if item.admitted and item.event is not None:
                self._take(batch, item, item.event, heap)

    def _close(self, batch: Batch, item: Item, heap: Heap) -> None:
        while heap and heap[0][0] < item.watermark and len(item.closings) < self.bound:
            deadline, identity, _, known = heapq.heappop(heap)
            dossier = batch.people[known.user_id]
            window = dossier.windows.get(identity)
            if window is None or window.deadline != deadline:
                continue
            del dossier.windows[identity]
            _drop(batch, window)
            person = dossier.person
            moment = Moment(person.last_items, person.bought) if person else Moment((), b"")
            may_trigger = person is not None and self.gate.may_trigger(batch, known.user_id, item.record.offset)
            item.closings = (*item.closings, Closing(window, person, moment, may_trigger))

    def _take(self, batch: Batch, item: Item, event: Event, heap: Heap) -> None:
        role = item.role
        dossier = batch.people[event.user_id]
        person = item.person = self._person(dossier, item.clock)
        batch.touched.add(event.user_id)
        if dossier.windows and role in self.ending:
            self._end(batch, item, dossier, event)
        gap = event.ts - person.last_seen if person.version else 0
        since = event.ts - person.last_conversion if person.last_conversion else None
        advance(person, event, role, item.sentiment, item.late)
        if item.late:
            batch.counts["late"] += 1
            return
        item.moment = Moment(person.last_items, person.bought)
        if role in self.frozen:
            item.row = freeze(person, event, role, gap, since)
            # Packed while it is at hand: a row read again at the end of a batch would come from far memory.
            batch.rows += _pack_row(*item.row)
        if role in self.opening:
            for outcome in self.opening[role]:
                self._open(batch, item, dossier, event, outcome, heap)
        if role in self.arming:
            for rule in self.arming[role]:
                _arm(batch, dossier, event, rule, heap)

    def _person(self, dossier: Dossier, now: int) -> Person:
        """The person as of `now`; one not seen for the profile's time to live begins anew."""
        person = dossier.person or Person()
        if person.version and person.last_seen + self.ttl < now:
            # What was seen a moment ago belongs to the log, not to the profile.
            person = Person(seen=person.seen)
        dossier.person = person
        return person

    def _end(self, batch: Batch, item: Item, dossier: Dossier, event: Event) -> None:
        ending = self.ending[item.role]
        session = hash_session(event.session_id)
        # Redis gives windows back in any order, and what is decided again must get the same places.
        for window in sorted(dossier.windows.values(), key=lambda known: (known.deadline, known.id)):
            if (window.kind, window.name) not in ending:
                continue
            outcome = ending[window.kind, window.name]
            if outcome is None:
                if event.ts >= window.opened_at:
                    del dossier.windows[window.id]
                    _drop(batch, window)
            elif not window.fulfilled:
                other = session if outcome.other_session else 0
                if fulfils(window, event, other, outcome.same, outcome.after):
                    item.fulfilled = (*item.fulfilled, _fulfil(batch, window))

    def _open(self, batch: Batch, item: Item, dossier: Dossier, event: Event, outcome: Outcome, heap: Heap) -> None:
        session = hash_session(event.session_id)
        campaign = event.campaign_id if item.role == "exposure" else None
        mine = [w for w in dossier.windows.values() if w.kind == "outcome" and w.name == outcome.name]
        identity = name_window(event.user_id, event.event_id, outcome.name)
        if identity in dossier.windows:
            return
        if mine and _is_open(outcome.once_per, mine, event, session, campaign):
            return
        if len(mine) >= outcome.max_open:
            batch.counts["windows_refused"] += 1
            return
        window = Window(
            id=identity,
            kind="outcome",
            name=outcome.name,
            user_id=event.user_id,
            event_id=event.event_id,
            opened_at=event.ts,
            deadline=event.ts + outcome.window,
            session=session,
            campaign_id=campaign,
            channel=event.channel,
            features=item.row or (),
            item_id=event.item_id if "item" in (*outcome.same, outcome.once_per) else None,
            trigger_id=event.trigger_id if "trigger" in outcome.same else None,
        )
        item.opened = (*item.opened, window)
        _keep(batch, dossier, window, heap)


def _is_open(once_per: str, mine: list[Window], event: Event, session: int, campaign: str | None) -> bool:
    """Whether one of an outcome's open windows, `mine`, stands for `event` too."""
    if once_per == "session":
        return bool(session or campaign) and any(w.session == session and w.campaign_id == campaign for w in mine)
    if once_per == "item":
        item = event.item_id
        return item is not None and any(w.item_id == item and w.campaign_id == campaign for w in mine)
    if once_per == "day":
        return any(w.opened_at // DAY == event.ts // DAY for w in mine)
    return once_per == "window"


def _arm(batch: Batch, dossier: Dossier, event: Event, rule: AbandonedRule, heap: Heap) -> None:
    """Open the rule's window, or open it anew: a person has one a rule, counted from the latest intent."""
    for window in list(dossier.windows.values()):
        if window.kind == "rule" and window.name == rule.name:
            if window.opened_at > event.ts:
                return
            del dossier.windows[window.id]
            _drop(batch, window)
    window = Window(
        id=name_window(event.user_id, event.event_id, rule.name),
        kind="rule",
        name=rule.name,
        user_id=event.user_id,
        event_id=event.event_id,
        opened_at=event.ts,
        deadline=event.ts + rule.after,
        campaign_id=event.campaign_id,
        channel=event.channel,
    )
    _keep(batch, dossier, window, heap)


def _forget(batch: Batch, user: str) -> None:
    """Drop what is kept about a person: open windows give no label and fire nothing."""
    dossier = batch.people[user]
    for window in dossier.windows.values():
        _drop(batch, window)
    dossier.windows.clear()
    if dossier.person is not None:
        # What the gate has seen since is of a later consent.
        dossier.person = Person(seen=dossier.person.seen)
        batch.touched.add(user)


def _fulfil(batch: Batch, window: Window) -> Window:
    window.fulfilled = True
    batch.kept[window.id] = window
    return window


def _keep(batch: Batch, dossier: Dossier, window: Window, heap: Heap) -> None:
    dossier.windows[window.id] = window
    batch.closed.pop(window.id, None)
    batch.kept[window.id] = window
    heapq.heappush(heap, (window.deadline, window.id, next(_numbers), window))


def _drop(batch: Batch, window: Window) -> None:
    batch.kept.pop(window.id, None)
    batch.closed[window.id] = window
