"""Snapshots: a learner's state and its scorer, sealed so that only holders of the key can have written them.

The learn agent publishes them, every score worker loads them. A sealed snapshot is a MAC followed by msgpack; nothing
is decoded before the MAC was found to be right, and nothing is ever unpickled.
"""

from __future__ import annotations

import hmac
from typing import Annotated, Final, Literal

import msgspec

from models.lifecycle.sampling import Decision

Kind = Literal["outcome", "recommend"]

MAC_BYTES: Final = 32
KEY_BYTES: Final = 16
"""Shortest key that is accepted."""
CONTEXT: Final = b"nudge snapshot 1\x00"
"""Goes into the MAC, so that nothing else signed with the same key passes for a snapshot."""


class SnapshotRefused(Exception):
    """A snapshot that is not loaded; the message says why and what to do."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A model at one moment.

    `model` is the outcome's name, or `recommend`; `version` the examples offset up to which it has learned, that one
    included (of an examples log made anew, a number above all before); `schema` the hash of the feature layout (""
    where there are no features); `created_at` event time in epoch milliseconds. `positions` gives, for each partition
    of the events topic, the (generation, offset, index) of the last example learned, in snapshots of before there were
    generations (offset, index). `scoring` is what score workers load, empty while the model is cold; `learning` is
    what the learner resumes from; `champion` names the contestant that speaks, by evidence or an operator's word;
    `sampling` is what was decided of the terms of learning, the oldest first.
    """

    model: str
    kind: Kind
    version: int
    schema: str
    created_at: int
    positions: dict[int, Annotated[tuple[int, ...], msgspec.Meta(min_length=2, max_length=3)]]
    metrics: dict[str, float]
    scoring: bytes
    learning: bytes
    champion: str = ""
    sampling: tuple[Decision, ...] = ()

    def by_contestant(self) -> dict[str, dict[str, float]]:
        """Metrics of each contestant, by its name; those without a name are of what was served."""
        found: dict[str, dict[str, float]] = {}
        for key, value in self.metrics.items():
            name, dot, metric = key.partition(".")
            if dot:
                found.setdefault(name, {})[metric] = value
        return found


def seal(snapshot: Snapshot, key: bytes) -> bytes:
    """HMAC-SHA256 and msgpack of `snapshot`; raises ValueError for a key of less than 16 bytes."""
    if len(key) < KEY_BYTES:
        raise ValueError(f"the snapshot key has {len(key)} bytes, expected at least {KEY_BYTES}")
    body = msgspec.msgpack.encode(snapshot)
    return _mac(body, key) + body


def open_sealed(data: bytes, key: bytes) -> Snapshot:
    """The snapshot that was sealed with `key`; raises SnapshotRefused for anything else."""
    mac, body = data[:MAC_BYTES], data[MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(body, key)):
        raise SnapshotRefused("not signed with this key: altered, cut short, or written with another snapshot key")
    try:
        return msgspec.msgpack.decode(body, type=Snapshot)
    except msgspec.DecodeError as error:
        raise SnapshotRefused(f"signed, but written by another version of nudge: {error}") from error


def _mac(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, CONTEXT + body, "sha256")
