"""Records that a worker must survive, mixed into the sample on purpose.

The sample's events pass through `mix` unchanged and in order; seven broken records, one of each kind, and two second
copies of events come in between, at places that follow a seed.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Iterator
from typing import Final, NamedTuple

from schemas.reasons import Reason
from stream.produce import Record

DUPLICATES: Final = 2


class BrokenRecord(NamedTuple):
    """The reason for which it is to be refused, and the record as it is sent."""

    reason: Reason
    record: Record


def _broken(reason: Reason, value: bytes, key: bytes | None = b"demo-broken") -> BrokenRecord:
    return BrokenRecord(reason, Record(key, value))


_START: Final = b'{"event_id":"broken","user_id":"demo-broken","type":"purchase","ts":1300000000000'

BROKEN: Final = (
    _broken("not_json", b"order 536365 came in at 8:26", key=None),
    _broken("wrong_type", _START + b',"price":"two pounds"}'),
    _broken("missing_field", b'{"event_id":"broken","type":"purchase","ts":1300000000000}', key=None),
    _broken("over_long", _START + b',"content":"' + b"long " * 4_001 + b'"}'),
    _broken("too_deep", _START + b',"properties":' + b'{"a":' * 40 + b"0" + b"}" * 41),
    _broken("unknown_version", _START + b',"version":99}'),
    _broken("empty", b"", key=None),
)
"""One record of each kind. The over-long text has 20,005 characters, the deep one 40 levels."""


def mix(
    events: Iterable[tuple[bytes, bytes, int]], total: int, *, seed: int = 0, withheld: Container[str] = ()
) -> Iterator[Record]:
    """Records of `events` with every one of `BROKEN` and `DUPLICATES` second copies among the first `total`.

    A second copy follows its event at once. People in `withheld` get none, because what they do is denied before it
    could be recognised. At most `total + len(BROKEN) + DUPLICATES` records come out; broken records whose place lies
    beyond the last event come at the end.
    """
    rng = random.Random(seed)
    broken = [each.record for each in BROKEN]
    rng.shuffle(broken)
    places = sorted((rng.randrange(max(total, 1)) for _ in broken), reverse=True)
    again = sorted((rng.randrange(max(total * 3 // 4, 1)) for _ in range(DUPLICATES)), reverse=True)
    for place, (key, value, _) in enumerate(events):
        while places and places[-1] <= place:
            places.pop()
            yield broken.pop()
        record = Record(key, value)
        yield record
        if again and again[-1] <= place and key.decode() not in withheld:
            again.pop()
            yield record
    yield from broken
