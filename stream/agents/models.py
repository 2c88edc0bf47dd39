"""Keeps the scorers of this worker at the newest snapshots, or at the version they are pinned to."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from models.lifecycle.registry import Champions
from models.lifecycle.snapshot import Snapshot, SnapshotRefused
from stream.metrics import Metrics, ModelReport
from stream.settings import Settings
from stream.state.choices import list_pins
from stream.state.keys import Tag, tag_source
from stream.state.snapshots import list_newest, read_snapshot

log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """The version of a model that is to be in use; `pinned` where an operator chose it."""

    tag: Tag
    version: int
    pinned: bool


class ModelLoader:
    """Reads what was published and swaps it in. One bad snapshot is reported once and leaves the last good one."""

    def __init__(
        self, settings: Settings, redis: Redis, champions: Champions, key: bytes, partitions: int, metrics: Metrics
    ) -> None:
        self.settings = settings
        self.redis = redis
        self.champions = champions
        self.key = key
        self.partitions = partitions
        self.metrics = metrics
        self.seen: dict[str, int] = {}
        self.unsigned: set[str] = set()
        """Models whose newest snapshot is not signed with this worker's key."""
        self.behind: set[str] = set()
        """Models whose newest snapshot is older than the one in use."""
        self.pinned: set[str] = set()
        """Models whose version in use is the one that an operator chose."""

    async def run(self) -> None:
        """Look for newer snapshots for ever."""
        told = False
        while True:
            try:
                await self.load()
                told = False
            except (RedisError, OSError) as error:
                # An outage is told once, not at each look.
                log.log(logging.DEBUG if told else logging.WARNING, "snapshots not read: %s", error)
                told = True
            await asyncio.sleep(self.settings.models.reload_interval / 1000)

    async def load(self) -> None:
        """Swap in every model whose version has changed."""
        for model, wanted in (await self._list_wanted()).items():
            # A pin may lead back, and so may the way from it.
            chosen = wanted.pinned or model in self.pinned
            if self.seen.get(model) == wanted.version or (not chosen and self._is_behind(model, wanted.version)):
                continue
            try:
                await self._use(model, wanted, chosen)
            except SnapshotRefused as error:
                self.seen[model] = wanted.version
                log.error("snapshot %s %d refused: %s", model, wanted.version, error)
            if self.seen.get(model) == wanted.version:
                (self.pinned.add if wanted.pinned else self.pinned.discard)(model)

    async def _list_wanted(self) -> dict[str, Wanted]:
        """What the settings pin wins over what an operator pinned, and that over the newest."""
        newest, pinned = await list_newest(self.redis, self.partitions), self.settings.models.pinned
        if pinned is not None:
            return {model: Wanted(tag, pinned, True) for model, (tag, _) in newest.items()}
        found = {model: Wanted(tag, version, False) for model, (tag, version) in newest.items()}
        for partition in range(self.partitions):
            tag = tag_source("examples", partition)
            found |= {model: Wanted(tag, at, True) for model, at in (await list_pins(self.redis, tag)).items()}
        return found

    async def _use(self, model: str, wanted: Wanted, chosen: bool) -> None:
        snapshot = await self._read(wanted.tag, model, wanted.version)
        if snapshot is None:
            # Replaced since its name was read; the next look finds the newer one.
            return
        self.seen[model] = wanted.version
        if await asyncio.to_thread(self.champions.swap, snapshot, pinned=chosen):
            self._report(snapshot)
        elif snapshot.kind == "outcome" and not snapshot.scoring:
            self.metrics.cold[model] = int(snapshot.metrics.get("matured", 0))

    def _is_behind(self, model: str, version: int) -> bool:
        """Whether a model is learned again and not yet as far as the one in use, which stays until then."""
        held = self.seen.get(model)
        if held is None or version > held:
            self.behind.discard(model)
            return False
        if model not in self.behind:
            self.behind.add(model)
            log.warning(
                "%s is learned again, now at version %d; %d stays in use until that is passed", model, version, held
            )
        return True

    async def _read(self, tag: Tag, model: str, version: int) -> Snapshot | None:
        try:
            return await read_snapshot(self.redis, tag, model, version, self.key)
        except SnapshotRefused:
            self.unsigned.add(model)
            raise

    def _report(self, snapshot: Snapshot) -> None:
        found = snapshot.metrics
        known = self.metrics.reports.get(snapshot.model)
        if known is not None:
            _tell_changes(known, snapshot)
        self.metrics.set_model(
            ModelReport(
                name=snapshot.model,
                version=snapshot.version,
                published_at=int(time.time() * 1000),
                log_loss=found.get("log_loss"),
                base_log_loss=found.get("base_log_loss"),
                calibration_ratio=found.get("calibration_ratio"),
                ece=found.get("ece"),
                auc=found.get("roc_auc"),
                matured=int(found.get("matured", 0)),
                examples=int(found.get("examples", 0)),
                champion=snapshot.champion,
                drifts=int(found.get("drifts", 0)),
                drift_severity=found.get("drift_severity", 0.0),
                shifts=int(found.get("shifts", 0)),
                psi=found.get("psi"),
                sampling_rate=snapshot.sampling[-1].rate if snapshot.sampling else 1.0,
                contestants=snapshot.by_contestant(),
            )
        )


def _tell_changes(known: ModelReport, snapshot: Snapshot) -> None:
    """Log what an operator wants to hear of: a drift, a shift, another champion."""
    name, metrics = snapshot.model, snapshot.metrics
    if metrics.get("shifts", 0) > known.shifts:
        log.warning(
            "%s: features have shifted, by an index of up to %.2f; nudge models report %s names them",
            name,
            metrics.get("shift_severity", 0.0),
            name,
        )
    if metrics.get("drifts", 0) > known.drifts:
        severity = metrics.get("drift_severity", 0.0)
        log.warning("%s: what the champion gets wrong has drifted, by %.3f; a fresh model contends", name, severity)
    if snapshot.champion != known.champion:
        log.info("%s: %s is the champion now, after %s", name, snapshot.champion, known.champion)
