"""Predict: every frozen row scored once, by the models that were current when the batch began."""

from __future__ import annotations

import numpy as np

from models.lifecycle.registry import Lineup
from stream.stages.batch import Batch


def predict(batch: Batch, models: Lineup) -> None:
    """Fill `item.probability`, the predictions of the windows just opened, and the probabilities in the profiles.

    A cold outcome leaves no probability: nothing is made up.
    """
    scored = [item for item in batch.items if item.row is not None]
    if not scored:
        return
    rows = np.frombuffer(batch.rows, np.float64).reshape(len(scored), -1)
    for name in models.outcomes:
        scorer, version = models.outcomes[name]
        for item, probability in zip(scored, scorer.score(rows).tolist(), strict=True):
            item.probability[name] = probability
            if name == "conversion" and item.person is not None:
                item.person.conversion_probability = probability
                item.person.conversion_version = version
            for window in item.opened:
                if window.name == name:
                    window.prediction = probability
                    window.model_version = version
