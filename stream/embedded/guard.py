"""Processes and folders that must not outlive us: started and named here, tidied up by a second process if need be.

The second process (`stream/embedded/sweeper.py`) holds the reading end of a pipe. When this process ends without
having tidied up (SIGKILL, SIGTERM, a crash), the kernel closes the writing end and the sweeper kills and removes what
is left. This was preferred to `PR_SET_PDEATHSIG`, which is Linux only, fires when the starting *thread* ends, and
removes no folder.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_SWEEPER = Path(__file__).with_name("sweeper.py")

# The shell waits for a line before it becomes the server. Should we die before the sweeper knows the pid, the shell
# reads end of file and leaves; so no server can run unwatched, not even for a moment.
_WAIT_THEN_BECOME = 'read -r _ && exec "$@" </dev/null'


class Guard:
    """Starts processes that end, and names folders that vanish, no later than the process which holds the guard.

    Use it as a context manager, or call `close`. A child made by `fork` without `exec` inherits the pipe and keeps
    everything alive until it ends too; `subprocess` and the `spawn` start method do not.
    """

    def __init__(self) -> None:
        # A session of its own: Ctrl-C reaches the whole foreground group, and the sweeper must survive it.
        self._sweeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_SWEEPER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            bufsize=0,
            start_new_session=True,
        )

    def make_folder(self) -> Path:
        """A new, empty, private temporary folder; it is removed at `close` or at our end, whichever comes first."""
        folder = Path(tempfile.gettempdir()).resolve() / f"nudge-{uuid.uuid4().hex[:12]}"
        self._tell("sweep", str(folder))  # before it exists, so that there is no moment at which nobody would remove it
        folder.mkdir(mode=0o700)
        return folder

    def spawn(
        self, command: Sequence[str], *, log: Path, folder: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start `command` in `folder` as the head of its own process group; both its outputs are appended to `log`.

        The returned process' pid is the command's own. Hand the process to `forget` once it has been waited for.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _WAIT_THEN_BECOME, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(env),
                start_new_session=True,
            )
        assert process.stdin is not None
        try:
            with process.stdin:
                self._tell("watch", str(process.pid))
                process.stdin.write(b"go\n")
        except OSError:  # the sweeper was killed: the shell has read end of file
            process.wait()
            raise
        return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        """Stop watching a process that has ended, before its pid can name another."""
        with contextlib.suppress(BrokenPipeError):  # a sweeper that was killed has forgotten it already
            self._tell("forget", str(process.pid))

    def close(self) -> None:
        """Kill what is still watched, remove the folders, and wait until that is done."""
        assert self._sweeper.stdin is not None
        self._sweeper.stdin.close()
        self._sweeper.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, verb: str, value: str) -> None:
        assert self._sweeper.stdin is not None
        self._sweeper.stdin.write(f"{verb} {value}\n".encode())  # unbuffered: the sweeper has it before we go on
