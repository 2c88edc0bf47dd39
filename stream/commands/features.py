"""`nudge features`: every column of a row of features with its unit and meaning; the page in docs is made of it."""

from __future__ import annotations

from models.outcomes.features import FEATURES, SCHEMA
from stream.commands.output import print_line, print_table

INTRODUCTION = f"""# Features

A row of features is frozen at an event, from the person's profile just after the event became part of it and from
nothing later. Models of outcomes learn and score these rows; a trigger's `top_features` name the columns that moved
its score most. `number` columns are more or less, `code` columns are the same or not: linear models leave them out.
What else is decayed halves in seven days. Logarithms are natural. This page is what `nudge features --markdown` prints.

The layout is called `{SCHEMA}`: examples of another one are passed over, and models of it begin anew.

| feature | unit | what | kind |
|---|---|---|---|
"""


def describe_features() -> str:
    """The page, in Markdown."""
    return INTRODUCTION + "".join(f"| `{of.name}` | {of.unit} | {of.meaning} | {of.kind} |\n" for of in FEATURES)


def show_features(*, markdown: bool = False) -> None:
    """Print the columns in their order: as a table, or as the page in docs."""
    if markdown:
        print_line(describe_features().rstrip("\n"))
    else:
        print_table(("feature", "unit", "what", "kind"), FEATURES)
