"""What the demo shows while it runs and at its end: the live view on a terminal, lines where there is none, a table.

Progress goes to standard error, results to standard output.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import webbrowser
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console
from rich.live import Live

from stream.commands.output import print_line, print_table
from stream.demo.summary import Summary
from stream.embedded import Servers
from stream.terminal import render, say_duration
from stream.view import LiveView

LINE_SECONDS: Final = 2.0


class Screen(Protocol):
    """Shows views while it is entered as a context."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, text: str) -> None:
        """Tell one thing."""

    def show(self, view: LiveView) -> None:
        """Show where things stand."""


class Lines:
    """One line every two seconds on standard error."""

    def __init__(self) -> None:
        self._shown = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def say(self, text: str) -> None:
        """Print the line."""
        say(text)

    def show(self, view: LiveView) -> None:
        """Print the main numbers, unless that was done just now."""
        if time.monotonic() - self._shown < LINE_SECONDS:
            return
        self._shown = time.monotonic()
        say(
            f"{view.events_in or 0:,} sent, {view.events_scored:,} scored, {view.denied:,} denied, "
            f"{view.triggers:,} triggers, {view.dead_letters:,} dead letters; "
            f"{view.events_per_second:,.0f} events/s, lag {view.lag:,}"
        )
        for note in view.notes:
            say(f"  {note}")


class Terminal:
    """The live view, redrawn in place."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._live = Live(console=Console(), auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Print the line above the view."""
        self._live.console.print(text, markup=False, highlight=False)

    def show(self, view: LiveView) -> None:
        """Draw the view."""
        self._live.update(render(view, self._url), refresh=True)


def choose_screen(url: str, *, as_json: bool) -> Screen:
    """The live view on a terminal, else lines."""
    return Lines() if as_json or not sys.stdout.isatty() else Terminal(url)


def say(text: str) -> None:
    """Tell progress, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def tell_addresses(servers: Servers, url: str) -> None:
    """Where the page is, and what other commands need to look at the same servers."""
    say(f"live page: {url}")
    say("while it runs, `nudge status`, `nudge tail` and `nudge dlq list` work in another terminal, with")
    say(f"  {write_exports(servers)}")


def write_exports(servers: Servers) -> str:
    """The two variables, as a shell command.

    >>> write_exports(Servers("127.0.0.1:9092", "redis://127.0.0.1:6379/0", None))
    'export NUDGE_KAFKA_BOOTSTRAP=127.0.0.1:9092 NUDGE_REDIS_URL=redis://127.0.0.1:6379/0'
    """
    return f"export NUDGE_KAFKA_BOOTSTRAP={servers.kafka_bootstrap} NUDGE_REDIS_URL={servers.redis_url}"


def open_browser(url: str) -> None:
    """Open the page beside us where there is a display; a browser for terminals would take this one over."""
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def print_summary(summary: Summary) -> None:
    """Print the table, and where the broken records went."""
    latency = f"{say_duration(summary.latency_p50_seconds)} / {say_duration(summary.latency_p99_seconds)}"
    rows: list[tuple[str, str]] = [
        ("events in", f"{summary.events_in:,}"),
        ("scored", f"{summary.events_scored:,}"),
        ("denied (no consent)", f"{summary.denied:,}"),
        ("duplicates", f"{summary.duplicates:,}"),
        ("dead letters", f"{summary.dead_letters:,} ({_list_counts(summary.dead_letters_by_reason)})"),
        ("late", f"{summary.late:,}"),
        ("profiles", f"{summary.profiles:,}"),
        ("triggers", f"{summary.triggers:,} ({_list_counts(summary.triggers_by_rule)})"),
        ("examples learned", f"{summary.examples:,}, {summary.matured:,} matured"),
        ("model version", _say_number(summary.model_version, "{:,}")),
        ("log-loss / base rate's", " / ".join(_say_number(n) for n in (summary.log_loss, summary.base_log_loss))),
        ("calibration ratio", _say_number(summary.calibration_ratio, "{:.3f}")),
        ("sentiment", _list_counts(summary.sentiment)),
        ("events per second", f"{summary.events_per_second:,.0f}"),
        ("latency p50 / p99", latency),
    ]
    print_table(("demo", ""), rows)
    print_line(
        f"The {summary.dead_letters:,} broken records lie in the dead-letter topic with their bytes as they came; "
        "while the demo runs, `nudge dlq list` shows them, with the two variables told at the start."
    )


def _list_counts(counts: dict[str, int]) -> str:
    """Counts by name in words.

    >>> _list_counts({"not_json": 2, "empty": 1}), _list_counts({})
    ('not_json 2, empty 1', 'none')
    """
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _say_number(number: float | None, form: str = "{:.4f}") -> str:
    return "-" if number is None else form.format(number)
