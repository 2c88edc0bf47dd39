"""The forms in which state is written: one number for all that lies under a partition's tag, and a reader for each.

The private part of a profile begins with the number of its form; the fence holds the highest under which anybody owned
the partition. Writers write `WRITTEN`. Readers of older forms stay, for a profile is written anew only when its person
is seen again; a form that has no reader here stops the partition, and nothing is reset.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from models.person import BOUGHT_WIDTH, CATEGORIES, HOURS, PACED, SESSION_WIDTH, Person

WRITTEN: Final = 3

_HEADER: Final = struct.Struct(f"<B{HOURS}s{2 * len(PACED)}dqBBBBB")
_HEADER_2: Final = struct.Struct(f"<B{HOURS}sqBBBBB")
_HEADER_1: Final = struct.Struct(f"<B{HOURS}sqQBBBB")
_FIRED: Final = struct.Struct("<Iq")
_WEIGHTS: Final = [struct.Struct(f"<{count}d") for count in range(CATEGORIES + 1)]
_SEEN_WIDTH: Final = 8


class UnknownState(Exception):
    """What is kept was written by a version of nudge that is not read here; the partition stops rather than guess."""


def check_form(form: int) -> None:
    """Raise `UnknownState` unless what is written in this form, and in those before it, is read here."""
    if form not in READERS:
        raise UnknownState(
            f"the state is of form {form}, this nudge reads {', '.join(map(str, READERS))}. Nothing is changed or "
            "lost: start the version that wrote it, or a later one, and it goes on where it stopped"
        )


def pack(person: Person) -> bytes:
    """The private state of a person, in the form `WRITTEN`."""
    sessions, seen, bought, weights, fired = person.sessions, person.seen, person.bought, person.weights, person.fired
    head = _HEADER.pack(
        WRITTEN,
        person.hours,
        *person.paces,
        person.last_conversion,
        len(sessions) // SESSION_WIDTH,
        len(seen) // _SEEN_WIDTH,
        len(bought) // BOUGHT_WIDTH,
        len(weights),
        len(fired),
    )
    tail = b"".join([_FIRED.pack(*pair) for pair in fired.items()]) if fired else b""
    return b"".join((head, sessions, seen, bought, _WEIGHTS[len(weights)].pack(*weights), tail))


def unpack(person: Person, state: bytes) -> None:
    """Fill the private fields of a person from a state of any form that is read. Raises `UnknownState`."""
    if not state:
        raise UnknownState("a profile without its private state")
    check_form(state[0])
    READERS[state[0]](person, state)


def _unpack_3(person: Person, state: bytes) -> None:
    _, person.hours, *found = _HEADER.unpack_from(state)
    person.paces = tuple(found[: 2 * len(PACED)])
    person.last_conversion, sessions, *counts = found[2 * len(PACED) :]
    at = _HEADER.size
    person.sessions = state[at : (at := at + sessions * SESSION_WIDTH)]
    _unpack_rest(person, state, at, counts)


def _unpack_2(person: Person, state: bytes) -> None:
    """Form 2 knew counts of one half-life; the others begin as those."""
    _, person.hours, person.last_conversion, sessions, *counts = _HEADER_2.unpack_from(state)
    _begin_paces(person)
    at = _HEADER_2.size
    person.sessions = state[at : (at := at + sessions * SESSION_WIDTH)]
    _unpack_rest(person, state, at, counts)


def _unpack_1(person: Person, state: bytes) -> None:
    """As form 2; of the sessions with a conversion it knew the latest: a number of eight bytes, 0 for none."""
    _begin_paces(person)
    _, person.hours, person.last_conversion, session, *counts = _HEADER_1.unpack_from(state)
    person.sessions = session.to_bytes(SESSION_WIDTH, "little") if session else b""
    _unpack_rest(person, state, _HEADER_1.size, counts)


def _begin_paces(person: Person) -> None:
    person.paces = tuple(getattr(person, f"events_{role}") for role in PACED) * 2


def _unpack_rest(person: Person, state: bytes, at: int, counts: list[int]) -> None:
    seen, bought, weights, fired = counts
    person.seen = state[at : (at := at + seen * _SEEN_WIDTH)]
    person.bought = state[at : (at := at + bought * BOUGHT_WIDTH)]
    person.weights = struct.unpack_from(f"<{weights}d", state, at)
    at += weights * 8
    person.fired = dict(_FIRED.iter_unpack(state[at : at + fired * _FIRED.size]))


READERS: Final[dict[int, Callable[[Person, bytes], None]]] = {1: _unpack_1, 2: _unpack_2, 3: _unpack_3}
