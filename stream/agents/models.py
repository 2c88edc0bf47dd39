"""Keeps the scorers of this worker at the newest snapshots, or at the version they are pinned to."""

from __future__ import annotations

import asyncio
import logging
import time

from redis.asyncio import Redis
from redis.exceptions import RedisError

from models.lifecycle.registry import Champions
from models.lifecycle.snapshot import Snapshot, SnapshotRefused
from stream.metrics import Metrics, ModelReport
from stream.settings import Settings
from stream.state.keys import Tag
from stream.state.snapshots import list_newest, read_snapshot

log = logging.getLogger(__name__)


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

    async def run(self) -> None:
        """Look for newer snapshots for ever."""
        while True:
            try:
                await self.load()
            except (RedisError, OSError) as error:
                log.warning("snapshots not read: %s", error)
            await asyncio.sleep(self.settings.models.reload_interval / 1000)

    async def load(self) -> None:
        """Swap in every model whose version has changed."""
        pinned = self.settings.models.pinned
        for model, (tag, newest) in (await list_newest(self.redis, self.partitions)).items():
            version = newest if pinned is None else pinned
            if self.seen.get(model) == version:
                continue
            try:
                snapshot = await self._read(tag, model, version)
                if snapshot is None:
                    # Replaced since its name was read; the next look finds the newer one.
                    continue
                self.seen[model] = version
                if await asyncio.to_thread(self.champions.swap, snapshot):
                    self._report(snapshot)
                elif snapshot.kind == "outcome" and not snapshot.scoring:
                    self.metrics.cold[model] = int(snapshot.metrics.get("matured", 0))
            except SnapshotRefused as error:
                self.seen[model] = version
                log.error("snapshot %s %d refused: %s", model, version, error)

    async def _read(self, tag: Tag, model: str, version: int) -> Snapshot | None:
        try:
            return await read_snapshot(self.redis, tag, model, version, self.key)
        except SnapshotRefused:
            self.unsigned.add(model)
            raise

    def _report(self, snapshot: Snapshot) -> None:
        found = snapshot.metrics
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
            )
        )
