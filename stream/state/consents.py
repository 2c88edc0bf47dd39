"""How what a person decided is kept: fields of a Redis hash.

A purpose's name holds `1` or `0`; `~` and the name, when that was decided (ms); `@` and a ledger partition, the place
there of the last request applied.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.privacy import Place
from stream.stages.batch import Dossier


def encode_consent(dossier: Dossier) -> list[str | int]:
    """Fields of the hash, flat: name, value, name, value, ..."""
    flat: list[str | int] = []
    for purpose, allowed in dossier.consent.items():
        flat += (purpose, int(allowed))
    for purpose, ts in dossier.decided.items():
        flat += (f"~{purpose}", ts)
    for partition, place in dossier.ledger.items():
        flat += (f"@{partition}", str(place))
    return flat


def decode_consent(flat: Sequence[bytes], dossier: Dossier) -> None:
    """Read what `encode_consent` wrote into `dossier`."""
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        if name.startswith(b"@"):
            dossier.ledger[int(name[1:])] = Place.parse(value.decode())
        elif name.startswith(b"~"):
            dossier.decided[name[1:].decode()] = int(value)
        else:
            dossier.consent[name.decode()] = value == b"1"
