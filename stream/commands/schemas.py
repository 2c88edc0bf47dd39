"""`nudge schemas`: the contracts as JSON Schemas and an AsyncAPI document, listed, written or compared."""

from __future__ import annotations

from pathlib import Path

from schemas.documents import FOLDER, build_documents, find_stale, write_documents
from stream.commands import CommandError
from stream.commands.output import print_line, print_table


def show_documents() -> None:
    """Print name and size (bytes) of every document."""
    print_table(("document", "bytes"), [(name, len(content)) for name, content in build_documents().items()])


def write_into(folder: Path) -> None:
    """Write every document into `folder`. Raises `CommandError` where that is not allowed."""
    try:
        write_documents(folder)
    except OSError as error:
        raise CommandError(f"{folder}: can't be written ({error.strerror})") from error
    print_line(f"{len(build_documents())} documents written to {folder}")


def check_folder(folder: Path = FOLDER) -> None:
    """Compare the documents in `folder`, by default those that ship with nudge, with what would be made now.

    Raises `CommandError` with the names of those that differ, are missing or are too many.
    """
    if stale := find_stale(folder):
        raise CommandError(f"stale in {folder}: {', '.join(stale)}; write them again: nudge schemas --write {folder}")
    print_line(f"documents in {folder} are fresh")
