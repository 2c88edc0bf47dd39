"""`nudge demo`: a real event log replayed through a real worker, on servers of its own, and a summary that must add up.

`servers` checks what it runs on, `setting` says how the worker is configured, `cast` what is sent, `worker` runs it as
a child, `interrupts` holds on to Ctrl-C until it runs, `progress` reads how far it is, `summary` counts each thing
where it ends up, `screen` shows it, `runner` leads through all of it.
"""

from __future__ import annotations

from typing import Final

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C before the log's end, as shells have it."""


def run_demo(*, events: int | None, rate: float | None, json: bool, browser: bool, broker: str) -> int:
    """Run the demo; the exit code: 0, 1 when a sum does not add up or the worker logged an error, 130 after Ctrl-C.

    `events` ends it after so many, `rate` is in events per second (0: no limit, None: the default), `json` ends it by
    itself with one JSON object as the last line on standard output. Raises `CommandError` or `BadSettings` when it
    cannot go on.
    """
    try:
        # The clients take a second to load: an interrupt in that second must end quietly too.
        from stream.demo.runner import Options, play

        return play(Options.of(events=events, rate=rate, as_json=json, browser=browser, broker=broker))
    except KeyboardInterrupt:
        return INTERRUPTED
