"""A worker of before, run as a module in place of `nudge worker`: it writes the form of state before the present one.

`older` reads the present form too, as a release does that comes before the one which writes it; `oldest` has never
heard of it; `present` is the worker of now. All count at one half-life, for the form before knows no other.
"""

from __future__ import annotations

import sys

from models import person
from schemas.profile import HALF_LIFE
from stream import process
from stream.delivery import fence
from stream.settings import load_settings
from stream.state import forms, profiles
from tests.unit.former import pack_2

if __name__ == "__main__":
    person.BRIEF = person.LASTING = HALF_LIFE  # type: ignore[misc]
    if "present" not in sys.argv:
        profiles.pack = pack_2
        fence.WRITTEN = 2  # type: ignore[misc]
    if "oldest" in sys.argv:
        del forms.READERS[3]
    process.run_worker(load_settings())
