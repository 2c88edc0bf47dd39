"""Ctrl-C while the demo starts: held on to until somebody can act on it.

Python raises `KeyboardInterrupt` wherever it is; inside a finaliser it is printed, and then forgotten.
"""

from __future__ import annotations

import signal


class Interrupts:
    """Remembers a Ctrl-C until `end`: one that is raised inside a finaliser is printed by Python and then forgotten."""

    def __init__(self) -> None:
        self._pressed = False
        self._before = signal.signal(signal.SIGINT, self._press)

    def end(self) -> None:
        """Give Ctrl-C back to who had it before; raises `KeyboardInterrupt` if it was pressed meanwhile."""
        signal.signal(signal.SIGINT, self._before)
        if self._pressed:
            raise KeyboardInterrupt

    def _press(self, *_: object) -> None:
        self._pressed = True
        raise KeyboardInterrupt
