"""The student: hashed n-grams and one table of weights, for texts in any language of the training data.

Normalised texts come in, many at a time, and a `Sentiment` for each goes out, from sums of whole numbers: a score
depends on its text alone, to the bit, whatever shares its batch. Two hundred times as fast as the transformer.
"""

import hashlib
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from models.sentiment.ngrams import BUCKETS, Grams, extract
from models.sentiment.text import normalise
from models.sentiment.transformer import DIGITS, Sentiment, WeightsError

FOLDER: Final = Path(__file__).parent / "student_weights"
MODEL: Final = "student.npz"
DESCRIPTION: Final = "meta.json"
SOURCE: Final = "student"
AT_ONCE: Final = 256
"""Texts of one pass of `extract`: enough to hide NumPy's cost of a call, few enough to stay in the cache."""


class StudentMeta(msgspec.Struct, frozen=True):
    """What meta.json says that serving needs: logits are `scale` x weights / length + bias, temperature included.

    `thresholds` are the confidences, one a level of the cascade, below which an English text is better asked about.
    """

    labels: tuple[str, str, str]
    bias: tuple[float, float, float]
    scale: float
    thresholds: tuple[float, float, float, float, float]
    version: str
    sha256: str


class Student:
    """Multinomial logistic regression on hashed n-grams. Safe to call from several threads: nothing changes."""

    def __init__(self, table: npt.NDArray[np.int8], lengths: npt.NDArray[np.uint16], meta: StudentMeta) -> None:
        """Take weights (BUCKETS, 3) and what each n-gram adds to the squared length of a text (BUCKETS,)."""
        if table.shape != (BUCKETS, 3) or lengths.shape != (BUCKETS,):
            raise WeightsError(f"student: found {table.shape} and {lengths.shape}, expected {BUCKETS} rows")
        self._columns = [np.ascontiguousarray(column) for column in (*table.T, lengths)]
        self._meta = meta
        self.version = meta.version
        self.thresholds = meta.thresholds

    @classmethod
    def load(cls, folder: Path | None = None) -> "Student":
        """Open student.npz and meta.json in `folder` (default: what ships).

        Raises `WeightsError` when one is missing or unreadable, or the SHA-256 is not that of meta.json.
        """
        folder = folder or FOLDER
        try:
            meta = msgspec.json.decode((folder / DESCRIPTION).read_bytes(), type=StudentMeta)
            content = (folder / MODEL).read_bytes()
            found = hashlib.sha256(content).hexdigest()
            if found != meta.sha256 or meta.version != found[:12]:
                raise WeightsError(
                    f"{folder / MODEL}: SHA-256 {found}, expected {meta.sha256} (version {meta.version})"
                )
            with np.load(BytesIO(content), allow_pickle=False) as arrays:
                return cls(arrays["weights"], arrays["lengths"], meta)
        except WeightsError:
            raise
        except Exception as error:  # zipfile, NumPy and msgspec share no base class
            raise WeightsError(f"student in {folder} cannot be loaded: {error}") from error

    def score(self, text: str) -> Sentiment:
        """Score any text; it is normalised first."""
        return self.score_normal([normalise(text)])[0]

    def score_many(self, texts: Sequence[str]) -> list[Sentiment]:
        """Score texts in their order; they are normalised first."""
        return self.score_normal([normalise(text) for text in texts])

    def score_normal(self, lines: Sequence[str]) -> list[Sentiment]:
        """Score texts that `normalise` made. An empty one is neutral with confidence 1."""
        found: list[Sentiment] = []
        for start in range(0, len(lines), AT_ONCE):
            chunk = lines[start : start + AT_ONCE]
            logits = self.logits(chunk)
            found += [self._sentiment(*row) if line else self._empty() for line, row in zip(chunk, logits, strict=True)]
        return found

    def logits(self, lines: Sequence[str]) -> list[list[float]]:
        """Return the three calibrated logits of each normalised text."""
        grams = extract(lines)
        *weights, squares = (_sums(column, grams) for column in self._columns)
        # Element by element, so each is rounded as if alone; sums were whole numbers.
        factor = self._meta.scale / np.sqrt(np.maximum(squares, 1))
        columns = [sums * factor + bias for sums, bias in zip(weights, self._meta.bias, strict=True)]
        return np.stack(columns, axis=1).tolist()  # type: ignore[no-any-return]

    def _sentiment(self, *logits: float) -> Sentiment:
        top = max(logits)
        negative, neutral, positive = (math.exp(value - top) for value in logits)
        total = negative + neutral + positive
        return Sentiment(
            round((positive - negative) / total, DIGITS),
            round(1 / total, DIGITS),
            self._meta.labels[logits.index(top)],
            SOURCE,
            self.version,
        )

    def _empty(self) -> Sentiment:
        return Sentiment(0.0, 1.0, "neutral", SOURCE, self.version)


def _sums(column: npt.NDArray[np.int8] | npt.NDArray[np.uint16], grams: Grams) -> npt.NDArray[np.int64]:
    """Return the sum of the column over each text's n-grams."""
    running = np.zeros(len(grams.buckets) + 1, dtype=np.int64)
    np.cumsum(column[grams.buckets], dtype=np.int64, out=running[1:])
    sums: npt.NDArray[np.int64] = running[grams.starts + grams.counts] - running[grams.starts]
    return sums
