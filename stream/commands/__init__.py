"""What operators and consumers ask of a running nudge, one command a module.

Each takes the settings, reads Kafka, Redis or files, prints a table or JSON on standard output and changes nothing,
`dlq replay`, `fence reset`, `schemas --write`, `train --out` and what `models` tells workers aside. What goes wrong is
a `CommandError`, which the command line prints as one line.
"""

from __future__ import annotations


class CommandError(Exception):
    """The command can't give its answer; the message says what was found and what to do."""

    code: int = 1
    """Exit code of the process."""


class Unreachable(CommandError):
    """A server does not answer, or lets nobody in; the message names its address, never a credential."""

    code = 3
