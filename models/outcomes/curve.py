"""A learning curve: how well an outcome was predicted, block by block of the labels that matured.

Labels come in one at a time and go into blocks of equal length. When there are `BLOCKS` of them, every two become one
and blocks are twice as long from then on, so that a curve over ten million labels is as small as one over a thousand.
"""

from __future__ import annotations

from typing import Final

import msgspec

BLOCKS: Final = 64
"""Blocks that are kept at most."""
FIRST: Final = 16
"""Labels of a block at first."""


class Block(msgspec.Struct, array_like=True):
    """Sums over consecutive labels: how many, how many came true, what was said, and both losses in nats."""

    rows: int = 0
    labels: int = 0
    predictions: float = 0.0
    loss: float = 0.0
    base_loss: float = 0.0


class Point(msgspec.Struct, frozen=True):
    """One block of a curve: labels up to its end, labels in it, and its mean log-losses in nats.

    `calibration_ratio` is predictions / labels; None where no label of the block came true.
    """

    until: int
    rows: int
    log_loss: float
    base_log_loss: float
    calibration_ratio: float | None


class Curve(msgspec.Struct):
    """The blocks so far; all but the last hold `size` labels.

    >>> curve = Curve()
    >>> for n in range(1_025):
    ...     curve.add(0.5, n % 2, 0.7, 0.8)
    >>> len(curve.blocks), curve.size, curve.points()[-1].until
    (33, 32, 1025)
    """

    size: int = FIRST
    blocks: list[Block] = msgspec.field(default_factory=list)

    def add(self, prediction: float, label: int, loss: float, base_loss: float) -> None:
        """Take one matured label, the loss of its prediction and that of the base rate before it."""
        if not self.blocks or self.blocks[-1].rows >= self.size:
            self._begin()
        block = self.blocks[-1]
        block.rows += 1
        block.labels += label
        block.predictions += prediction
        block.loss += loss
        block.base_loss += base_loss

    def points(self) -> list[Point]:
        """One point a block, the oldest first."""
        found, until = [], 0
        for block in self.blocks:
            until += block.rows
            ratio = block.predictions / block.labels if block.labels else None
            found.append(Point(until, block.rows, block.loss / block.rows, block.base_loss / block.rows, ratio))
        return found

    def _begin(self) -> None:
        if len(self.blocks) == BLOCKS:
            pairs = zip(self.blocks[::2], self.blocks[1::2], strict=True)
            self.blocks = [_join(first, second) for first, second in pairs]
            self.size *= 2
        self.blocks.append(Block())


def _join(first: Block, second: Block) -> Block:
    return Block(
        first.rows + second.rows,
        first.labels + second.labels,
        first.predictions + second.predictions,
        first.loss + second.loss,
        first.base_loss + second.base_loss,
    )
