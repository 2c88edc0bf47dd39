"""Accuracy, calibration and temperature from logits, in NumPy.

Logits are (texts, 3) in the order of `LABELS`, labels (texts,) indices into it.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

DIGITS: Final = 4
"""Of what `recover` returns; scores have no more."""

LABELS: Final = ("negative", "neutral", "positive")
Floats: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int64]
Measures: TypeAlias = dict[str, float | None]


def probabilities(logits: npt.ArrayLike, temperature: float = 1.0) -> Floats:
    """Return the softmax of `logits / temperature` by row.

    >>> probabilities([[0.0, 0.0]]).tolist()
    [[0.5, 0.5]]
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float64)


def without_neutral(logits: npt.ArrayLike) -> Floats:
    """Return `logits` with neutral ruled out, for texts that can only be negative or positive."""
    return np.where(np.array([False, True, False]), -1e4, np.asarray(logits, dtype=np.float64))


def accuracy(probability: Floats, labels: Labels) -> float:
    """Return the share of texts whose likeliest label is right."""
    return float((probability.argmax(axis=1) == labels).mean())


def macro_recall(probability: Floats, labels: Labels) -> float:
    """Return the mean over the labels that occur of their recall, TweetEval's measure for sentiment."""
    right = probability.argmax(axis=1) == labels
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def calibration_error(probability: Floats, labels: Labels, bins: int = 15) -> float:
    """Return the expected calibration error of the likeliest label, in equal-width bins (Guo et al. 2017)."""
    confidence = probability.max(axis=1)
    right = probability.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(float((confidence - right)[bin_of == b].sum())) for b in range(bins)]
    return sum(gaps) / len(labels)


def measure(logits: npt.ArrayLike, labels: Labels, *, two_class: bool) -> Measures:
    """Return `accuracy`, `binary_accuracy`, `macro_recall`, `ece` and the number of `texts`.

    `accuracy` is of three labels; `binary_accuracy` of the texts that are not neutral, with neutral ruled out, None
    where there are none. Where annotators knew no neutral (`two_class`), `macro_recall` and `ece` are with neutral
    ruled out too.
    """
    ruled = probabilities(without_neutral(logits))
    fair = ruled if two_class else probabilities(logits)
    polar = labels != LABELS.index("neutral")
    return {
        "accuracy": round(accuracy(probabilities(logits), labels), 4),
        "binary_accuracy": round(accuracy(ruled[polar], labels[polar]), 4) if polar.any() else None,
        "macro_recall": round(macro_recall(fair, labels), 4),
        "ece": round(calibration_error(fair, labels), 4),
        "texts": len(labels),
    }


def recover(score: float, confidence: float, label: str) -> tuple[float, float, float]:
    """Return the probabilities of negative, neutral and positive that a `Sentiment` was made of, as far as it tells.

    >>> recover(0.5, 0.6, "positive"), recover(-0.1, 0.7, "neutral")
    ((0.1, 0.3, 0.6), (0.2, 0.7, 0.1))
    """
    # score = positive - negative, and confidence is the probability of the label; the three make 1.
    if label == "neutral":
        positive = (1 - confidence + score) / 2
    else:
        positive = confidence if label == "positive" else confidence + score
    negative = positive - score
    found = (negative, 1 - negative - positive, positive)
    return tuple(max(0.0, round(value, DIGITS)) for value in found)  # type: ignore[return-value]


def negative_log_likelihood(probability: Floats, labels: Labels) -> float:
    """Return the mean negative log-likelihood in nats."""
    return float(-np.log(np.maximum(probability[np.arange(len(labels)), labels], 1e-12)).mean())


def fit_temperature(logits: npt.ArrayLike, labels: Labels) -> float:
    """Return the temperature with the least negative log-likelihood (Guo et al. 2017), to 0.01 between 0.3 and 5."""
    grid = np.arange(0.3, 5.0, 0.01)
    losses = [negative_log_likelihood(probabilities(logits, float(t)), labels) for t in grid]
    return round(float(grid[int(np.argmin(losses))]), 2)
