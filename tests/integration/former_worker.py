"""A worker of before, run as a module in place of `nudge worker`: it writes the form of state before the present one.

`older` reads the present form too, as a release does that comes before the one which writes it; `oldest` has never
heard of it.
"""

from __future__ import annotations

import sys

from stream import process
from stream.delivery import fence
from stream.settings import load_settings
from stream.state import forms, profiles
from tests.unit.former import pack_1

if __name__ == "__main__":
    profiles.pack = pack_1
    fence.WRITTEN = 1  # type: ignore[misc]
    if "oldest" in sys.argv:
        del forms.READERS[2]
    process.run_worker(load_settings())
