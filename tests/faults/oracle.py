"""A second opinion, from the raw log alone: counters, consent, and the triggers of a rule that needs no model.

Nothing of `stream` or `models` is imported, no code is shared with the worker or with the reference, and nothing is
done in batches: one record after the other changes plain dicts. What it does not judge (scores, features, labels)
stands in the reference.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

PURPOSES = ("personalisation", "marketing", "analytics")
ROLES = {
    "ad_impression": "exposure",
    "ad_click": "click",
    "page_view": "view",
    "add_to_cart": "intent",
    "purchase": "conversion",
    "review": "feedback",
}
MINUTE = 60_000


@dataclass
class Someone:
    """What is known of one person."""

    consent: dict[str, bool] = field(default_factory=dict)
    decided: dict[str, int] = field(default_factory=dict)
    ledger: dict[int, int] = field(default_factory=dict)
    ring: list[tuple[str, int]] = field(default_factory=list)
    """The last eight events admitted: id, and the minute of the clock at which it was."""
    last_seen: int | None = None
    armed: tuple[int, str] | None = None
    """When the intent was that waits for a purchase, and its event's id."""
    fired: int | None = None


class Oracle:
    """Reads one partition, under the event clock and where consent is required.

    The rule: an intent not followed by a conversion within `after`, no more than once in `cooldown`, and found out
    within `valid_for`; a person not seen for `ttl` begins anew; every event closes all waits that are over.
    """

    def __init__(self, *, lateness: int, after: int, cooldown: int, valid_for: int, ttl: int, rule: str) -> None:
        self.lateness, self.after, self.cooldown, self.ttl, self.rule = lateness, after, cooldown, ttl, rule
        self.valid_for = valid_for
        self.people: dict[str, Someone] = {}
        self.counts: Counter[str] = Counter()
        self.triggers: set[str] = set()
        self.waiting: dict[str, tuple[int, str]] = {}
        self.now = self.watermark = 0

    def read(self, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> None:
        """Take one record in."""
        marks = dict(headers)
        told = _parse(value)
        if told is None:
            self.counts["dead_letters"] += 1
        elif marks.get("nudge-kind") == b"privacy":
            self._request(told, marks.get("nudge-ledger"))
        elif "userId" in told:
            news = {name: bool(yes) for name, yes in told["context"]["consent"]["categoryPreferences"].items()}
            at = _read_time(told["timestamp"])
            self._event(told["userId"], told["messageId"], told["event"], at, news)
        else:
            self._event(told["user_id"], told["event_id"], told["type"], told["ts"], {})

    def consents(self) -> dict[str, dict[str, bool]]:
        """Purposes decided, by person."""
        return {user: dict(one.consent) for user, one in self.people.items() if one.consent}

    def _request(self, told: Mapping[str, Any], place: bytes | None) -> None:
        self.counts["consents"] += 1
        one = self.people.setdefault(told["user_id"], Someone())
        if place is not None:
            partition, offset = (int(part) for part in place.split(b"/"))
            if offset <= one.ledger.get(partition, -1):
                return
            one.ledger[partition] = offset
        erase = told.get("action") == "erase"
        news = dict.fromkeys(PURPOSES, False) if erase else told["consent"]
        ts = told["ts"]
        withdrawn = self._decide(
            one, {p: yes for p, yes in news.items() if not yes or ts >= one.decided.get(p, -1)}, ts
        )
        self._close()
        if withdrawn:
            one.last_seen = one.armed = one.fired = None

    def _event(self, user: str, event_id: str, kind: str, ts: int, news: Mapping[str, bool]) -> None:
        late = ts < self.watermark
        self.now, self.watermark = max(self.now, ts), max(self.watermark, ts - self.lateness)
        one = self.people.setdefault(user, Someone())
        later = {p: yes for p, yes in news.items() if not yes or ts > one.decided.get(p, -1)}
        withdrawn = self._decide(one, {p: yes for p, yes in later.items() if one.consent.get(p) != yes}, ts)
        admitted = self._admit(one, event_id)
        self._close()
        if withdrawn:
            one.last_seen = one.armed = one.fired = None
        if admitted:
            self._take(one, user, event_id, ROLES.get(kind, "other"), ts, late)

    def _decide(self, one: Someone, news: Mapping[str, bool], ts: int) -> bool:
        """Change what is allowed; whether the person is to be forgotten."""
        had = one.consent.get("personalisation", False)
        for purpose, yes in news.items():
            one.consent[purpose] = yes
            one.decided[purpose] = max(ts, one.decided.get(purpose, ts))
        withdrawn = had and not one.consent.get("personalisation", False)
        if withdrawn:
            one.ring = []
        return withdrawn

    def _admit(self, one: Someone, event_id: str) -> bool:
        if not one.consent.get("personalisation", False):
            self.counts["denied"] += 1
            return False
        minute = self.now // MINUTE
        if any(known == event_id and minute - then <= 60 for known, then in one.ring):
            self.counts["duplicates"] += 1
            return False
        one.ring = [(event_id, minute), *one.ring][:8]
        self.counts["scored"] += 1
        return True

    def _close(self) -> None:
        for user in [user for user, (at, _) in self.waiting.items() if at + self.after < self.watermark]:
            at, event_id = self.waiting.pop(user)
            one = self.people[user]
            if one.armed != (at, event_id):
                continue
            one.armed = None
            deadline = at + self.after
            if not (one.consent.get("personalisation", False) and one.consent.get("marketing", False)):
                continue
            if self.now - deadline > self.valid_for:
                continue
            if one.fired is None or deadline - one.fired >= self.cooldown:
                one.fired = deadline
                text = "\x1f".join((user, event_id, self.rule))
                self.triggers.add(hashlib.blake2b(text.encode(), digest_size=12).hexdigest())

    def _take(self, one: Someone, user: str, event_id: str, role: str, ts: int, late: bool) -> None:
        if one.last_seen is not None and one.last_seen + self.ttl < self.now:
            one.last_seen = one.fired = None
        if role == "conversion" and one.armed is not None and ts >= one.armed[0]:
            one.armed = None
        one.last_seen = ts if one.last_seen is None else max(ts, one.last_seen)
        if role == "intent" and not late and (one.armed is None or one.armed[0] <= ts):
            one.armed = self.waiting[user] = (ts, event_id)


def _parse(value: bytes | None) -> dict[str, Any] | None:
    try:
        told = json.loads(value or b"")
    except ValueError:
        return None
    if "userId" in told or ("user_id" in told and isinstance(told.get("ts"), int)):
        return told  # type: ignore[no-any-return]
    return None


def _read_time(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000)
