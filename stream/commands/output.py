"""How commands print: JSON for programs, plain tables for people, both on standard output.

Text that came from outside (user ids, titles, error messages, bytes) passes `escape`, so that no record can move the
cursor or change colours of an operator's terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

WIDE = 200
"""Columns of a table that is not printed on a terminal, so that nothing is cut for grep."""


def escape(text: str) -> str:
    r"""`text` on one line, with what can't be printed written as an escape.

    >>> escape("mug\x1b[31m")
    'mug\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_time(millis: int | None) -> str:
    """Epoch milliseconds as UTC; empty for none.

    >>> write_time(0)
    '1970-01-01 00:00:00.000Z'
    """
    if millis is None:
        return ""
    try:
        moment = datetime.fromtimestamp(millis / 1_000, UTC)
    except (ValueError, OverflowError, OSError):
        return str(millis)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{millis % 1_000:03d}Z"


def round_metric(value: float | None) -> float | None:
    """A metric with as many digits as a table needs."""
    return None if value is None else round(value, 4)


def print_json(value: object) -> None:
    """Print `value`, as JSON, on one line."""
    sys.stdout.write(orjson.dumps(value).decode() + "\n")
    sys.stdout.flush()


def print_line(text: str) -> None:
    """Print one line at once, also into a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print rows under `columns`; numbers stand right, none is empty."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    lines = [list(row) for row in rows]
    for place, name in enumerate(columns):
        numeric = bool(lines) and all(isinstance(row[place], int | float | None) for row in lines)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for line in lines:
        table.add_row(*("" if value is None else escape(str(value)) for value in line))
    width = None if sys.stdout.isatty() else WIDE
    console = Console(file=sys.stdout, width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as printed:
        console.print(table)
    # Rich pads every line to the full width.
    print_line("\n".join(line.rstrip() for line in printed.get().splitlines()).strip("\n"))
