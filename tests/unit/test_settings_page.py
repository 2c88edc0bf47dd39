"""The page of settings in docs is what the command prints, and leaves no option unexplained."""

import re
from pathlib import Path

from stream.commands.settings import describe_settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_in_docs_is_fresh() -> None:
    assert PAGE.read_text() == describe_settings(), "write it anew: nudge settings > docs/settings.md"


def test_every_option_says_what_it_is_for() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \|.*\| (.*?) \|$", describe_settings(), re.MULTILINE)
    assert len(rows) > 60
    assert [name for name, what in rows if not what.strip() and name not in ("kind", "outcomes", "rules")] == []
