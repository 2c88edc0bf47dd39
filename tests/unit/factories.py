"""Events for tests, said in one line: `event("u1").at(1_000).of_type("purchase").having(price=9.5)`.

A draft never changes: every step gives a new one, so that a half-said draft can be shared. It ends as an `Event`
(`build`), a dict as on the wire (`as_dict`) or JSON bytes (`as_json`). Nothing is random.
"""

from __future__ import annotations

from typing import Any

import msgspec

from schemas.event import Event

NOON = 1_714_564_800_000
"""2024-05-01T12:00:00Z, when an event happens unless said otherwise."""


class EventDraft(msgspec.Struct, frozen=True):
    """An event not yet made. Without `known_as`, its id says user, type and time, and so is unique per person."""

    fields: dict[str, Any]

    def at(self, ts: int | str) -> EventDraft:
        """`ts`: epoch milliseconds; ISO 8601 text only for `as_dict` and `as_json`."""
        return self.having(ts=ts)

    def after(self, ms: int) -> EventDraft:
        """Later than it was by `ms`."""
        return self.having(ts=self.fields["ts"] + ms)

    def of_type(self, type: str) -> EventDraft:
        return self.having(type=type)

    def known_as(self, event_id: str) -> EventDraft:
        return self.having(event_id=event_id)

    def saying(self, content: str, lang: str | None = None) -> EventDraft:
        return self.having(content=content, lang=lang) if lang else self.having(content=content)

    def having(self, **fields: Any) -> EventDraft:
        """With these fields of the wire, known to the contract or not."""
        return EventDraft(self.fields | fields)

    def without(self, *names: str) -> EventDraft:
        """With these fields absent; only for `as_dict` and `as_json` if they are required."""
        return EventDraft(self.as_dict() | dict.fromkeys(names, _ABSENT))

    def as_dict(self) -> dict[str, Any]:
        fields = self.fields
        event_id = f"{fields['user_id']}-{fields['type']}-{fields['ts']}"
        return {name: value for name, value in ({"event_id": event_id} | fields).items() if value is not _ABSENT}

    def as_json(self) -> bytes:
        return msgspec.json.encode(self.as_dict())

    def build(self) -> Event:
        """The event. A field that the contract refuses is an error here too."""
        fields = self.as_dict()
        assert fields.keys() <= set(Event.__struct_fields__), "the contract has no such field"
        return msgspec.convert(fields, Event)


_ABSENT = object()


def event(user: str = "u1", **fields: Any) -> EventDraft:
    """A page view of `user` at noon, with `fields` besides."""
    return EventDraft({"user_id": user, "type": "page_view", "ts": NOON} | fields)
