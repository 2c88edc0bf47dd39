"""The page of features in docs is what the command prints, and names every column in its place."""

import re
from pathlib import Path

from typer.testing import CliRunner

from models.outcomes.features import CATEGORICAL, FEATURES, NAMES, SCHEMA
from stream.cli import app
from stream.commands.features import describe_features

PAGE = Path(__file__).parents[2] / "docs" / "features.md"


def test_the_page_in_docs_is_fresh() -> None:
    assert PAGE.read_text() == describe_features(), "write it anew: nudge features --markdown > docs/features.md"


def test_the_command_prints_the_page() -> None:
    assert CliRunner().invoke(app, ["features", "--markdown"]).stdout == describe_features()


def test_the_page_lists_every_feature_in_its_place() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (number|code) \|$", describe_features(), re.MULTILINE)
    assert rows == list(FEATURES)
    assert [place for place, row in enumerate(rows) if row[3] == "code"] == list(CATEGORICAL)
    assert SCHEMA in describe_features()


def test_the_table_has_a_line_a_feature() -> None:
    lines = CliRunner().invoke(app, ["features"]).stdout.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(NAMES)
