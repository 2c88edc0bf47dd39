"""State as it was written before: a writer for each form that is still read."""

from __future__ import annotations

import struct

from models.person import BOUGHT_WIDTH, HOURS, SESSION_WIDTH, Person

_HEADER_1 = struct.Struct(f"<B{HOURS}sqQBBBB")
_HEADER_2 = struct.Struct(f"<B{HOURS}sqBBBBB")


def pack_1(person: Person) -> bytes:
    """Form 1, which knew one session with a conversion: the latest, as a number of eight bytes, 0 for none."""
    session = int.from_bytes(person.sessions[:SESSION_WIDTH], "little")
    return _HEADER_1.pack(1, person.hours, person.last_conversion, session, *_count(person)) + _pack_rest(person)


def pack_2(person: Person) -> bytes:
    """Form 2, which knew counts of one half-life."""
    sessions = len(person.sessions) // SESSION_WIDTH
    head = _HEADER_2.pack(2, person.hours, person.last_conversion, sessions, *_count(person))
    return head + person.sessions + _pack_rest(person)


def _count(person: Person) -> tuple[int, ...]:
    return len(person.seen) // 8, len(person.bought) // BOUGHT_WIDTH, len(person.weights), len(person.fired)


def _pack_rest(person: Person) -> bytes:
    weights = struct.pack(f"<{len(person.weights)}d", *person.weights)
    fired = b"".join(struct.pack("<Iq", *pair) for pair in person.fired.items())
    return b"".join((person.seen, person.bought, weights, fired))
