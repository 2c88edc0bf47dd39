"""The live view on a terminal: a `LiveView` in, something for `rich.live.Live` out, the same content as the live page.

It fits 100 columns by 30 lines. Where there is less, columns stack, and what matters least goes first. Names are
printed as they are, never read as markup.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stream.view import LiveView, NewestTrigger, PartitionView, name_user

WIDE: Final = 90
NARROW: Final = 56
MOST_BARS: Final = 5
COLOURS: Final = {"negative": "red", "neutral": "bright_black", "positive": "blue"}


class Screen:
    """What `render` returns: it chooses its shape by the room that it is given."""

    def __init__(self, view: LiveView, page_url: str) -> None:
        self._view, self._url = view, page_url

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the parts, in the order of their worth, as many as fit."""
        height = options.height or console.height
        parts = _list_parts(self._view, self._url, options.max_width)
        newest = _render_newest(self._view.newest_triggers, 1)
        left = height - sum(_measure(console, options, part) for part in parts)
        while len(parts) > 2 and left < _measure(console, options, newest):
            left += _measure(console, options, parts.pop())
        rows = max(1, left - 2)
        yield Group(*parts, _render_newest(self._view.newest_triggers, rows))


def render(view: LiveView, page_url: str) -> Screen:
    """Show `view` on a terminal of any size; `page_url` is where the live page is, empty for nowhere."""
    return Screen(view, page_url)


def _measure(console: Console, options: ConsoleOptions, part: RenderableType) -> int:
    return len(console.render_lines(part, options.update(height=None), pad=False))


def _list_parts(view: LiveView, url: str, width: int) -> list[RenderableType]:
    numbers = _render_numbers(view, 6 if width >= WIDE else 3 if width >= NARROW else 2)
    blocks = [
        _render_bars("triggers by rule", view.triggers_by_rule, "blue"),
        _render_bars("dead letters by reason", view.dead_letters_by_reason, "red"),
        _render_bars("suppressed by reason", view.suppressed_by_reason, "bright_black"),
    ]
    middle: RenderableType = _set_side_by_side(blocks) if width >= WIDE else Group(*blocks[:2])
    return [
        *(_render_pauses(view)),
        *(Text(note, "yellow") for note in view.notes),
        _render_head(view, url),
        numbers,
        _render_results(view),
        _render_model(view),
        _render_sentiment(view, width),
        middle,
        *([_render_partitions(view.partitions, width)] if view.partitions else []),
    ]


def _set_side_by_side(blocks: Iterable[RenderableType]) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    row = list(blocks)
    for _ in row:
        grid.add_column(ratio=1)
    grid.add_row(*row)
    return grid


def _render_head(view: LiveView, url: str) -> Text:
    age = say_duration((view.at - view.started_at) / 1000)
    head = Text.assemble(("nudge", "bold"), (f"  running for {age}, {view.busy_ratio * 100:.0f} % busy", "dim"))
    if url:
        head.append(f"  {url}", "cyan")
    head.no_wrap, head.overflow = True, "ellipsis"
    return head


def _render_pauses(view: LiveView) -> list[Text]:
    words = "; ".join(f"{one.text} ({one.cause}, {say_duration(one.seconds)})" for one in view.pauses)
    return [Text(f"paused: {words}", "black on yellow")] if words else []


def _render_numbers(view: LiveView, columns: int) -> Table:
    recent = view.recent_latency_p50_seconds is not None
    p50 = view.recent_latency_p50_seconds if recent else view.latency_p50_seconds
    p99 = view.recent_latency_p99_seconds if recent else view.latency_p99_seconds
    tiles = [
        ("events/s", f"{view.events_per_second:,.0f}", "last 5 s"),
        ("lag", f"{view.lag:,}", "records"),
        ("latency p50", say_duration(p50), f"run {say_duration(view.latency_p50_seconds)}"),
        ("latency p99", say_duration(p99), f"run {say_duration(view.latency_p99_seconds)}"),
        ("triggers", f"{view.triggers:,}", f"sent in {say_duration(view.trigger_latency_p50_seconds)}"),
        ("dead letters", f"{view.dead_letters:,}", "records"),
    ]
    grid = Table.grid(padding=(0, 1), expand=True)
    for _ in range(columns):
        grid.add_column(ratio=1)
    for start in range(0, len(tiles), columns):
        grid.add_row(*(_render_tile(*tile) for tile in tiles[start : start + columns]))
    return grid


def _render_tile(name: str, number: str, more: str) -> Text:
    return Text.assemble((f"{name}\n", "dim"), (f"{number}\n", "bold"), (more, "dim"))


def _render_results(view: LiveView) -> Text:
    incoming = "" if view.events_in is None else f"{view.events_in:,} in, "
    done = f"{view.events_scored:,} scored, {view.denied:,} denied, {view.duplicates:,} duplicates"
    return Text.assemble(("events  ", "dim"), f"{incoming}{done}, {view.dead_letters:,} dead, {view.late:,} late")


def _render_model(view: LiveView) -> Text:
    model = view.model
    if model is None:
        return Text.assemble(("model  ", "dim"), "none yet")
    return Text.assemble(
        ("model  ", "dim"),
        f"{model.name} version {model.version:,}, {model.examples:,} examples, {model.matured:,} matured  ",
        ("log-loss ", "dim"),
        _say_number(model.log_loss, 4),
        (" nats, base ", "dim"),
        _say_number(model.base_log_loss, 4),
        ("  calibration ", "dim"),
        _say_number(model.calibration_ratio, 3),
    )


def _say_number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _render_sentiment(view: LiveView, width: int) -> Text:
    texts = sum(view.sentiment.values())
    line = Text.assemble(("sentiment  ", "dim"))
    if not texts:
        return line.append("no texts yet")
    room = max(10, width // 4)
    for label, count in view.sentiment.items():
        line.append("█" * round(room * count / texts), COLOURS.get(label, "white"))
    shares = ", ".join(f"{label} {count / texts * 100:.0f} %" for label, count in view.sentiment.items())
    sources = ", ".join(f"{source} {count:,}" for source, count in view.sentiment_sources.items())
    return line.append(f"  {shares}").append(f"  by {sources}", "dim")


def _render_bars(title: str, counts: Mapping[str, int], colour: str) -> Group:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(width=6, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    most = max(counts.values(), default=1)
    for name, count in list(counts.items())[:MOST_BARS]:
        bar = Text("█" * max(1, round(6 * count / most)), colour)
        table.add_row(Text(name.replace("_", " ")), bar, f"{count:,}")
    if rest := list(counts.values())[MOST_BARS:]:
        table.add_row(Text(f"and {len(rest)} more", "dim"), "", f"{sum(rest):,}")
    if not counts:
        table.add_row("none", "", "")
    return Group(Text(title, "dim", no_wrap=True, overflow="ellipsis"), table)


def _render_partitions(partitions: Iterable[PartitionView], width: int) -> Table:
    rows = list(partitions)
    values: list[tuple[str, Callable[[PartitionView], str]]] = [
        ("partition", lambda one: f"{one.partition}" if one.mine else f"({one.partition})"),
        ("next", lambda one: f"{one.next:,}"),
        ("lag", lambda one: "-" if one.lag is None else f"{one.lag:,}"),
        ("outbox", lambda one: f"{one.outbox:,}"),
    ]
    fits = max(1, (width - 12) // 10)
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", width=10)
    for _ in rows[:fits]:
        table.add_column(justify="right", min_width=8, no_wrap=True)
    for name, say in values:
        table.add_row(name, *(say(one) for one in rows[:fits]))
    return table


def _render_newest(triggers: list[NewestTrigger], rows: int) -> Panel:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for trigger in triggers[:rows]:
        at = time.strftime("%d %b %H:%M", time.gmtime(trigger.at / 1000))
        table.add_row(at, Text.assemble((name_user(trigger), "bold"), f" {trigger.text}"))
    if not triggers:
        table.add_row("", "none yet")
    return Panel(table, title="newest triggers, UTC", title_align="left", border_style="dim", padding=(0, 1))


def say_duration(seconds: float | None) -> str:
    """Say a duration in the unit that suits it; a dash for None.

    >>> [say_duration(seconds) for seconds in (None, 0.0123, 0.25, 12.34, 600, 86_400 * 3)]
    ['-', '12.3 ms', '250 ms', '12.3 s', '10 min', '3.0 d']
    """
    if seconds is None:
        return "-"
    for limit, unit, factor, digits in (
        (0.0995, "ms", 1e3, 1),
        (0.9995, "ms", 1e3, 0),
        (120, "s", 1, 1),
        (7_200, "min", 1 / 60, 0),
        (172_800, "h", 1 / 3_600, 1),
    ):
        if seconds < limit:
            return f"{seconds * factor:.{digits}f} {unit}"
    return f"{seconds / 86_400:.1f} d"
