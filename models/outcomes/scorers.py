"""What score workers load, whichever model made it."""

from __future__ import annotations

from typing import Final

import msgspec

from models.outcomes.f4_scorer import F4Scorer, F4Scoring
from models.outcomes.scorer import Coefficients, LinearScorer

Scorer = LinearScorer | F4Scorer

_decode: Final = msgspec.msgpack.Decoder(Coefficients | F4Scoring).decode


def open_scorer(data: bytes) -> Scorer:
    """The scorer that wrote `data`; raises msgspec.DecodeError or ValueError for anything else."""
    scoring = _decode(data)
    return LinearScorer(scoring) if isinstance(scoring, Coefficients) else F4Scorer(scoring)
