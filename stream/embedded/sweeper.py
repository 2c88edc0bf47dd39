"""The program that tidies up after a process which can no longer do it itself.

It runs in a session of its own and reads lines from standard input, a pipe whose other end only the watched process
holds: `watch PID`, `forget PID` (a process group) and `sweep FOLDER`. End of file means that the process is gone,
however it went: the groups still watched are killed, the folders removed. It imports the standard library alone and
is run by path, so that it starts in a few hundredths of a second.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_PATIENCE_S = 10.0


def read_orders(lines: Iterable[str]) -> tuple[set[int], list[Path]]:
    """What is left to kill and to remove once `lines` has ended.

    >>> read_orders(["watch 7", "sweep /tmp/a", "watch 8", "forget 7"])
    ({8}, [PosixPath('/tmp/a')])
    """
    groups: set[int] = set()
    folders: list[Path] = []
    for line in lines:
        verb, _, value = line.rstrip("\n").partition(" ")
        if verb == "watch":
            groups.add(int(value))
        elif verb == "forget":
            groups.discard(int(value))
        elif verb == "sweep":
            folders.append(Path(value))
    return groups, folders


def kill_groups(groups: Iterable[int]) -> None:
    """SIGKILL to each process group that still exists."""
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def remove_folder(folder: Path) -> None:
    """Remove `folder`; again for up to ten seconds, because a dying server may still be writing into it."""
    deadline = time.monotonic() + _PATIENCE_S
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


def main() -> None:
    """Wait for the end of standard input, then tidy up."""
    groups, folders = read_orders(sys.stdin)
    kill_groups(groups)
    for folder in folders:
        remove_folder(folder)


if __name__ == "__main__":
    main()
