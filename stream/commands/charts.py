"""Charts of a report as SVG pictures: calibration, and how losses and calibration went while labels matured.

A report comes in and text leaves that can stand in a page as it is. Nothing in it is a script, and nothing is fetched.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final
from xml.etree import ElementTree
from zlib import crc32

import pygal
from pygal import PluginImportFixer
from pygal.style import Style

from models.outcomes.curve import Point
from models.outcomes.report import Judgement, OutcomeReport

# It looks for maps to be plugged in, of which there are none here, at every later import, and Python warns of how.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, PluginImportFixer)]

WIDTH: Final = 560
HEIGHT: Final = 380
"""Of a chart, in pixels."""
GREY: Final = "#999999"
COLOURS: Final = ("#0b6e99", "#d9480f", "#2b8a3e", "#862e9c", "#c99700", "#c2255c", "#495057")
"""One a line, as far as they reach, then again."""

Line = tuple[str, list[tuple[float, float]]]
"""Name and points (x, y) of a line."""


def draw_calibration(report: OutcomeReport) -> str:
    """What came true over what was said, in ten groups of the newest labels; grey is what honest predictions give."""
    lines = [(each.name, [(part.predicted, part.rate) for part in each.deciles]) for each in report.judged]
    most = max((coordinate for _, points in lines for point in points for coordinate in point), default=1.0)
    diagonal = ("honest", [(0.0, 0.0), (most, most)])
    return _draw(report.outcome, "Calibration", "mean prediction", "came true", diagonal, lines)


def draw_losses(report: OutcomeReport) -> str:
    """Log-loss of each block of labels; grey is the base rate's, on the rows that the first that has any judged."""
    lines = [(each.name, [(float(point.until), point.log_loss) for point in each.curve]) for each in report.judged]
    judged = next((each.curve for each in _champion_first(report) if each.curve), [])
    base = ("base rate", [(float(point.until), point.base_log_loss) for point in judged])
    return _draw(report.outcome, "Log-loss", "labels judged", "nats", base, lines)


def draw_drift(report: OutcomeReport) -> str:
    """Predictions / labels of each block; grey is one, where they are as many as came true."""
    lines = [(each.name, list(_ratios(each.curve))) for each in report.judged]
    most = max((x for _, points in lines for x, _ in points), default=1.0)
    one = ("honest", [(0.0, 1.0), (most, 1.0)])
    return _draw(report.outcome, "Calibration ratio", "labels judged", "predicted / came true", one, lines)


def _champion_first(report: OutcomeReport) -> list[Judgement]:
    return sorted(report.judged, key=lambda each: each.name != report.champion)


def _ratios(curve: Iterable[Point]) -> Iterable[tuple[float, float]]:
    return ((float(each.until), each.calibration_ratio) for each in curve if each.calibration_ratio is not None)


def _draw(outcome: str, title: str, across: str, up: str, guide: Line, lines: Sequence[Line]) -> str:
    chart = pygal.XY(
        style=Style(
            background="transparent",
            plot_background="transparent",
            font_family="sans-serif",
            no_data_font_size=24,
            colors=(GREY, *COLOURS),
        ),
        js=[],
        title=title,
        x_title=across,
        y_title=up,
        width=WIDTH,
        height=HEIGHT,
        explicit_size=True,
        legend_at_bottom=True,
        legend_at_bottom_columns=4,
        # Room for a second line of names is not made otherwise.
        margin_bottom=40,
        truncate_legend=-1,
        dots_size=2,
        no_data_text="nothing judged yet",
    )
    # A name of its own for each chart, which its styles begin with; pygal would draw it at random.
    chart.uuid = f"{crc32(f'{outcome} {title}'.encode()):08x}"
    chart.add(guide[0], guide[1], show_dots=False, stroke_style={"dasharray": "4, 4"})
    for label, points in lines:
        chart.add(label, points)
    return _strip(chart.render_tree())


def _strip(root: ElementTree.Element) -> str:
    """The picture as text, without the dated comment and the script that pygal adds."""
    for parent in list(root.iter()):
        for child in list(parent):
            # The tag of a comment is a function.
            if not isinstance(child.tag, str) or child.tag.endswith("script"):
                parent.remove(child)
    return ElementTree.tostring(root, encoding="unicode")
