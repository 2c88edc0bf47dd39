"""What a model of an outcome does: it sees rows, learns them, and goes to bytes and back.

Seeing and learning are apart, because the label of a row comes hours or weeks after its prediction was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Sight(NamedTuple):
    """A row as a model saw it: the probability it gave, and what its combination was made of, if it has one."""

    prediction: float
    inputs: tuple[float, ...]


class Model(Protocol):
    """What can take part: a binary classifier that learns row by row."""

    def see(self, row: Sequence[float]) -> Sight:
        """Probability of a row, and what to bring back with its final label."""

    def learn(self, row: Sequence[float], label: bool, weight: float = 1.0) -> None:
        """Take a row in, as the label policy says: perhaps more than once, and before its label is known."""

    def combine(self, sight: Sight, label: bool, weight: float = 1.0) -> None:
        """Put right how the prediction is made, by the final label of a row; nothing for most models."""

    def to_bytes(self) -> bytes:
        """The whole state, from which the class of this model makes it again to the bit."""


class Restore(Protocol):
    """Makes a model of its bytes again."""

    def __call__(self, data: bytes, /) -> Model:
        """The model; raises msgspec.DecodeError or ValueError for other bytes."""
