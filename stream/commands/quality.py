"""`nudge models show | report`: one snapshot's metrics by contestant, and how good each contestant is.

Both are read from a signed snapshot alone. Metrics whose name begins with a contestant and a dot are that contestant's;
the others are those of what was served, the predictions that were stored at exposure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from models.lifecycle.snapshot import Snapshot
from stream.commands import CommandError
from stream.commands.connections import open_redis
from stream.commands.kept import find_model, open_version, read_key
from stream.commands.output import print_json, print_line, print_table, round_metric, write_time
from stream.settings import Settings

SERVED: Final = "served"
"""Stands beside the contestants for the predictions that were stored at exposure."""
QUALITIES: Final = ("rows", "log_loss", "relative_cross_entropy", "calibration_ratio", "ece", "roc_auc", "pr_auc")
"""What a report says of each, whole run and window; see `models.outcomes.evaluation`."""
WINDOW: Final = "window_"


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


def describe_quality(snapshot: Snapshot) -> dict[str, dict[str, dict[str, float]]]:
    """How good each contestant, and what was served, is: by name, of the whole run (`run`) and of the newest labels.

    Raises `CommandError` for a model that is not judged by labels.
    """
    if snapshot.kind != "outcome":
        raise CommandError(f"{snapshot.model} has no labels to be judged by; give an outcome")
    divided = divide_metrics(snapshot.metrics)
    return {
        name: {
            "run": {each: metrics[each] for each in QUALITIES if each in metrics},
            "window": {each: metrics[WINDOW + each] for each in QUALITIES if WINDOW + each in metrics},
        }
        for name, metrics in divided.items()
    }


async def show_report(settings: Settings, model: str, *, as_json: bool = False) -> None:
    """Print how good a model's contestants are. Raises as `show_version`, `describe_quality`."""
    snapshot = await _read_one(settings, model, None)
    quality = describe_quality(snapshot)
    if as_json:
        head = {"model": model, "version": snapshot.version, "champion": snapshot.champion}
        print_json({**head, "quality": quality})
        return
    print_line(f"{model} {snapshot.version}, champion {snapshot.champion}")
    rows = [(name, span, *map(round_metric, map(found.get, QUALITIES))) for span, name, found in _list_spans(quality)]
    print_table(("who", "labels", *(name.replace("_", " ") for name in QUALITIES)), rows)


def _list_spans(quality: Mapping[str, Mapping[str, dict[str, float]]]) -> list[tuple[str, str, dict[str, float]]]:
    words = {"run": "all", "window": "newest"}
    return [(words[span], name, found[span]) for span in words for name, found in quality.items()]
