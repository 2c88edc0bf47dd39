"""What score workers load, whichever model made it, and whether or not its probabilities are put right afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.outcomes.f4_scorer import F4Scorer, F4Scoring
from models.outcomes.recalibration import Parameters, bend
from models.outcomes.scorer import Coefficients, LinearScorer
from models.outcomes.trees_scorer import TreesScorer, TreesScoring
from schemas.trigger import Contribution

RawScorer = LinearScorer | F4Scorer | TreesScorer
RawScoring = Coefficients | F4Scoring | TreesScoring


class RecalibratedScoring(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="recalibrated"):
    """A scoring, and the map that its probabilities go through (`models.outcomes.recalibration.bend`)."""

    raw: RawScoring
    parameters: Parameters


class RecalibratedScorer:
    """A scorer whose probabilities are recalibrated: the order of any two rows is that of the `raw` one."""

    def __init__(self, raw: RawScorer, parameters: Parameters) -> None:
        """Score with `raw`, and send what it says through the map of `parameters`."""
        self.raw = raw
        self.parameters = parameters
        self.outcome, self.schema, self.names = raw.outcome, raw.schema, raw.names

    def score(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities, shape (n,), of `rows`, shape (n, columns); raises ValueError for another width."""
        # One by one: numpy's logarithm may round a value differently from one lane to the next.
        return np.array([bend(self.parameters, raw) for raw in self.raw.score(rows).tolist()], np.float64)

    def score_one(self, row: Sequence[float]) -> float:
        """Probability of one row: equal to `score` to the bit."""
        return bend(self.parameters, self.raw.score_one(row))

    def contributions(self, row: Sequence[float], k: int) -> tuple[Contribution, ...]:
        """Those of the `raw` scorer: log-odds before they are recalibrated."""
        return self.raw.contributions(row, k)

    def to_bytes(self) -> bytes:
        """The scoring as msgpack."""
        raw = self.raw.coefficients if isinstance(self.raw, LinearScorer) else self.raw.scoring
        return msgspec.msgpack.encode(RecalibratedScoring(raw=raw, parameters=self.parameters))


Scorer = RawScorer | RecalibratedScorer

_decode: Final = msgspec.msgpack.Decoder(RawScoring | RecalibratedScoring).decode


def open_scorer(data: bytes) -> Scorer:
    """The scorer that wrote `data`; raises msgspec.DecodeError or ValueError for anything else."""
    scoring = _decode(data)
    if isinstance(scoring, RecalibratedScoring):
        return RecalibratedScorer(_open_raw(scoring.raw), scoring.parameters)
    return _open_raw(scoring)


def _open_raw(scoring: RawScoring) -> RawScorer:
    if isinstance(scoring, Coefficients):
        return LinearScorer(scoring)
    return F4Scorer(scoring) if isinstance(scoring, F4Scoring) else TreesScorer(scoring)
