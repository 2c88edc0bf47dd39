"""`nudge models show | report`: one snapshot's metrics by contestant, and how good each contestant is.

Both are read from a signed snapshot alone: its metrics, or the learner in it. Metrics whose name begins with a
contestant and a dot are that contestant's; the others are those of what was served, the predictions that were stored at
exposure.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from models.lifecycle.snapshot import Snapshot
from models.outcomes.learner import OutcomeLearner
from models.outcomes.report import SERVED, OutcomeReport, report_learner
from stream.commands import CommandError
from stream.commands.connections import open_redis
from stream.commands.kept import find_model, open_version, read_key
from stream.commands.output import print_json, print_line, print_table, round_metric, write_time
from stream.commands.report import print_report, write_page
from stream.settings import Settings


def divide_metrics(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Metrics by whom they are of, `SERVED` first.

    >>> divide_metrics({"rows": 2.0, "f4-wait.rows": 1.0})
    {'served': {'rows': 2.0}, 'f4-wait': {'rows': 1.0}}
    """
    found: dict[str, dict[str, float]] = {SERVED: {}}
    for name, value in metrics.items():
        contestant, dot, metric = name.partition(".")
        found.setdefault(contestant if dot else SERVED, {})[metric if dot else name] = value
    return found


def list_contestants(snapshot: Snapshot) -> list[str]:
    """Names of who contends for being the champion; none where nobody does."""
    return [name for name in divide_metrics(snapshot.metrics) if name != SERVED]


async def show_version(settings: Settings, model: str, version: int | None, *, as_json: bool = False) -> None:
    """Print one snapshot's metrics, by contestant; of the newest where no `version` is said.

    Raises `CommandError` where there is no such model or version.
    """
    snapshot = await _read_one(settings, model, version)
    divided = divide_metrics(snapshot.metrics)
    head = {
        "model": snapshot.model,
        "kind": snapshot.kind,
        "version": snapshot.version,
        "champion": snapshot.champion or None,
        "schema": snapshot.schema or None,
        "created_at": snapshot.created_at,
        "cold": not snapshot.scoring,
        "bytes": {"scoring": len(snapshot.scoring), "learning": len(snapshot.learning)},
    }
    if as_json:
        print_json({**head, "metrics": divided})
        return
    cold = "; cold, it scores nothing" if head["cold"] else ""
    speaker = f", champion {snapshot.champion}" if snapshot.champion else ""
    print_line(f"{model} {snapshot.version}{speaker}, events up to {write_time(snapshot.created_at)}{cold}")
    names = dict.fromkeys(name for metrics in divided.values() for name in metrics)
    print_table(
        ("metric", *divided),
        [(name, *(round_metric(metrics.get(name)) for metrics in divided.values())) for name in names],
    )


async def _read_one(settings: Settings, model: str, version: int | None) -> Snapshot:
    key = read_key(settings)
    async with open_redis(settings) as redis:
        kept = await find_model(redis, model)
        return await open_version(redis, kept, kept.latest if version is None else version, key)


def read_report(snapshot: Snapshot) -> OutcomeReport:
    """The report on the outcome that `snapshot` is of.

    Raises `CommandError` for a model that is not judged by labels, and for one of another release.
    """
    if snapshot.kind != "outcome":
        raise CommandError(f"{snapshot.model} has no labels to be judged by; give an outcome")
    try:
        return report_learner(OutcomeLearner.from_bytes(snapshot.learning))
    except (msgspec.DecodeError, ValueError, KeyError) as error:
        raise CommandError(
            f"{snapshot.model} {snapshot.version} was written by another release of nudge; ask that one: {error}"
        ) from error


async def show_report(settings: Settings, model: str, *, as_json: bool = False, page: Path | None = None) -> None:
    """Print how good a model's contestants are, and write that as a page if asked.

    Raises as `show_version` and `read_report`, and where the page can't be written.
    """
    snapshot = await _read_one(settings, model, None)
    report = read_report(snapshot)
    head = {"model": model, "version": snapshot.version, "events_up_to": write_time(snapshot.created_at)}
    if page is not None:
        write_page(page, f"{model} {snapshot.version}", head, [report])
    if as_json:
        print_json({**head, **msgspec.to_builtins(report)})
        return
    print_line(f"{model} {snapshot.version}, events up to {head['events_up_to']}")
    print_report(report)
