"""The bundled sample as records: events in event-time order, the catalogue, and the consents that go before them.

Rows of two Parquet files come in; keys and native JSON bytes leave, as a producer sends them. The same call gives the
same bytes each time, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Final, Self

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.event import Event
from schemas.privacy import PURPOSES, PrivacyRequest

FOLDER: Final = Path(__file__).parent
# Arrow puts a handler of its own in the place of Python's while it reads, and a Ctrl-C in that moment can get lost.
pa.enable_signal_handlers(False)

ROWS_AT_A_TIME: Final = 5_000
ASKED_BEFORE_MS: Final = 3_600_000
"""Consents are dated this long before the log's first event."""


class SampleLog:
    """The sample's events and items.

    >>> log = SampleLog.load()
    >>> key, value, ts = next(log.events())
    >>> key, value[:34], ts
    (b'or-15100', b'{"event_id":"or-536374-1","user_id', 1291194540000)
    """

    def __init__(self, events: pa.Table, catalogue: pa.Table) -> None:
        """Take tables as `stream.sample.build` makes them; `load` reads the bundled ones."""
        self._table = events
        self._catalogue = catalogue

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Self:
        """Read `sample.parquet` and `catalogue.parquet` from a folder; `FileNotFoundError` when one is missing."""
        return cls(pq.read_table(folder / "sample.parquet"), pq.read_table(folder / "catalogue.parquet"))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def events(self, limit: int | None = None) -> Iterator[tuple[bytes, bytes, int]]:
        """The first `limit` events (all when None): key (the user id), native JSON, event time in epoch ms."""
        encode, names = msgspec.json.Encoder().encode, self._table.column_names
        for batch in self._first(limit).to_batches(max_chunksize=ROWS_AT_A_TIME):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)  # three times to_pylist by row
            for event in msgspec.convert([dict(zip(names, row, strict=True)) for row in rows], list[Event]):
                yield event.user_id.encode(), encode(event), event.ts

    def _first(self, limit: int | None) -> pa.Table:
        return self._table.slice(0, limit)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """The catalogue's upserts: item id, and JSON with `item_id`, `title` and, where there is one, `category`."""
        encode = msgspec.json.Encoder().encode
        for row in self._catalogue.to_pylist():
            yield row["item_id"].encode(), encode({name: value for name, value in row.items() if value is not None})

    def users(self, limit: int | None = None) -> list[str]:
        """The people of the first `limit` events, by first appearance."""
        return self._first(limit)["user_id"].unique().to_pylist()  # type: ignore[no-any-return]

    def left_out(self, share: float = 0.05, seed: int = 0, limit: int | None = None) -> frozenset[str]:
        """Those of `users` whose consent the demo keeps back; a hash of seed and user decides, so `limit` does not."""
        return frozenset(user for user in self.users(limit) if _part(user, seed) < share)

    def consents(
        self, share_left_out: float = 0.05, seed: int = 0, *, limit: int | None = None
    ) -> Iterator[PrivacyRequest]:
        """A grant of every purpose for each of `users` save those `left_out`; composed, as the data has no consents."""
        withheld = self.left_out(share_left_out, seed, limit)
        asked = self._table["ts"][0].as_py() - ASKED_BEFORE_MS
        for user in self.users(limit):
            if user not in withheld:
                granted = dict.fromkeys(PURPOSES, True)
                yield PrivacyRequest(request_id=f"sample-{user}", user_id=user, ts=asked, consent=granted)


def _part(user: str, seed: int) -> float:
    """A number in [0, 1) that hangs on user and seed alone."""
    return int.from_bytes(blake2b(f"{seed}:{user}".encode(), digest_size=6).digest(), "big") / (1 << 48)
