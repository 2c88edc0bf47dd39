"""What the demo sends, in its order: the catalogue, the consents, then the events with the broken records among them.

The sample goes in, records for `stream.produce` come out; the same number of events gives the same records. Some
people's consent is kept back on purpose, to show what happens without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from stream.produce import Record
from stream.sample.broken import BROKEN, DUPLICATES, mix
from stream.sample.log import SampleLog

LEFT_OUT: Final = 0.05
"""Share of the people whose consent is not sent."""


class Cast:
    """The first `events` events of the sample (all when None or more than there are) and what goes before them.

    `events` is how many there are, `total` how many records are meant for the events topic, `consents` how many people
    consent.
    """

    def __init__(self, log: SampleLog, events: int | None) -> None:
        self.events = min(len(log), events or len(log))
        self.total = self.events + len(BROKEN) + DUPLICATES
        self._log = log
        self._withheld = log.left_out(LEFT_OUT, limit=self.events)
        self.consents = len(log.users(self.events)) - len(self._withheld)

    def list_items(self) -> Iterator[Record]:
        """The catalogue, keyed by item id."""
        return (Record(key, value) for key, value in self._log.items())

    def list_consents(self) -> Iterator[Record]:
        """One grant of every purpose for each person whose consent is not kept back."""
        for request in self._log.consents(LEFT_OUT, limit=self.events):
            yield Record(request.user_id.encode(), msgspec.json.encode(request))

    def list_events(self) -> Iterator[Record]:
        """The events in event-time order, broken records and second copies among them."""
        return mix(self._log.events(self.events), self.events, withheld=self._withheld)
