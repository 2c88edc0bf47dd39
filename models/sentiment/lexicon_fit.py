"""Learn the word table of `lexicon` by regularised multinomial logistic regression, in NumPy.

The same training texts as the transformer's come in, with neutral masked where the annotators knew none; a `Table`
goes out. Full-batch Adam on a convex loss: no seed, the same table every time.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from models.sentiment.corpus import LABELS, Labelled
from models.sentiment.evaluation import fit_temperature, probabilities
from models.sentiment.lexicon import Lexicon, Table, features

Floats: TypeAlias = npt.NDArray[np.float64]

MINIMUM_TEXTS = 3
MAXIMUM_WORDS = 5_000
PENALTY = 5e-5
ROUNDS = 300
RATE = 0.05


def fit(train: list[Labelled], validation: list[Labelled]) -> Table:
    """Return the table, its scale set so that it is calibrated on the three-class texts of `validation`."""
    vocabulary, flat, starts = _design([row.text for row in train])
    labels = np.array([row.label for row in train])
    mask = np.array([[0.0, -1e4 if row.two_class else 0.0, 0.0] for row in train])
    counts = np.bincount(labels, minlength=3)
    example_weight = (1 / np.sqrt(counts) / (1 / np.sqrt(counts)).mean())[labels] / len(labels)
    weights = _descend(flat, starts, labels, mask, example_weight, len(vocabulary) + 1)
    table = _table(vocabulary, weights, 1.0)
    three_class = [row for row in validation if not row.two_class]
    scorer = Lexicon(table, "")
    temperature = fit_temperature(
        [scorer.logits(row.text) for row in three_class], np.array([row.label for row in three_class])
    )
    return _table(vocabulary, weights, temperature)


def _design(texts: list[str]) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the vocabulary, the flat word indices of all texts (0: the bias, in each) and where each text starts."""
    found = [sorted(set(features(text))) for text in texts]
    names, counts = np.unique([word for words in found for word in words], return_counts=True)
    vocabulary = [str(name) for name in names[counts >= MINIMUM_TEXTS]]
    index = {word: i + 1 for i, word in enumerate(vocabulary)}
    rows = [[0, *(index[word] for word in words if word in index)] for words in found]
    starts = np.cumsum([0, *map(len, rows[:-1])])
    return vocabulary, np.array([i for row in rows for i in row]), starts


def _descend(
    flat: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    mask: Floats,
    example_weight: Floats,
    size: int,
) -> Floats:
    """Return weights (size, 3) after `ROUNDS` of Adam (Kingma and Ba 2015) with an L2 penalty on all but the bias."""
    weights, first, second = np.zeros((size, 3)), np.zeros((size, 3)), np.zeros((size, 3))
    text_of = np.repeat(np.arange(len(labels)), np.diff([*starts, len(flat)]))
    truth = np.eye(3)[labels]
    for step in range(1, ROUNDS + 1):
        error = (probabilities(np.add.reduceat(weights[flat], starts) + mask) - truth) * example_weight[:, None]
        columns = [np.bincount(flat, error[text_of, c], minlength=size) for c in range(3)]
        gradient = np.stack(columns, axis=1).astype(np.float64)
        gradient[1:] += PENALTY * weights[1:]
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weights -= RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weights


def _table(vocabulary: list[str], weights: Floats, temperature: float) -> Table:
    scaled = np.round(weights / temperature, 3)
    heaviest = np.argsort(-np.abs(scaled[1:]).max(axis=1), kind="stable")[:MAXIMUM_WORDS]
    words = {vocabulary[i]: _triple(scaled[i + 1]) for i in sorted(heaviest.tolist())}
    return Table((LABELS[0], LABELS[1], LABELS[2]), _triple(scaled[0]), words)


def _triple(row: Floats) -> tuple[float, float, float]:
    negative, neutral, positive = row.tolist()
    return negative, neutral, positive
