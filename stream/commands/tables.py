"""Tables out of files: CSV or Parquet, one row a decision, with a column that says how it turned out.

Rows come out in the order of their times, as floats: texts as codes of categories, and for a missing number the mean of
those before it, beside a column that says so. What can't be used is a `CommandError` that names file, row and column.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

from models.outcomes.columns import Cell, encode_columns, read_number
from models.outcomes.rehearsal import Rows
from stream.commands import CommandError
from stream.commands.texts import DELIMITERS, LONGEST_CELL, name_problems, open_lines

LABELS: Final = {"0": 0, "0.0": 0, "false": 0, "no": 0, "1": 1, "1.0": 1, "true": 1, "yes": 1}
ABSENT: Final = frozenset(("", "na", "n/a", "nan", "null", "none"))
"""Cells that say that there is nothing."""
SUFFIXES: Final = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
"""How the name of a table's file ends."""


class Columns(NamedTuple):
    """Names of the columns: the label's, the time's if there is one, and those that nothing is learned from."""

    label: str
    time: str | None = None
    left_out: tuple[str, ...] = ()


class Line(NamedTuple):
    """A row as it was read: where, and its cells by column."""

    place: str
    cells: dict[str, Cell]


class Table(NamedTuple):
    """What is learned from: `names` of the columns, places of those that are codes, and the rows in time order.

    `missing` counts empty cells by column, `unlabelled` the rows that were passed over because they have no label.
    """

    names: tuple[str, ...]
    categorical: tuple[int, ...]
    rows: Rows
    missing: dict[str, int]
    unlabelled: int


def is_table(file: Path) -> bool:
    """Whether the file's name is a table's.

    >>> is_table(Path("orders.csv.gz")), is_table(Path("events.jsonl"))
    (True, False)
    """
    return file.name.lower().endswith(SUFFIXES)


def read_table(files: Sequence[Path], columns: Columns) -> Table:
    """All rows of the files, which have the same columns. Raises `CommandError` where they can't be learned from."""
    lines: list[Line] = []
    names: list[str] = []
    for file in files:
        found = list(_read(file))
        if not found:
            raise CommandError(f"{file}: there is no row under the header; give a file with rows")
        if names and names != list(found[0].cells):
            raise CommandError(f"{file}: found columns {', '.join(found[0].cells)}, expected those of {files[0]}")
        names = list(found[0].cells)
        _check_names(file, names, columns)
        lines += found
    labels = [_read_label(line, columns.label) for line in lines]
    known = [(line, label) for line, label in zip(lines, labels, strict=True) if label is not None]
    if not known:
        raise CommandError(f"{files[0]}, column {columns.label}: no row has a label; name another column with --label")
    times = _read_times([line for line, _ in known], columns.time)
    order = sorted(range(len(known)), key=times.__getitem__)
    aside = {columns.label, columns.time, *columns.left_out}
    by_column = {name: [known[row][0].cells[name] for row in order] for name in names if name not in aside}
    if not by_column:
        raise CommandError(f"{files[0]}: there is no column beside {', '.join(filter(None, aside))} to learn from")
    coded = encode_columns(by_column)
    rows = Rows(
        list(zip(*coded.features.values(), strict=True)),
        [known[row][1] for row in order],
        [times[row] for row in order],
    )
    return Table(tuple(coded.features), coded.categorical, rows, coded.missing, len(lines) - len(known))


def _read(file: Path) -> Iterator[Line]:
    with name_problems(file):
        if file.suffix.lower() == ".parquet":
            yield from _read_parquet(file)
        else:
            with open_lines(file, file.suffix.lower() == ".gz") as lines:
                yield from _read_csv(file, lines)


def _read_csv(file: Path, lines: Iterator[str]) -> Iterator[Line]:
    csv.field_size_limit(LONGEST_CELL)
    header = next(lines, "")
    if not header.strip():
        raise CommandError(f"{file}: found nothing, expected a line with the columns' names and rows under it")
    reader = csv.reader(chain([header], lines), delimiter=max(DELIMITERS, key=header.count))
    names = [name.strip() for name in next(reader)]
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise CommandError(f"{file}: two columns are called {twice[0]!r}; rename one")
    for cells in filter(None, reader):
        place = f"{file}, line {reader.line_num}"
        if len(cells) != len(names):
            raise CommandError(f"{place}: found {len(cells)} cells, expected {len(names)} as in the header; mend it")
        yield Line(place, {name: _clean(cell) for name, cell in zip(names, cells, strict=True)})


def _read_parquet(file: Path) -> Iterator[Line]:
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=1_024):
            for row in batch.to_pylist():
                number += 1
                place = f"{file}, row {number}"
                yield Line(place, {name: _flatten(place, name, cell) for name, cell in row.items()})


def _clean(cell: str) -> str | None:
    return None if (text := cell.strip()).lower() in ABSENT else text


def _flatten(place: str, name: str, cell: Any) -> Cell:
    """A cell of a typed column as number or text; moments become epoch milliseconds."""
    if cell is None or isinstance(cell, str):
        return None if cell is None else _clean(cell)
    if isinstance(cell, bool | int | float | Decimal):
        return None if math.isnan(cell) else float(cell)
    if isinstance(cell, date):
        return _millis(cell)
    raise CommandError(f"{place}, column {name}: found {type(cell).__name__}, expected a number, a text or a date; "
                       f"leave it out with --leave-out {name}")  # fmt: skip


def _millis(moment: date) -> float:
    whole = moment if isinstance(moment, datetime) else datetime.combine(moment, time())
    return (whole if whole.tzinfo else whole.replace(tzinfo=UTC)).timestamp() * 1_000.0


def _check_names(file: Path, names: Sequence[str], columns: Columns) -> None:
    asked = [("label", columns.label), ("time", columns.time), *(("leave-out", name) for name in columns.left_out)]
    for option, name in asked:
        if name is not None and name not in names:
            found = ", ".join(names)
            raise CommandError(f"{file}: there is no column {name} (found {found}); name one of these with --{option}")


def _read_label(line: Line, column: str) -> int | None:
    cell = line.cells[column]
    if cell is None:
        return None
    label = LABELS.get(str(cell).lower())
    if label is None:
        raise CommandError(
            f"{line.place}, column {column}: found {cell!r:.40}, expected 0 or 1, true or false, yes or no; write it "
            "so, or name another column with --label"
        )
    return label


def _read_times(lines: Sequence[Line], column: str | None) -> list[float]:
    if column is None:
        return [float(number) for number in range(len(lines))]
    return [_read_time(line, column) for line in lines]


def _read_time(line: Line, column: str) -> float:
    cell = line.cells[column]
    number = read_number(cell)
    if number is not None:
        return number
    try:
        return _millis(datetime.fromisoformat(str(cell)))
    except ValueError:
        raise CommandError(
            f"{line.place}, column {column}: found {cell!r:.40}, expected a number or a date such as 2026-01-31 or "
            "2026-01-31T08:00:00Z; mend it, or leave --time out"
        ) from None
