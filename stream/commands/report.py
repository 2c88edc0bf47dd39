"""Reports on outcomes, printed as tables or written as one HTML page that needs nothing else, no net either."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from models.outcomes.evaluation import Calibration
from models.outcomes.report import Judgement, OutcomeReport
from stream.commands import CommandError
from stream.commands.output import escape, print_line, print_table

SHOWN: Final = {
    "rows": "rows",
    "base_rate": "base rate",
    "log_loss": "log-loss",
    "base_log_loss": "base log-loss",
    "relative_cross_entropy": "better by",
    "calibration_ratio": "ratio",
    "ece": "ECE",
    "roc_auc": "ROC-AUC",
    "window_log_loss": "newest log-loss",
    "window_base_log_loss": "newest base",
    "window_calibration_ratio": "newest ratio",
    "window_ece": "newest ECE",
}
"""Metric -> its column; the others stand in the JSON."""
FEATURES: Final = 12
"""Features that a terminal shows; the page and the JSON have all."""
STEADY: Final = 0.02
"""A trend within this, either way, is none."""
COUNTED: Final = frozenset(("rows",))

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 1160px; margin: 2em auto; padding: 0 1em; color: #222; }}
table {{ border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: .2em .7em; border-bottom: 1px solid #ddd; }}
th:first-child, td:first-child {{ text-align: left; }}
.charts {{ display: flex; flex-wrap: wrap; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""

Table = tuple[Sequence[str], list[list[object]]]
"""Columns, and rows under them."""


def print_report(report: OutcomeReport) -> None:
    """Print who is champion, what it is fed and how it goes, everybody's metrics, and what the champion goes by.

    Its calibration follows, and its segments if there are any.
    """
    print_line(escape(describe(report)))
    for line in describe_health(report):
        print_line(escape(line))
    print_table(*tabulate_metrics(report))
    if report.features:
        columns, rows = tabulate_features(report)
        print_table(columns, rows[:FEATURES], title=f"features, {find_speaker(report).name}")
    speaker = find_speaker(report)
    print_table(*tabulate_calibration("decile", _number(speaker.deciles)), title=f"newest labels, {speaker.name}")
    if speaker.segments:
        print_table(*tabulate_calibration("segment", speaker.segments), title=f"segments, {speaker.name}")


def write_page(file: Path, title: str, facts: Mapping[str, object], reports: Iterable[OutcomeReport]) -> None:
    """Write the page to `file`: `facts` first, then each outcome. Raises `CommandError` where that can't be done."""
    parts = [_write_table(("", ""), [[name, value] for name, value in facts.items()])]
    for report in reports:
        parts += _write_outcome(report)
    try:
        file.write_text(PAGE.format(title=html.escape(title), body="\n".join(parts)), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}; name a file that can be written") from None


def describe(report: OutcomeReport) -> str:
    """Outcome, champion and rows in one line."""
    rows = ", ".join(f"{count:,} {stage}" for stage, count in report.rows.items())
    if report.cold:
        return f"{report.outcome}: {rows}; too few labels matured for anybody to speak"
    champion = f"champion {report.champion}, crowned {report.crowned:,} times" if report.champion else "no champion"
    return f"{report.outcome}: {champion}; {rows}"


def describe_health(report: OutcomeReport) -> list[str]:
    """Grade, trend, drifts, shifts and recalibration, a line each as far as they are known."""
    lines = []
    if report.quality is not None:
        found = "; ".join(report.quality.findings) or "nothing found"
        lines.append(f"data quality {report.quality.grade}: {found}")
    if report.trend is not None:
        word = "steady" if abs(report.trend) < STEADY else "better" if report.trend > 0 else "worse"
        lines.append(f"trend {word}: {report.trend:+.3f} relative cross-entropy, newest quarter against the one before")
    if report.drifts:
        lines.append(
            f"{report.drifts:,} drifts of what the champion gets wrong, the last by {report.drift_severity:.3f}"
        )
    if report.shifts:
        lines.append(f"{report.shifts:,} shifts of the features, the last by an index of {report.shift_severity:.2f}")
    if report.recalibrated:
        lines.append("what the champion says is recalibrated at present: it had drifted off what comes true")
    return lines


def tabulate_features(report: OutcomeReport) -> Table:
    """One row a feature, the most important first: what it moves, how far it has shifted, its most frequent share."""
    rows: list[list[object]] = [
        [each.name, round(each.importance, 4), None if each.psi is None else round(each.psi, 3), round(each.share, 3)]
        for each in report.features
    ]
    return ("feature", "log-odds", "PSI", "one value"), rows


def find_speaker(report: OutcomeReport) -> Judgement:
    """The champion's judgement; what was served where nobody is champion."""
    return next((each for each in report.contestants if each.name == report.champion), report.served)


def tabulate_metrics(report: OutcomeReport) -> Table:
    """One row a contestant, and what was served first; a metric that is not defined is None."""
    rows: list[list[object]] = [
        [each.name, *(_round(name, each.metrics.get(name)) for name in SHOWN)] for each in report.judged
    ]
    return ("", *SHOWN.values()), rows


def tabulate_calibration(name: str, groups: Mapping[str, Calibration]) -> Table:
    """One row a group: its name, rows, mean prediction, and the share that came true."""
    rows: list[list[object]] = [
        [group, of.rows, round(of.predicted, 4), round(of.rate, 4)] for group, of in groups.items()
    ]
    return (name, "rows", "predicted", "came true"), rows


def _number(deciles: Sequence[Calibration]) -> dict[str, Calibration]:
    return {str(place): of for place, of in enumerate(deciles, 1)}


def _round(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    return int(value) if name in COUNTED else round(value, 4)


def _write_outcome(report: OutcomeReport) -> list[str]:
    # Drawing takes a tenth of a second to load, and most reports are read in a terminal.
    from stream.commands.charts import draw_calibration, draw_drift, draw_losses

    speaker = find_speaker(report)
    charts = "\n".join(draw(report) for draw in (draw_calibration, draw_losses, draw_drift))
    parts = [
        f"<h2>{html.escape(report.outcome)}</h2>\n<p>{html.escape(describe(report))}</p>",
        *[f"<p>{html.escape(escape(line))}</p>" for line in describe_health(report)],
        _write_table(*tabulate_metrics(report)),
        f'<div class="charts">\n{charts}\n</div>',
        f"<h3>Newest labels, {html.escape(speaker.name)}</h3>",
        _write_table(*tabulate_calibration("decile", _number(speaker.deciles))),
    ]
    if report.features:
        parts += [f"<h3>Features, {html.escape(speaker.name)}</h3>", _write_table(*tabulate_features(report))]
    if speaker.segments:
        parts += [f"<h3>Segments, {html.escape(speaker.name)}</h3>"]
        parts += [_write_table(*tabulate_calibration("segment", speaker.segments))]
    return parts


def _write_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    lines = "\n".join(f"<tr>{''.join(f'<td>{_write_cell(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>"


def _write_cell(cell: object) -> str:
    return "" if cell is None else html.escape(escape(f"{cell:,}" if isinstance(cell, int) else str(cell)))
