"""The stages in their order, as the score agent runs them and as a reference may run them too."""

from __future__ import annotations

from concurrent.futures import Executor
from time import perf_counter

from models.lifecycle.registry import Lineup
from stream.desk import Desk
from stream.settings import Settings
from stream.stages.batch import Batch
from stream.stages.decide import Decide
from stream.stages.decode import Decoder
from stream.stages.features import Features
from stream.stages.gate import Gate
from stream.stages.predict import Predict
from stream.stages.sentiment import score_texts


class Stages:
    """What a batch goes through between reading and commit. Holds options only, nothing of any batch."""

    def __init__(self, settings: Settings, partitions: int, desk: Desk | None, executor: Executor) -> None:
        self.decode = Decoder(settings, partitions)
        self.gate = Gate(settings)
        self.features = Features(settings, self.gate)
        self.predict = Predict(settings)
        self.decide = Decide(settings)
        self.desk = desk
        self.executor = executor

    async def run(self, batch: Batch, models: Lineup) -> dict[str, float]:
        """Take a decoded batch, its people loaded, to its entries; return the seconds that each stage took."""
        seconds: dict[str, float] = {}
        began = perf_counter()

        def lap(stage: str) -> None:
            nonlocal began
            now = perf_counter()
            seconds[stage], began = now - began, now

        self.gate(batch)
        lap("gate")
        await score_texts(batch, self.desk, self.executor)
        lap("sentiment")
        self.features(batch)
        lap("features")
        self.predict(batch, models)
        lap("predict")
        self.decide(batch, models)
        lap("decide")
        return seconds
