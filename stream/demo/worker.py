"""The demo's worker: `nudge worker` as a child process that never outlives its parent.

It is started through the guard that watches the embedded servers, so it is gone after a SIGKILL of the parent too.
What it logs goes to a file, whose errors are counted and whose end is shown when something goes wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.error import HTTPError

from stream.commands import CommandError
from stream.embedded import Guard

COMMAND: Final = (sys.executable, "-P", "-c", "from stream.cli import main; main()", "worker")
READY_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 20.0
"""Between SIGTERM and SIGKILL; in-flight batches, groups and clients are closed in it."""
TAIL_LINES: Final = 25

_ERROR: Final = re.compile(r"^\S+ \S+ (ERROR|CRITICAL) |^Traceback ")


class WorkerFailed(CommandError):
    """The worker ended by itself or never became ready; the message holds the end of its log."""


class WorkerProcess:
    """A worker under `guard`, serving its page on loopback `port`; its log is `worker.log` in `folder`."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], *, guard: Guard, folder: Path, port: int
    ) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.log = folder / "worker.log"
        self._guard = guard
        # What libraries leave in the temporary folder goes with ours.
        env = {**env, "TMPDIR": str(folder)}
        self._process: subprocess.Popen[bytes] | None = guard.spawn(command, log=self.log, folder=folder, env=env)

    def wait_until_ready(self, patience: float = READY_SECONDS) -> None:
        """Return once `/health/ready` says yes. Raises `WorkerFailed` after `patience` seconds or when it ends."""
        deadline = time.monotonic() + patience
        while (problem := self._ask()) is not None:
            self.check()
            if time.monotonic() > deadline:
                raise WorkerFailed(f"the worker was not ready after {patience:g} s: {problem}{self._show_tail()}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raise `WorkerFailed` if the worker has ended."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise WorkerFailed(f"the worker ended with exit code {code}{self._show_tail()}")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after its grace; harmless when it has ended."""
        process = self._process
        if process is None:
            return
        _signal(process, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()
        self._guard.forget(process)
        self._process = None

    def list_errors(self) -> list[str]:
        """Lines of the log that tell of an error, or begin a traceback that nobody logged."""
        return [line for line in self._read_log() if _ERROR.match(line)]

    def _ask(self) -> str | None:
        """None when ready, else why not."""
        try:
            with urllib.request.urlopen(self.url + "health/ready", timeout=2.0):
                return None
        except HTTPError as error:
            with error:
                return "; ".join(json.load(error).get("causes", ())) or str(error)
        except (OSError, ValueError) as error:
            return str(error)

    def _read_log(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()

    def _show_tail(self) -> str:
        lines = self._read_log()[-TAIL_LINES:] or ["(empty)"]
        return "; the end of its log:\n" + "\n".join(f"  {line}" for line in lines)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the whole group, of which the worker is the head."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
