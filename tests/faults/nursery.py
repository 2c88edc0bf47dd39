"""Where the schedules' workers come from: a process that has imported all that a worker needs, and forks.

To import it takes more of a machine's time than a whole schedule does, and a schedule starts many workers. Orders are
lines of JSON on the standard input, answers are process ids on the standard output; when the input ends, so do the
nursery and all that came from it. A worker that was forked is a process of its own, as any other.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Child:
    """A process that the nursery forked, as `subprocess.Popen` shows one; its exit status is not known."""

    def __init__(self, command: Sequence[str], pid: int) -> None:
        self.command, self.pid = command, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """None while it runs, then 0."""
        if self.returncode is None:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                self.returncode = 0
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if timeout is not None and deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(list(self.command), timeout)
            time.sleep(0.005)
        return 0

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The forking process, as those see it who want workers."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.faults.nursery"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def spawn(self, command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> Child:
        """Start a worker; the last of `command` is its mutant."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"mutant": command[-1], "env": dict(env), "folder": str(folder), "log": str(log)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Child(command, int(self.process.stdout.readline()))

    def close(self) -> None:
        """End it, and with it all that came from it."""
        # Reads to the end: it has ended then.
        self.process.communicate(timeout=10)


def grow_up(order: Mapping[str, Any]) -> None:
    """Be a worker as if started anew: other output, folder and environment, and chance of its own."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["folder"])
    tempfile.tempdir = None
    random.seed()
    from tests.faults.worker import main

    main(order["mutant"])


def fork(order: Mapping[str, Any]) -> int:
    """Fork a worker; returns its process id, here."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        grow_up(order)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    from tests.faults import worker  # noqa: F401

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Children are forgotten as they end.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    children = []
    for line in sys.stdin:
        children.append(fork(json.loads(line)))
        print(children[-1], flush=True)
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
