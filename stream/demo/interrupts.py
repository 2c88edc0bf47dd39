"""Ctrl-C while the demo starts: held on to until somebody can act on it.

Python raises `KeyboardInterrupt` wherever it is; inside a finaliser it is printed, and then forgotten.
"""

from __future__ import annotations

import signal
import sys


class Interrupts:
    """Remembers a Ctrl-C until `end`, and keeps one that is raised inside a finaliser from being printed."""

    def __init__(self) -> None:
        self._pressed = False
        self._before = signal.signal(signal.SIGINT, self._press)
        self._print = sys.unraisablehook
        sys.unraisablehook = self._pass_on

    def end(self) -> None:
        """Give Ctrl-C back to who had it before; raises `KeyboardInterrupt` if it was pressed meanwhile."""
        signal.signal(signal.SIGINT, self._before)
        sys.unraisablehook = self._print
        if self._pressed:
            raise KeyboardInterrupt

    def _pass_on(self, found: sys.UnraisableHookArgs) -> None:
        if found.exc_type is not KeyboardInterrupt:
            self._print(found)

    def _press(self, *_: object) -> None:
        self._pressed = True
        raise KeyboardInterrupt
