"""A module run as a program, in a process forked from one that has imported all that a worker needs.

To import it takes more of a machine's time than many a test does, and the tests start hundreds of workers. A program
that was forked is a process of its own as any other, and it ends with the process that it was forked from, which ends
with the tests.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.integration.zygote"])


class Program:
    """`python -m MODULE ARGUMENTS` in `folder` with the environment `env`; what it says goes to `log`."""

    def __init__(self, module: str, arguments: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> None:
        log.touch()
        self._process = _CONTEXT.Process(target=_run, args=(module, list(arguments), dict(env), str(folder), str(log)))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns the exit status. Raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        status = self._process.exitcode
        if status is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(module: str, arguments: list[str], env: dict[str, str], folder: str, log: str) -> None:
    """Be the program as if started anew: other output, folder and environment, and chance of its own."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    tempfile.tempdir = None
    random.seed()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
