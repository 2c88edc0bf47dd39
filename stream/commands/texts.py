"""Texts out of a file: CSV, JSON lines or Parquet, plain or gzip, one `Row` for each, in the file's order.

Columns are found by name. What can't be read is a `CommandError` that names the row, the column and what to do.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from models.sentiment.evaluation import LABELS
from stream.commands import CommandError

LONGEST_CELL: Final = 16 * 1024 * 1024
"""Characters of one cell of a CSV file; the scorer looks at the first thousands."""

DELIMITERS: Final = (",", ";", "\t", "|")
NAMES: Final = {name: place for place, label in enumerate(LABELS) for name in (label, label[:3])}
"""What a label may be called -> its place in `LABELS`."""


class Columns(NamedTuple):
    """Names of the columns; a file need have the first alone, and an empty name is passed over."""

    text: str = "text"
    label: str = "label"
    lang: str = "lang"


class Row(NamedTuple):
    """One text; `number` counts from 1, `label` is a place in `LABELS`. Empty cells are None."""

    number: int
    text: str | None
    label: int | None
    lang: str | None


def read_rows(file: Path, columns: Columns) -> Iterator[Row]:
    """Yield the rows of a file whose name ends in .csv, .tsv, .jsonl, .ndjson or .parquet, but for the last with .gz.

    Raises `CommandError` when it is another kind of file, can't be read, lacks a column that was asked for by another
    name than the usual one, or has a cell that means nothing.
    """
    kind = file.suffix.lower()
    packed = kind == ".gz"
    kind = Path(file.stem).suffix.lower() if packed else kind
    with name_problems(file):
        if kind == ".parquet" and not packed:
            yield from _number(_read_parquet(file, columns), columns)
        elif kind in (".csv", ".tsv", ".jsonl", ".ndjson"):
            with open_lines(file, packed) as lines:
                found = _read_csv(file, lines, columns) if kind in (".csv", ".tsv") else _read_json(lines, columns)
                yield from _number(found, columns)
        else:
            raise CommandError(
                f"{file}: found a file of kind {kind or 'none'}, expected .csv, .tsv, .jsonl or .ndjson (or one of "
                "them with .gz) or .parquet; write it as one of these"
            )


@contextmanager
def name_problems(file: Path) -> Iterator[None]:
    """Turn what reading `file` raises into a `CommandError` that names it."""
    from pyarrow import ArrowException

    try:
        yield
    except UnicodeDecodeError as error:
        raise CommandError(f"{file}: not UTF-8 ({error.reason}); convert it, for example with iconv -t UTF-8") from None
    except (csv.Error, ArrowException, EOFError) as error:
        raise CommandError(f"{file}: can't be read as what its name says: {error}") from None
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror or error}") from None


def open_lines(file: Path, packed: bool) -> IO[str]:
    """Lines of a text file, `packed` by gzip or not; a mark of the byte order is passed over."""
    if packed:
        return cast(IO[str], gzip.open(file, "rt", encoding="utf-8-sig", newline=""))
    return file.open(encoding="utf-8-sig", newline="")


def _read_csv(file: Path, lines: IO[str], columns: Columns) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(LONGEST_CELL)
    header = lines.readline()
    delimiter = max(DELIMITERS, key=header.count)
    names = next(csv.reader([header], delimiter=delimiter), [])
    _check_columns(file, names, columns)
    for cells in csv.reader(lines, delimiter=delimiter):
        yield dict(zip(names, cells, strict=False))


def _read_json(lines: IO[str], columns: Columns) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line) if line.strip() else {columns.text: None}
        except json.JSONDecodeError as error:
            raise CommandError(f"row {number}: not JSON ({error.msg}); expected one object on each line") from None
        if not isinstance(found, dict) or columns.text not in found:
            names = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
            raise CommandError(f"row {number}: found {names}, expected an object with {columns.text}; {_ADVICE}")
        yield found


def _read_parquet(file: Path, columns: Columns) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        names = table.schema_arrow.names
        _check_columns(file, names, columns)
        for batch in table.iter_batches(batch_size=1_024, columns=[name for name in columns if name in names]):
            yield from batch.to_pylist()


_ADVICE: Final = "rename the column, or say its name with --text"


def _check_columns(file: Path, names: list[str], columns: Columns) -> None:
    if columns.text not in names:
        found = ", ".join(names) or "none"
        raise CommandError(f"{file}: there is no column {columns.text} (found {found}); {_ADVICE}")
    for column, usual in zip(columns, Columns(), strict=True):
        if column not in ("", usual, *names):
            raise CommandError(f"{file}: there is no column {column} (found {', '.join(names)})")


def _number(found: Iterator[dict[str, Any]], columns: Columns) -> Iterator[Row]:
    for number, cells in enumerate(found, 1):
        text, lang = (_read_text(number, name, cells.get(name)) for name in (columns.text, columns.lang))
        yield Row(number, text, _read_label(number, columns.label, cells.get(columns.label)), lang)


def _read_text(number: int, column: str, cell: object) -> str | None:
    if cell is None or cell == "":
        return None
    if not isinstance(cell, str):
        raise CommandError(f"row {number}, {column}: found {type(cell).__name__}, expected text")
    return cell


def _read_label(number: int, column: str, cell: object) -> int | None:
    if cell is None or cell == "":
        return None
    label = NAMES.get(cell.strip().lower()) if isinstance(cell, str) else None
    if label is None:
        raise CommandError(
            f"row {number}, {column}: found {cell!r:.40}, expected {', '.join(LABELS[:2])} or {LABELS[2]} (or neg, neu "
            "and pos); write them so, or pass the labels over with --label ''"
        )
    return label
