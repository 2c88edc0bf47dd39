"""The scorer of last resort: a table of some thousand words with a logistic weight for each label.

It answers when the transformer cannot. A normalised text comes in, a `Sentiment` with source "lexicon" goes out. It
knows English words and the nearest negation, nothing of sentences; its accuracy stands in report.json.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from models.sentiment.evaluation import probabilities
from models.sentiment.transformer import WEIGHTS, Sentiment, WeightsError, sentiment

FILE: Final = "lexicon.json"
NEGATED_WORDS: Final = 3
_TOKEN: Final = re.compile(r"n't\b|[^\W_]+?(?=n't\b)|[^\W_]+|[^\w\s]")
_NEGATIONS: Final = frozenset({"not", "no", "never", "n't", "cannot", "without", "hardly", "barely", "neither", "nor"})
_STOPS: Final = frozenset(".,;:!?()")


class Table(msgspec.Struct, frozen=True):
    """The learned numbers: a bias and, per word, a weight for negative, neutral and positive."""

    labels: tuple[str, str, str]
    bias: tuple[float, float, float]
    words: dict[str, tuple[float, float, float]]


class Lexicon:
    """Scores one text by the sum of its words' weights, each word counted once."""

    def __init__(self, table: Table, version: str) -> None:
        self._table = table
        self.version = version

    @classmethod
    def load(cls, folder: Path | None = None) -> "Lexicon":
        """Read lexicon.json from `folder` (default: what ships). Raises `WeightsError` when it cannot be read."""
        path = (folder or WEIGHTS) / FILE
        try:
            content = path.read_bytes()
            return cls(msgspec.json.decode(content, type=Table), hashlib.sha256(content).hexdigest()[:12])
        except (OSError, msgspec.MsgspecError) as error:
            raise WeightsError(f"word table {path} cannot be read: {error}") from error

    def logits(self, line: str) -> list[float]:
        """Return the three logits of a normalised text."""
        negative, neutral, positive = self._table.bias
        words = self._table.words
        # Sorted, so that the sum's last bit does not hang on the order of a set.
        for feature in sorted(set(features(line))):
            weight = words.get(feature)
            if weight is not None:
                negative, neutral, positive = negative + weight[0], neutral + weight[1], positive + weight[2]
        return [negative, neutral, positive]

    def score_normal(self, line: str) -> Sentiment:
        """Score a text that `normalise` made. An empty one is neutral with confidence 1."""
        if not line:
            return Sentiment(0.0, 1.0, "neutral", "lexicon", self.version)
        return sentiment(probabilities(np.array(self.logits(line))), self._table.labels, "lexicon", self.version)


def features(line: str) -> Iterator[str]:
    """Yield the words and signs of a text in small letters; the three words after a negation carry `not_`.

    >>> list(features("Isn't bad at all, good"))
    ['is', "n't", 'not_bad', 'not_at', 'not_all', ',', 'good']
    """
    negated = 0
    for token in _TOKEN.findall(line.lower().replace("\u2019", "'").replace(" n't", "n't")):
        if token in _NEGATIONS:
            negated = NEGATED_WORDS
            yield token
        elif token in _STOPS:
            negated = 0
            yield token
        else:
            yield f"not_{token}" if negated else token
            negated = max(0, negated - 1)
