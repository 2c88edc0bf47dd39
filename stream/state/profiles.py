"""How a person is kept: readable fields of a Redis hash, and the private state in chunks `_0`, `_1`, ...

Numbers are written in the shortest form that reads back to the same bits; empty fields are left out; nothing that a
readable field says is repeated in the state, whose forms stand in `stream.state.forms`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import astuple

from models.person import Person
from schemas.profile import Profile
from stream.stages.batch import Image
from stream.state.forms import pack, unpack

CHUNK: Final = 64

_json = msgspec.json.Encoder()
_names = msgspec.json.Decoder(tuple[str, ...])


def _write_float(value: float) -> bytes | str:
    """Seven times as fast as `repr`; but JSON has no infinity."""
    text = _json.encode(value)
    return text if text != b"null" else repr(value)


_INTS: Final = ("first_seen", "last_seen", "conversion_version", "orders", "best_hour", "version")
_FLOATS: Final = (
    "sentiment",
    "sentiment_n",
    "conversion_probability",
    "churn_probability",
    "ctr",
    "events_exposure",
    "events_click",
    "events_view",
    "events_intent",
    "events_conversion",
    "events_feedback",
    "events_other",
    "revenue",
)
_TEXTS: Final = ("last_event", "segment")
_LISTS: Final = ("top_categories", "last_items")
_EMPTY: Final = {field.name: field.default for field in msgspec.structs.fields(Profile)}
assert {*_INTS, *_FLOATS, *_TEXTS, *_LISTS} == set(_EMPTY)
_WAYS: Final[dict[str, Callable[[Any], bytes | str]]] = {
    **dict.fromkeys(_INTS + _LISTS, _json.encode),
    **dict.fromkeys(_FLOATS, _write_float),
    **dict.fromkeys(_TEXTS, str),
}
_WRITERS: Final = [(name.encode(), _EMPTY[name], _WAYS[name]) for name in _EMPTY]
"""Key, empty value and how it is written, for every readable field in its order: a person's first ones."""
_LAST_SEEN: Final = list(_EMPTY).index("last_seen")
_NAMES: Final = [f"_{number}".encode() for number in range(256)]


def take_image(person: Person) -> Image:
    """What is stored of the person as it is now; nothing that happens to the person later shows in it."""
    return Image(astuple(person), pack(person))


def read_last_seen(image: Image) -> int:
    """Time of the person's latest event, epoch milliseconds."""
    return image.values[_LAST_SEEN]  # type: ignore[no-any-return]


def encode_image(image: Image) -> list[bytes | str]:
    """Fields of the hash, flat: name, value, name, value, ..."""
    flat: list[bytes | str] = []
    for value, (key, empty, write) in zip(image.values, _WRITERS, strict=False):
        if value != empty and value is not None:
            flat += (key, write(value))
    state = image.state
    for at in range(0, len(state), CHUNK):
        flat += (_NAMES[at // CHUNK], state[at : at + CHUNK])
    return flat


def encode_changes(image: Image, before: Image) -> list[bytes | str] | None:
    """The fields in which `image` differs from `before`; None where one has to go, so that all must be written."""
    flat: list[bytes | str] = []
    for value, known, (key, empty, write) in zip(image.values, before.values, _WRITERS, strict=False):
        if value is not known and value != known:
            if value is None or value == empty:
                return None
            flat += (key, write(value))
    state, kept = image.state, before.state
    if len(state) < len(kept):
        return None
    for at in range(0, len(state), CHUNK):
        chunk = state[at : at + CHUNK]
        if chunk != kept[at : at + CHUNK]:
            flat += (_NAMES[at // CHUNK], chunk)
    return flat


def decode_person(flat: Sequence[bytes]) -> Person | None:
    """Read what `encode_image` gave, field order aside; None for no fields. Raises `UnknownState`."""
    found = decode_stored(flat)
    return None if found is None else found[0]


def decode_stored(flat: Sequence[bytes]) -> tuple[Person, Image] | None:
    """A person, and the image of how Redis holds it, which may be an older form than would be written now."""
    if not flat:
        return None
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    person = Person()
    for name, value in fields.items():
        text = name.decode()
        if text in _READERS:
            setattr(person, text, _READERS[text](value))
    state = b"".join(_chunks(fields))
    unpack(person, state)
    return person, Image(astuple(person), state)


def read_profile(flat: Sequence[bytes]) -> Profile | None:
    """The readable fields alone, for other programs; None for no fields."""
    if not flat:
        return None
    values = {
        name: _READERS[name](value)
        for name, value in zip([key.decode() for key in flat[::2]], flat[1::2], strict=True)
        if name in _READERS
    }
    return msgspec.convert(values, Profile)


_READERS: Final[dict[str, Callable[[bytes], object]]] = {
    **dict.fromkeys(_INTS, int),
    **dict.fromkeys(_FLOATS, float),
    **dict.fromkeys(_TEXTS, bytes.decode),
    **dict.fromkeys(_LISTS, _names.decode),
}


def _chunks(fields: dict[bytes, bytes]) -> Iterator[bytes]:
    for name in _NAMES:
        if name not in fields:
            return
        yield fields[name]
