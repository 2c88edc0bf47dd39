"""Predict: every frozen row scored once, by the models that were current when the batch began."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.lifecycle.registry import Lineup
from stream.settings import Settings
from stream.stages.batch import Batch

FIELDS: Final = {"conversion": "conversion_probability", "click": "ctr", "churn": "churn_probability"}
"""Outcome -> field of the profile that holds its probability as of the latest event that was scored."""


class Predict:
    """The stage's options: built once, called for every batch."""

    def __init__(self, settings: Settings) -> None:
        self.inverted = frozenset(outcome.name for outcome in settings.outcomes if outcome.inverted)

    def __call__(self, batch: Batch, models: Lineup) -> None:
        """Fill `item.probability`, the predictions of the windows just opened, and the probabilities in the profiles.

        A cold outcome leaves no probability: nothing is made up. A window keeps what its model said, of the fulfilment;
        what is reported may be the contrary.
        """
        scored = [item for item in batch.items if item.row is not None]
        if not scored:
            return
        rows = np.frombuffer(batch.rows, np.float64).reshape(len(scored), -1)
        for name in models.outcomes:
            scorer, version = models.outcomes[name]
            field, inverted = FIELDS.get(name), name in self.inverted
            for item, chance in zip(scored, scorer.score(rows).tolist(), strict=True):
                item.probability[name] = reported = 1.0 - chance if inverted else chance
                if field is not None and item.person is not None:
                    setattr(item.person, field, reported)
                    if name == "conversion":
                        item.person.conversion_version = version
                for window in item.opened:
                    if window.name == name:
                        window.prediction = chance
                        window.model_version = version
