"""One server on a loopback port: started, waited for until it answers, killed, stopped, started again.

What distinguishes one kind of server from another is its command and the question that it must answer to count as
ready; both are arguments. Its log is `<name>.log` in its folder.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from stream.embedded.errors import ServerError, ServerNotReadyError
from stream.embedded.guard import Guard

HOST = "127.0.0.1"
PORTS = range(20_000, 30_000)
_LOG_TAIL_LINES = 20
_STOP_PATIENCE_S = 10.0
_QUESTION_TIMEOUT_S = 1.0


_given: deque[int] = deque(maxlen=100)


def free_port() -> int:
    """A loopback port that nobody holds at this moment, out of `PORTS`.

    That is below the range from which kernels pick the local port of outgoing connections. Above, a client that
    keeps reconnecting to a killed server's port can be given that very port, connect to itself, and so keep the
    server from coming back.
    """
    # The system's chance: two forks of one process would be given the same ports by their own.
    for port in random.SystemRandom().sample(PORTS, 200):
        # Who was given one may not hold it yet.
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            _given.append(port)
            return port
    raise ServerError(f"no free loopback port between {PORTS[0]} and {PORTS[-1]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to start a server and to tell that it is ready.

    `ready` asks the port a real question; it returns False or raises OSError for as long as there is no good answer.
    `patience_s` is how long that may take.
    """

    name: str
    command: Sequence[str]
    ready: Callable[[int], bool]
    env: Mapping[str, str] = field(default_factory=dict)
    patience_s: float = 30.0


class Server:
    """A running server. `port` and `folder` stay the same through `kill` and `restart`; `pid` changes.

    Without a `guard` the server has one of its own while it runs, so it never outlives this process. As a context
    manager it stops at the end.
    """

    def __init__(self, recipe: Recipe, *, folder: Path, port: int, guard: Guard | None = None) -> None:
        self.folder = folder
        self.port = port
        self.log = folder / f"{recipe.name}.log"
        self._recipe = recipe
        self._shared_guard = guard
        self._guard: Guard | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The running server's process id; ServerError when it does not run."""
        if self._process is None:
            raise ServerError(f"{self._recipe.name} is not running")
        return self._process.pid

    def start(self) -> Self:
        """Start and wait until ready.

        Raises ServerNotReadyError when the server ends before it answers, or does not answer in time.
        """
        if self._process is not None:
            raise ServerError(f"{self._recipe.name} runs already, pid {self._process.pid}")
        self._guard = self._shared_guard or Guard()
        try:
            self._process = self._guard.spawn(
                self._recipe.command, log=self.log, folder=self.folder, env=self._recipe.env
            )
            self._wait_until_ready(self._process)
        except BaseException:  # Ctrl-C while waiting must not leave a half-started server behind
            self.kill()
            raise
        return self

    def kill(self) -> None:
        """SIGKILL, as a crash would; nothing is flushed. Returns when the process is gone; harmless when it was."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after ten seconds. Harmless when the server does not run."""
        self._end(signal.SIGTERM)

    def restart(self) -> Self:
        """Start again on the same port and folder, after `kill`, `stop` or a crash; a running server is stopped."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            _end_group(self._process, how)
            assert self._guard is not None
            self._guard.forget(self._process)
            self._process = None
        if self._guard is not None and self._guard is not self._shared_guard:
            self._guard.close()
        self._guard = None

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._recipe.patience_s
        while not self._answers():
            if process.poll() is not None:
                raise ServerNotReadyError(self._failure(f"ended with status {process.returncode}"))
            if time.monotonic() > deadline:
                raise ServerNotReadyError(self._failure(f"did not answer within {self._recipe.patience_s:g} s"))
            time.sleep(0.01)
        if process.poll() is not None:  # something else answers on that port
            raise ServerNotReadyError(self._failure(f"ended with status {process.returncode}"))

    def _answers(self) -> bool:
        try:
            return self._recipe.ready(self.port)
        except OSError:
            return False

    def _failure(self, what: str) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        tail = "\n".join(f"  {line}" for line in lines) or "  (empty)"
        return f"{self._recipe.name} on {HOST}:{self.port} {what}; the end of its log:\n{tail}"


def ask(port: int, question: bytes) -> socket.socket:
    """A connection to `port` on which `question` has been sent; reads time out after one second. Raises OSError."""
    connection = socket.create_connection((HOST, port), timeout=_QUESTION_TIMEOUT_S)
    try:
        connection.sendall(question)
    except BaseException:
        connection.close()
        raise
    return connection


def _end_group(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    _signal_group(process.pid, how)
    try:
        process.wait(_STOP_PATIENCE_S)
    except subprocess.TimeoutExpired:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _signal_group(group: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, how)
