"""What the rounds of the throughput benchmark come to: medians, ratios, a table."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.table import Table

Results = dict[str, Any]


def summarise(rounds: Sequence[dict[str, Results]]) -> Results:
    """Medians by job over the rounds, and nudge's ratios to the others, each the median of the rounds' own ratios.

    The ratios compare sustained rates, the outbox emptied, because the other two jobs have sent what they produce too.
    """
    found: Results = {
        job: merge([one[job] for one in rounds])
        | {"by_round": [_sustained(one[job], "events_per_second") for one in rounds]}
        for job in rounds[0]
    }
    if {"nudge", "exactly_once"} <= rounds[0].keys():
        rates = [[one[job]["sustained_events_per_second"] for job in ("exactly_once", "nudge")] for one in rounds]
        found["ratio_exactly_to_at_least_once"] = round(median(exactly / least for exactly, least in rates), 3)
    for other in ("floor", "faust"):
        name = f"ratio_to_{other}"
        if "nudge" in rounds[0] and other in rounds[0]:
            ratios = [one["nudge"]["sustained_events_per_second"] / one[other]["events_per_second"] for one in rounds]
            found[name] = round(median(ratios), 3)
        else:
            found[name] = None
    return found


def merge(results: Sequence[Results]) -> Results:
    """Median of every number, at every depth; true only where it is true in all; what one round lacks counts as 0.

    >>> merge([{"a": 1, "b": {"c": 2.0}}, {"a": 3, "b": {"c": 4.0}}, {"a": 9, "b": {}}])
    {'a': 3, 'b': {'c': 2.0}}
    """
    merged: Results = {}
    for name in dict.fromkeys(name for result in results for name in result):
        values = [result.get(name, 0) for result in results]
        if any(isinstance(value, dict) for value in values):
            merged[name] = merge([value or {} for value in values])
        elif all(isinstance(value, bool) for value in values):
            merged[name] = all(values)
        else:
            merged[name] = median(values)
    return merged


def describe_machine() -> Results:
    """Cores that may be used, load average at the start, Python and architecture."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cores": cores,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def draw_table(result: Results, machine: Results) -> Table:
    """One broker's medians, a line a job."""
    load = " ".join(f"{load:.2f}" for load in machine["load_average"])
    caption = f"{machine['cores']} cores, Python {machine['python']}, load average at the start {load}; medians"
    table = Table(title=f"Events per second without texts, {result['broker']} broker", caption=caption)
    table.add_column("job")
    for title in ("committed", "and sent", "and learned", "to floor", "to Faust", "CPU-s / 100k"):
        table.add_column(title, justify="right")
    jobs = ("nudge", "exactly_once", "floor", "faust")
    rates = {job: _sustained(result[job], "events_per_second") for job in jobs if job in result}
    for job, rate in rates.items():
        row = result[job]
        table.add_row(
            job.replace("_", " "),
            f"{row['events_per_second']:,.0f}",
            f"{rate:,.0f}",
            f"{row['learned_events_per_second']:,.0f}" if job == "nudge" else "",
            *(f"{rate / rates[other]:.2f}" if other in rates else "" for other in ("floor", "faust")),
            f"{_sustained(row, 'cpu_seconds_per_100k'):.2f}",
        )
    return table


def _sustained(row: Results, name: str) -> float:
    """The figure with the outbox emptied; of jobs without one, the only figure."""
    sustained = f"sustained_{name}"
    return float(row[sustained] if sustained in row else row[name])
